"""A pipeline of three toy stages: what runs, what it writes and how it is killed is known."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflect_rl.config import parse_settings
from reflect_rl.errors import RunFolderError
from reflect_rl.pipeline.runner import run_stages
from reflect_rl.players.context import Context, StageFunction
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import Stage


def gather(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    _count(run, "gather")
    run.write_jsonl("episodes.jsonl", [{"episode": n} for n in range(context.settings.collect.episodes)])
    return {"episodes": context.settings.collect.episodes}


def train(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Ten units of work, each remembered; with WAIT in the folder it stops halfway for good."""
    _count(run, "train")
    episodes = len(run.read_jsonl("episodes.jsonl", dict))
    done = run.read_json("checkpoints/train/state.json") if (run / "checkpoints/train/state.json").exists() else []
    for unit in range(len(done), 10):
        done.append(unit * episodes * context.settings.rl.lr)
        run.write_json("checkpoints/train/state.json", done)
        if unit == 5 and (run / ".wait").exists():
            time.sleep(60)
    with run.replacing("policy") as folder:
        folder.mkdir()
        (folder / "weights").write_text(repr(done))
    return {"started_at": len(done)}


def judge(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    _count(run, "judge")
    run.write_json("results.json", {"length": len((run / "policy/weights").read_text())})
    return {}


def forgetful(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    return {}


def stopped(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Writes its output, and fails after it."""
    gather(run, context, progress)
    raise RunFolderError("the game server is down")


def down(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    raise RunFolderError("the game server is down")


def _count(run: RunFolder, stage: str) -> None:
    with (run / ".calls").open("a") as file:
        file.write(f"{stage}\n")


@dataclass(frozen=True, slots=True)
class Toy(Stage):
    does: StageFunction = gather


TOYS = (
    Toy("gather", ("collect",), outputs=("episodes.jsonl",)),
    Toy("train", ("rl",), ("episodes.jsonl",), ("policy",), scratch=("checkpoints/train",), does=train),
    Toy("judge", ("evaluate",), ("policy",), ("results.json",), does=judge),
)


class Heard(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")

    @property
    def text(self) -> str:
        return "\n".join(self.said)


def go(out: Path, stages: Sequence[Toy] = TOYS, heard: Heard | None = None, **options: Any) -> list[str]:
    """Run the toy pipeline; the stages that really ran. Settings by dotted name, pipeline options by theirs."""
    own = {name: options.pop(name) for name in ("store", "until", "only", "force") if name in options}
    overrides = {name.replace("__", "."): value for name, value in options.items()}
    calls = out / ".calls"
    before = len(calls.read_text().split()) if calls.exists() else 0
    does = {stage.name: stage.does for stage in stages}
    run_stages(parse_settings({}, overrides), out, heard or Heard(), does.__getitem__, stages=stages, **own)
    return calls.read_text().split()[before:] if calls.exists() else []


KILLED = "import sys; sys.path.insert(0, sys.argv[2]); import toy_stages as t; t.go(t.Path(sys.argv[1]))"


def killed_in_training(out: Path) -> None:
    """Run the toys in a process of their own and SIGKILL it in the middle of training."""
    out.mkdir()
    (out / ".wait").touch()
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out), str(Path(__file__).parent)])
    state = out / "checkpoints/train/state.json"
    deadline = time.monotonic() + 30
    while not (state.exists() and len(RunFolder(out).read_json("checkpoints/train/state.json")) == 6):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (out / ".wait").unlink()
