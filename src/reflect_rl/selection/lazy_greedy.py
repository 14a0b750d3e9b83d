"""Lazy greedy (Minoux 1978): gains never grow, so an outdated gain is an upper bound of the current one.

Items are kept in a heap by their last known gain. The first is evaluated again; if it still comes first, it is the
greedy choice. Gains are whole numbers (see `grid`), so that "equal" means equal, and the lowest index wins then.
"""

from __future__ import annotations

import heapq
from typing import Protocol

import numpy as np

from reflect_rl.selection.picks import Task


class Coverage(Protocol):
    """The state of a facility location objective: distinct points, and how well each is represented so far."""

    def gains_M(self) -> np.ndarray:
        """An upper bound of what each distinct point would add now; int64."""
        ...

    def gain(self, point: int) -> int:
        """What a point would add now, exactly."""
        ...

    def take(self, point: int) -> None:
        """Choose a point."""
        ...


def lazy_greedy(
    coverage: Coverage, of_N: np.ndarray, bonus_N: np.ndarray, task: Task, what: str = "picks"
) -> tuple[np.ndarray, np.ndarray]:
    """(indices, gains) of the greedy choice.

    of_N: the distinct point of each item. bonus_N: int64, what an item adds whatever else is chosen.
    """
    bounds_N = coverage.gains_M()[of_N] + bonus_N
    items = np.flatnonzero(task.open_N)
    heap = list(zip((-bounds_N[items]).tolist(), items.tolist(), strict=True))
    heapq.heapify(heap)
    points, bonus = of_N.tolist(), bonus_N.tolist()
    indices: list[int] = []
    gains: list[int] = []
    with task.progress.bar(what, task.budget, "picks") as bar:
        while len(indices) < task.budget:
            bound, item = heap[0]
            if not task.room.open(item):
                heapq.heappop(heap)
                continue
            gain = bonus[item]
            if -bound > gain:  # else it cannot fall any further
                gain += coverage.gain(points[item])
            if -gain > bound and len(heap) > 1 and (-gain, item) > min(heap[1:3]):
                heapq.heapreplace(heap, (-gain, item))
                continue
            heapq.heappop(heap)
            coverage.take(points[item])
            task.room.take(item)
            indices.append(item)
            gains.append(gain)
            bar.update()
    return np.array(indices, np.int64), np.array(gains, np.int64)
