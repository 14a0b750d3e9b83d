"""The tutorial works as it is written: its files are written, its commands run and its code executed, in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import reflect_rl as rr

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def run(command: str) -> str:
    """What a command of the page prints; nobody types anything."""
    words = shlex.split(command)
    assert words[0] == "reflect-rl"
    done = subprocess.run(
        [sys.executable, "-m", "reflect_rl", *words[1:]],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=400,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_a_world_of_ones_own_to_a_trained_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = ""
    for file, language, content in re.findall(
        r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL
    ):
        if file:
            with Path(file).open("a", encoding="utf-8") as written:
                written.write(content)
        elif language == "sh":
            for command in content.splitlines():
                said = run(command)
        elif language == "python":
            names: dict[str, Any] = {}
            exec(content, names)  # noqa: S102  our own page
            assert names["ended"]
        elif "promise" in content or content.startswith("Fetch"):
            assert content.rstrip("\n> ") in said  # what the page shows is what is printed
    results = rr.Run(Path("runs/lift")).results
    assert results["agreement"] > 0.7
    assert results["panels"]["test"]["greedy"]["success"] > 0.8
    assert "Next stop" in capsys.readouterr().out
    assert "no expert" not in run("reflect-rl check lift:TaughtLift")
