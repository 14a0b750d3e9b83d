"""What the tests of agents read of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from end_to_end import timeless
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.rollouts import each_episode


def episodes(run: RunFolder) -> list[dict[str, Any]]:
    """Without times, in the order of the panels."""
    rows = [timeless(row) for row in each_episode(run / "episodes.jsonl")]
    return sorted(rows, key=lambda row: (row["panel"], row["number"], row["trial"]))


def played(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[int], str]]:
    return [(row["task"], [step["choice"] for step in row["steps"]], row["stop"]) for row in rows]
