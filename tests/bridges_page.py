"""docs/bridges.md run as it is written: its files are written, its commands and code run, on a free port."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "bridges.md").read_text(encoding="utf-8")
WAIT = 240
"""Seconds after which something counts as hanging, on a busy machine too."""


def python_of(library: str) -> str:
    """The Python that `make bridges` gave a library; skips the test where there is none."""
    found = ROOT / f".venv-{library}" / "bin" / "python"
    if not found.exists():
        pytest.skip(f"{library} is not installed in .venv-{library}: make bridges")
    return str(found)


def environment(python: str = sys.executable) -> dict[str, str]:
    """Environment variables for a command in which `python` is this one, and imports the library of this checkout."""
    given = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, given)) if python == sys.executable else given[0],
        "OMP_NUM_THREADS": "1",
    }


@contextmanager
def running(command: list[str], folder: Path, port: int, python: str = sys.executable) -> Iterator[None]:
    """A server of ours or of another library, once it answers /health; stopped in the end."""
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment(python), stdout=log, stderr=log)
        try:
            given_up = time.monotonic() + WAIT
            while not _is_healthy(port):
                said = (folder / "server.log").read_text()
                assert server.poll() is None, said
                assert time.monotonic() < given_up, said
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait(WAIT)


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def run(command: list[str], folder: Path, python: str = sys.executable) -> str:
    """What a command prints."""
    done = subprocess.run(
        command, cwd=folder, env=environment(python), capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Section:
    """A section of the page. folder: where its files are written. port: takes the place of 8000."""

    def __init__(self, title: str, folder: Path, port: int = 8000) -> None:
        text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0].replace("8000", str(port))
        self._folder = folder
        pattern = r"(?:<!-- (file|run): (\S+) -->\n)?```(\w+)\n(.*?)^```"
        self._blocks = re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL)
        assert self._blocks, title

    def write_files(self) -> None:
        for kind, name, _, content in self._blocks:
            if kind == "file":
                (self._folder / name).write_text(content, encoding="utf-8")

    def marked(self, language: str) -> list[str]:
        """The blocks that the page has run by the Python of the library."""
        return [content for kind, _, known, content in self._blocks if kind == "run" and known == language]

    def command(self, begins: str) -> list[str]:
        """The one command of the page that begins like this."""
        lines = [line for _, _, known, content in self._blocks if known == "sh" for line in content.splitlines()]
        (found,) = (line for line in lines if line.startswith(f"reflect-rl {begins}"))
        return shlex.split(found)[1:]

    def reflect_rl(self, begins: str, python: str = sys.executable) -> str:
        """What a command of the page prints."""
        return run([python, "-m", "reflect_rl", *self.command(begins)], self._folder, python)
