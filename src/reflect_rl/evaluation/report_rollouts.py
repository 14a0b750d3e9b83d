"""A page about a file of rollouts of any size, or about the evaluation of an agent: what was played, step by step."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflect_rl.evaluation.report import EPISODE_BYTES, fit, render
from reflect_rl.evaluation.report_selection import evenly
from reflect_rl.intervals import wilson
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.outputs import output_file
from reflect_rl.runs.rollouts import episode_heads, read_episode

MOST_GROUPS = 200
"""Rows of the table; a file may hold the rollouts of many agents."""


def report_rollouts(
    path: Path, out: Path, progress: Progress, results: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Write a page about the episodes of a file; return how many there are, and how many it shows step by step.

    All episodes are counted; those shown are spread evenly over the file, as many as fit. results: the content of an
    agent's results.json.

    Raises RunFolderError if the file is missing or damaged, or the page cannot be written.
    """
    positions, at, sums = array("Q"), 0, defaultdict[tuple[str, str], list[float]](lambda: [0.0] * 4)
    size = path.stat().st_size if path.is_file() else 0
    with progress.bar("report", size, "bytes") as bar:
        for position, head in episode_heads(path):
            bar.update(position - at)
            at = position
            positions.append(position)
            figures = 1, bool(head.get("success")), head.get("return") or 0, head.get("length") or 0
            key = str(head.get("agent", "")), place_of(head)
            sums[key] = [total + each for total, each in zip(sums[key], figures, strict=True)]
        bar.update(size - at)
    wanted = max(2, EPISODE_BYTES * max(1, len(positions)) // max(1, size))
    episodes = (read_episode(path, position) for position in evenly(positions, wanted))
    shown = fit(({**episode, "mode": place_of(episode)} for episode in episodes), EPISODE_BYTES)
    data = {
        "kind": "rollouts",
        "name": out.parent.resolve().name if results else path.name,
        "results": results,
        "groups": [_row(*each) for each in list(sums.items())[:MOST_GROUPS]],
        "groups_total": len(sums),
        "episodes": {"total": len(positions), "shown": shown},
    }
    page = render(data, title=f"{data['name']} · rollouts · reflect-rl")
    RunFolder(out.parent).write_text(out.name, page)
    return {"episodes": len(positions), "shown": len(shown)}


def rollouts_page(path: Path) -> Path:
    """The page beside a file of rollouts. Raises OutputError if something else is there."""
    name = path.stem if path.suffix in (".jsonl", ".ndjson", ".json") else path.name  # a.v1 and a.v2 get a page each
    return output_file(path.with_name(f"{name}.html"), "The page", [path], _is_page).path


def _is_page(path: Path) -> bool:
    return " · rollouts · reflect-rl</title>" in path.read_text(encoding="utf-8", errors="replace")[:5000]


def place_of(head: Mapping[str, Any]) -> str:
    """Where an episode was played, such as "evaluate test greedy" or "agent test trial 2"."""
    trial = f"trial {head['trial']}" if (head.get("trial") or 1) > 1 else None
    parts = head.get("source"), head.get("panel"), trial or head.get("mode")
    return " ".join(str(part) for part in parts if part) or "episodes"


def _row(key: tuple[str, str], sums: list[float]) -> dict[str, Any]:
    agent, place = key
    episodes, wins, returns, steps = sums
    return {
        "agent": agent,
        "place": place,
        "episodes": int(episodes),
        "success": wins / episodes,
        "interval": wilson(wins, int(episodes)),
        "return_mean": returns / episodes,
        "steps_mean": steps / episodes,
    }
