"""Long comparisons of the engines, kept in a file and resumed game by game."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reflect_rl.envs.alfworld.real import RealEngineError
from reflect_rl.envs.alfworld.verify import Difference, Load, Plan, Report, verify
from reflect_rl.envs.alfworld.verify_dropin import DropinPlan

AnyPlan = Plan | DropinPlan
HEAD = b'{"plan": '
"""How a file of reports begins."""


Compare = Callable[..., Iterator[Report]]
"""`verify`, or another comparison that takes (load, names, plan, **options)."""


def sweep(
    path: str | Path, games: Sequence[str], plan: AnyPlan, *, compare: Compare = verify, load: Load, **options: Any
) -> Iterator[Report]:
    """`verify` with its reports kept in a file, so that only games without a report are compared.

    path: a file of JSON lines, of which the first states the plan. compare: what makes the reports; load, options: its
    arguments. Yields the file's reports first. Raises RealEngineError if it belongs to another plan or is damaged.
    """
    file = Path(path)
    known = {}
    if file.exists() and file.stat().st_size > 0:
        known = read_reports(file, plan)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"plan": asdict(plan)}, allow_nan=False) + "\n", encoding="utf-8")
    yield from (known[game] for game in games if game in known)
    left = [game for game in games if game not in known]
    with file.open("a", encoding="utf-8") as stream:
        for report in compare(load, left, plan, **options):
            stream.write(json.dumps(asdict(report), allow_nan=False) + "\n")
            stream.flush()
            yield report


def holds_reports(file: Path) -> bool:
    """Whether a file was begun by `sweep`."""
    with file.open("rb") as stream:
        return stream.read(len(HEAD)) == HEAD


def read_reports(file: Path, plan: AnyPlan) -> dict[str, Report]:
    """The reports of a sweep's file by game. A last line that was cut off is removed from the file."""
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    head, *lines = whole.split(b"\n")[:-1] or [b""]
    try:
        same = json.loads(head)["plan"] == json.loads(json.dumps(asdict(plan), allow_nan=False))
        reports = [_report(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise RealEngineError(f"{file} is not a file of reports, or is damaged ({error}). Name another one.") from error
    if not same:
        raise RealEngineError(
            f"{file} holds reports of another plan ({head.decode()}). Name another file, or use that plan."
        )
    if whole != data:
        with file.open("r+b") as stream:
            stream.truncate(len(whole))
    return {report.game: report for report in reports}


def _report(data: dict[str, Any]) -> Report:
    data["differences"] = [Difference(**each) for each in data["differences"]]
    return Report(**data)


@dataclass
class Total:
    """What a number of reports add up to."""

    games: int = 0
    same: int = 0
    states: int = 0
    wins: int = 0
    differences: int = 0
    errors: int = 0
    real_steps: int = 0
    real_step_seconds: float = 0.0
    real_load_seconds: float = 0.0

    def add(self, report: Report) -> None:
        """Count one more report."""
        self.games += 1
        self.same += report.same
        self.differences += len(report.differences)
        self.errors += len(report.errors)
        for name in ("states", "wins", "real_steps", "real_step_seconds", "real_load_seconds"):
            setattr(self, name, getattr(self, name) + getattr(report, name))

    @property
    def real_steps_per_second(self) -> float:
        """Steps of the real engine a second of its own time, loading apart."""
        return self.real_steps / self.real_step_seconds if self.real_step_seconds else 0.0
