"""The report's view of the select stage: the map of the pool, and the objective by number of picks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

Item = TypeVar("Item")
Row = Mapping[str, Any]

MAP_BYTES = 110_000
"""Maximum bytes of the map's points and texts; once used up, further points have no text."""


def selection_view(rows: Sequence[Row], points: Sequence[Row], manifest: Row, most: int) -> dict[str, Any]:
    """The page's data about a selection. Missing values are None.

    rows, points: of selection.jsonl and selection_map.jsonl. manifest: the stage's, or {}. most: maximum points of the
    curve.
    """
    counts, settings = manifest.get("counts") or {}, manifest.get("settings") or {}
    strategies = list(dict.fromkeys(str(row["strategy"]) for row in rows if row.get("strategy") is not None))
    strategy = ", ".join(strategies) or None
    gains = [_number(row.get("gain")) for row in rows]
    objective = _number(counts.get("objective"))
    return {
        "strategy": strategy,
        "embedding": settings.get("select.embedding"),
        "budget": settings.get("annotate.reflections"),
        "pool": counts.get("pool"),
        "distinct": counts.get("pool_distinct"),
        "picked": len(rows),
        "objective": objective,
        "certificate": _number(counts.get("certificate")),
        "curve": evenly(_curve(strategy, gains, objective), most),
        "map": _map(points, gains, [counts.get("variance_x"), counts.get("variance_y")]) if points else None,
    }


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` evenly spaced items, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _curve(strategy: str | None, gains: list[float | None], objective: float | None) -> list[tuple[int, float]]:
    """(number of picks, their objective); empty for a strategy without an objective."""
    if strategy == "facility-location":
        # Counted back from the end: the objective is exact, but early gains from nearest neighbours are not.
        added = list(accumulate(gain or 0.0 for gain in gains))
        offset = 0.0 if objective is None else objective - added[-1]
        return [(number, offset + value) for number, value in enumerate(added, 1)]
    if strategy == "k-center":
        # Each pick is the farthest from those before it, and its gain is their radius.
        radii = [*gains[1:], objective]
        return [(number, radius) for number, radius in enumerate(radii, 1) if radius is not None]
    return []


def _map(points: Sequence[Row], gains: list[float | None], variance: list[float | None]) -> dict[str, Any]:
    """Columns, so that keys are not repeated at each point. Texts are line numbers, since states share lines."""
    ranks = [point.get("rank") for point in points]
    columns: dict[str, Any] = {
        "variance": variance,
        "x": [point.get("x") for point in points],
        "y": [point.get("y") for point in points],
        "rank": ranks,
        "gain": [gains[rank] if rank is not None and rank < len(gains) else None for rank in ranks],
    }
    room = MAP_BYTES - len(json.dumps(columns, separators=(",", ":")))
    lines, texts = _interned((str(point.get("text") or "") for point in points), room)
    return {**columns, "lines": lines, "texts": texts}


def _interned(texts: Iterable[str], room: int) -> tuple[list[str], list[list[int] | None]]:
    """(distinct lines, each text as a list of line numbers); None for texts beyond `room` bytes."""
    numbers: dict[str, int] = {}
    found: list[list[int] | None] = []
    for text in texts:
        lines = text.split("\n")
        # The page escapes each "<" as six characters.
        new = sum(len(json.dumps(line)) + 5 * line.count("<") + 1 for line in set(lines) if line not in numbers)
        room -= new + 6 * len(lines) + 3
        if room < 0:
            found.append(None)
            continue
        found.append([numbers.setdefault(line, len(numbers)) for line in lines])
    return list(numbers), found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
