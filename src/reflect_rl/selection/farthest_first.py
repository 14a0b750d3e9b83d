"""Farthest-first traversal, a slice of the pool at a time, with the same picks as the plain loop.

An item's closeness to its nearest centre only grows, so an outdated value is a lower bound. The items that seem
farthest form a slice, which is compared with the centres that it has not seen. The farthest item of the slice is the
next pick as long as no item outside can be farther. One matrix product gives all closeness within a slice, and items
near a centre are never examined again.
"""

from __future__ import annotations

import numpy as np

from reflect_rl.selection.grid import Grid
from reflect_rl.selection.picks import Task

SMALLEST, LARGEST = 2048, 16384
"""Items of a slice before it is brought up to date."""
MOST = 3072
"""Items of a slice afterwards: 36 MiB of closeness."""
PART = 2048


class FarthestFirst:
    """One run. near_N: closeness to the nearest of the first seen_N centres."""

    def __init__(self, grid: Grid, task: Task) -> None:
        self.grid, self.task = grid, task
        self.norms_N = grid.norms_N() if grid.metric == "euclidean" else None
        self.near_N = np.full(len(grid), -np.inf)
        self.seen_N = np.zeros(len(grid), np.int64)
        self.waits_N = task.open_N  # who may still become a centre
        centres = np.flatnonzero(task.already_N)
        self.centres = np.empty(len(centres) + task.budget, np.int64)
        self.centres[: len(centres)] = centres
        self.count = self.labelled = len(centres)
        self.closeness: list[float] = []

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """(indices (k,), closeness (k + 1,) of each pick when it was made and of the farthest item at the end)."""
        size = SMALLEST
        with self.task.progress.bar("picks", self.task.budget, "picks") as bar:
            if not self.count and self.task.budget:
                self._pick(self._most_central(), -np.inf)
                bar.update()
            if self.count:
                self._update(np.arange(len(self.grid)))
            while self.count < len(self.centres):
                before = self.count
                if self.task.room.shared:
                    self.waits_N &= self.task.room.open_N()
                last = self._slice(size, self.waits_N)
                kept = self._up_to(last)
                self._pick_among(kept)
                size = min(2 * size, LARGEST) if 2 * len(kept) < MOST else max(size // 2, SMALLEST)
                bar.update(self.count - before)
        return self.centres[self.labelled : self.count], np.array([*self.closeness, self._farthest()])

    def _most_central(self) -> int:
        """The item most similar to the mean of all (euclidean: nearest to it)."""
        sum_D = self.grid.points_ND.sum(axis=0, dtype=np.float64)
        central_N = self.grid.points_ND @ sum_D
        if self.norms_N is not None:
            central_N = -self.norms_N
        barred_N = ~(self.waits_N & self.task.room.open_N())
        return int(np.where(barred_N, -np.inf, central_N).argmax())

    def _slice(self, size: int, among_N: np.ndarray) -> np.ndarray:
        """The items that seem farthest, farthest first, lowest index first among equals."""
        items = np.flatnonzero(among_N)
        near = self.near_N[items]
        if len(items) > size:
            limit = np.partition(near, size)[size]
            inside = np.flatnonzero(near < limit)
            equal = np.flatnonzero(near == limit)[: size - len(inside)]
            chosen = np.r_[inside, equal]
            items, near = items[chosen], near[chosen]
        return items[np.lexsort((items, near))]

    def _up_to(self, items: np.ndarray) -> np.ndarray:
        """Bring a slice up to date; those of it that are still before everything outside, farthest first."""
        bound, last = self.near_N[items[-1]], items[-1]
        self._update(items)
        near = self.near_N[items]
        kept = items[(near < bound) | ((near == bound) & (items <= last))]
        return kept[np.lexsort((kept, self.near_N[kept]))][:MOST]

    def _pick_among(self, items: np.ndarray) -> None:
        """Pick from an up-to-date slice as long as its farthest is before what the others were at its beginning."""
        if not len(items):
            return
        bound, last = self.near_N[items[-1]], items[-1]
        items = np.sort(items)  # so that the first of equals has the lowest index
        near = self.near_N[items]
        waits_near = near.copy()
        between = self._between(items, items)
        while self.count < len(self.centres):
            place = int(waits_near.argmin())
            here, item = waits_near[place], int(items[place])
            if here > bound or (here == bound and item > last):
                break
            full = self._pick(item, float(here))
            np.maximum(near, between[place], out=near)
            np.maximum(waits_near, between[place], out=waits_near)
            waits_near[place] = np.inf
            if full:
                waits_near[self.task.room.group_N[items] == self.task.room.group_N[item]] = np.inf
        self.near_N[items] = near
        self.seen_N[items] = self.count

    def _pick(self, item: int, closeness: float) -> bool:
        self.centres[self.count] = item
        self.count += 1
        self.waits_N[item] = False
        self.closeness.append(closeness)
        return self.task.room.take(item)

    def _update(self, items: np.ndarray) -> None:
        """Compare items with the centres that they have not seen; those that lag behind equally go together."""
        items = items[np.argsort(self.seen_N[items], kind="stable")]
        for start in range(0, len(items), PART):
            part = items[start : start + PART]
            first = int(self.seen_N[part[0]])
            near = self.near_N[part]
            for begin in range(first, self.count, PART):
                block = self._between(part, self.centres[begin : min(begin + PART, self.count)])
                np.maximum(near, block.max(axis=1), out=near)
            self.near_N[part], self.seen_N[part] = near, self.count

    def _between(self, items: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Closeness, exact."""
        products = self.grid.points_ND[items] @ self.grid.points_ND[centres].T
        if self.norms_N is None:
            return products
        return 2 * products - self.norms_N[items][:, None] - self.norms_N[centres]

    def _farthest(self) -> float:
        """The smallest up-to-date closeness of any item; inf where every item is a centre, -inf without any."""
        among_N = np.ones(len(self.grid), bool)
        among_N[self.centres[: self.count]] = False
        if not among_N.any():
            return np.inf if self.count else -np.inf
        while self.count:
            items = self._slice(SMALLEST, among_N)
            bound = self.near_N[items[-1]]
            self._update(items)
            least = float(self.near_N[items].min())
            if least <= bound or len(items) == among_N.sum():
                return least
        return -np.inf
