"""Whole runs of the real command line, small enough for tests, each in a process of its own that can be killed.

A fork server has the heavy libraries loaded already, so that a process costs only what it does. Where a process dies is
counted in calls, never in seconds: the same kill hits the same place every time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

LIMIT = 240
"""Seconds after which a run counts as hanging, on a busy machine too."""
SMALL_MODEL = {"width": 16, "layers": 1, "heads": 2}
SMALL: dict[str, Any] = {
    "collect.episodes": 40,
    "annotate.actions": 40,
    "annotate.reflections": 60,
    **{f"{who}.model.{key}": value for who in ("reflector", "policy") for key, value in SMALL_MODEL.items()},
    "reflector.max_new_tokens": 6,
    **{
        f"{who}_sft.{key}": value for who in ("reflector", "policy") for key, value in {"steps": 10, "batch": 8}.items()
    },
    "rl.iterations": 2,
    "rl.episodes": 32,
    "rl.replay": 4,
    "rl.curriculum": "mix",
    "evaluate.sampled_episodes": 1,
    "evaluate.shown_episodes": 2,
    "compute.threads": 1,
}
"""A run of the real taxi in a few seconds: too small to learn anything, but through every stage."""
SAVE_EVERY = 4
"""Steps of a warm-up between checkpoints; the library's own is more than a small warm-up has."""
TIMES = {"seconds", "panel_seconds"}

processes = get_context("forkserver")
processes.set_forkserver_preload(
    [
        "reflect_rl.training.sft",
        "reflect_rl.training.rl",
        "reflect_rl.evaluation.evaluate",
        "reflect_rl.cli.app",
        "transformers.models.gpt2.modeling_gpt2",
    ]
)


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL at the start of the `number`-th call of `target` ("module:name" or "module:Class.name").

    Only calls count whose first argument has `where` in its text. `after`: at the end of that call instead.
    """

    target: str
    number: int = 1
    where: str = ""
    after: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code (-9: killed) and what it wrote."""

    code: int
    out: str
    err: str


def options(overrides: dict[str, Any] | None = None) -> list[str]:
    """The small settings with these overrides, as command-line options."""
    return [f"--{key}={json.dumps(value)}" for key, value in (SMALL | (overrides or {})).items()]


def run_small(out: Path, overrides: dict[str, Any] | None = None, kill: Kill | None = None, *more: str) -> Ended:
    """`reflect-rl run taxi` with small settings."""
    return reflect_rl("run", "taxi", "--out", str(out), *more, *options(overrides), kill=kill)


def reflect_rl(
    *arguments: str, cwd: Path | None = None, kill: Kill | None = None, after: float | None = None, **limits: int
) -> Ended:
    """Run a command line in a process of its own.

    after: SIGKILL after so many seconds, if it has not ended by then. limits: resource limits, such as
    RLIMIT_FSIZE=1000.
    """
    with TemporaryDirectory() as folder:
        paths = Path(folder) / "out", Path(folder) / "err"
        for path in paths:
            path.touch()  # a process may be killed before it has opened them
        process = processes.Process(target=_child, args=(arguments, cwd or folder, paths, kill, limits))
        process.start()
        process.join(LIMIT if after is None else after)
        if process.exitcode is None:
            process.kill()
            process.join()
            if after is not None:
                return Ended(-signal.SIGKILL, *(path.read_text(errors="replace") for path in paths))
            raise TimeoutError(f"{arguments} did not end within {LIMIT} s: {paths[1].read_text()}")
        return Ended(process.exitcode, *(path.read_text(errors="replace") for path in paths))


def _child(
    arguments: tuple[str, ...], cwd: Path, paths: tuple[Path, Path], kill: Kill | None, limits: dict[str, int]
) -> None:
    for number, path in enumerate(paths, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    os.chdir(cwd)
    from reflect_rl.__main__ import run_command
    from reflect_rl.training import fit

    fit.SAVE_EVERY = SAVE_EVERY
    gc.freeze()  # each stage ends with a collection, which need not look at all the libraries
    if kill:
        arm(kill)
    for name, limit in limits.items():
        limit_resource(name, limit)
    sys.exit(run_command(list(arguments)))


def arm(kill: Kill) -> None:
    """Let this process die as `kill` says."""
    module, _, path = kill.target.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, name, _deadly(getattr(owner, name), kill))


def _deadly(function: Callable[..., Any], kill: Kill) -> Callable[..., Any]:
    calls = 0

    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += not kill.where or kill.where in str(args[0])
        if calls == kill.number and not kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == kill.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


def limit_resource(name: str, limit: int) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond the limit is an error, not a signal
    resource.setrlimit(getattr(resource, name), (limit, limit))


def contents(folder: Path) -> dict[str, Any]:
    """Everything a run folder promises, by file name: bytes; what is JSON, without the times.

    Left out: the lock, the memo (a cache, in the order of whoever wrote it), and the sums in the manifests over files
    that hold times.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {
        str(path.relative_to(folder)): _content(path)
        for path in files
        if not path.name.startswith("reflections.sqlite")
    }


def _content(path: Path) -> Any:
    if path.parent.name == "manifests":
        manifest = json.loads(path.read_text())
        manifest["counts"].pop("bytes", None)  # of a page that shows times
        return {key: manifest[key] for key in ("stage", "settings", "versions", "counts")}
    if path.name in ("results.json", "guard.json"):
        return timeless(json.loads(path.read_text()))
    if path.name == "metrics.jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == "report.html":
        page = path.read_text()
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
        assert data
        shown = timeless(json.loads(data[1]))
        return {key: value for key, value in shown.items() if key not in ("name", "manifests")}
    return path.read_bytes()


def timeless(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: timeless(value) for key, value in data.items() if key not in TIMES}
    return [timeless(value) for value in data] if isinstance(data, list) else data


_made: dict[str, Path] = {}


def reference(factory: pytest.TempPathFactory) -> Path:
    """A finished small run, made once for all tests: only to be read."""
    if "run" not in _made:
        out = factory.mktemp("reference") / "run"
        ended = run_small(out)
        assert ended.code == 0, ended.err
        _made["run"] = out
    return _made["run"]


def differences(one: Path, other: Path) -> list[str]:
    """The files that differ between two run folders, or are in one of them only."""
    left, right = contents(one), contents(other)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def leftovers(folder: Path) -> list[str]:
    """What a killed process left behind and nobody cleaned up."""
    with suppress(FileNotFoundError):
        return [
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if (path.name.startswith(".") and path.name != ".lock") or path.parent.name == "checkpoints"
        ]
    return []


def refused(ended: Ended, *parts: str) -> str:
    """The one message, which has all of these parts in it."""
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err, ended.err
    assert ended.out == "", ended.out
    _, found, message = f"\n{ended.err}".partition("\nerror: ")
    assert found, ended.err
    assert "\nerror: " not in message, message
    for part in parts:
        assert part in message, message
    return message


def files(folder: Path) -> dict[str, bytes]:
    """Every file, but for the lock and the memo, which is only a cache."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and not path.name.startswith("reflections.sqlite")
    }


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def used(disk: Path) -> int:
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize
