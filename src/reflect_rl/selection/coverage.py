"""The gains of facility location, as whole numbers: `Exact` from all similarities, `Sparse` from the nearest only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from reflect_rl.selection.grid import Folded
from reflect_rl.selection.neighbours import Columns

SHIFT = 2**24
"""A product of two grid points is from -SHIFT to SHIFT."""
ROWS = 1024
SUMMED = 64
"""Rows that are summed as int32 before they are added to int64 gains; their sum is at most 2^30."""


class _Coverage:
    """best_M: the similarity of each distinct point to its representative; -SHIFT where there is none yet.

    nearest_M: that representative, -1 where there is none.
    """

    def __init__(self, folded: Folded) -> None:
        self.points_MD = folded.points_MD
        self.weights_M = folded.weights_M
        self.best_M = np.full(len(folded.points_MD), -SHIFT, np.int32)
        self.nearest_M = np.full(len(folded.points_MD), -1, np.int32)

    def represent(self, chosen: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Take several points at once, for all rows or some of them."""
        rows = np.arange(len(self.points_MD)) if rows is None else rows
        for start in range(0, len(rows) if len(chosen) else 0, ROWS):
            part = rows[start : start + ROWS]
            for first in range(0, len(chosen), ROWS):
                some = chosen[first : first + ROWS]
                block_BC = self.points_MD[part] @ self.points_MD[some].T
                best_B = block_BC.argmax(axis=1)
                self._raise(part, block_BC[np.arange(len(part)), best_B].astype(np.int32), some[best_B])

    def total(self) -> int:
        """The sum over items of product + SHIFT."""
        return int(((self.best_M.astype(np.int64) + SHIFT) * self.weights_M).sum())

    def _raise(self, rows: np.ndarray, values: np.ndarray, points: int | np.ndarray) -> None:
        """Let points represent those of the rows to which they are nearer."""
        before = self.best_M[rows]
        self.nearest_M[rows] = np.where(values > before, points, self.nearest_M[rows])
        self.best_M[rows] = np.maximum(before, values)


class Exact(_Coverage):
    """The gains of all points, kept up to date: a pick lowers them by what it changes in the rows that it represents.

    The matrix of similarities is held up to HELD bytes (16,384 points); above, the rows that change are computed again.
    """

    HELD = 2**30

    def __init__(self, folded: Folded, before: np.ndarray) -> None:
        super().__init__(folded)
        count, sum_D = len(self.points_MD), self.weights_M @ self.points_MD.astype(np.float64)
        # of all points while nothing is represented: sum_i (x_i . x_j + SHIFT) = x_j . sum_i x_i + N SHIFT
        self._gains_M = (self.points_MD @ sum_D).astype(np.int64) + int(self.weights_M.sum()) * SHIFT
        self._matrix_MM: np.ndarray | None = None
        if 4 * count**2 <= self.HELD:
            self._matrix_MM = np.empty((count, count), np.int32)
            for start in range(0, count, ROWS):
                part = slice(start, start + ROWS)
                self._matrix_MM[part, start:] = self.points_MD[part] @ self.points_MD[start:].T
                self._matrix_MM[start:, part] = self._matrix_MM[part, start:].T
        self.represent(before)

    def gains_M(self) -> np.ndarray:
        return self._gains_M.copy()

    def gain(self, point: int) -> int:
        return int(self._gains_M[point])

    def take(self, point: int) -> None:
        self._raise(np.arange(len(self.best_M)), next(self._rows(np.array([point]))), point)

    def _raise(self, rows: np.ndarray, values: np.ndarray, points: int | np.ndarray) -> None:
        changed = np.flatnonzero(values > self.best_M[rows])
        before, after = self.best_M[rows[changed]], values[changed]
        super()._raise(rows, values, points)
        self._lower(rows[changed], before, after)

    def _lower(self, rows: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        """Lower all gains by what rows no longer add to them: the part of each similarity between before and after."""
        weights = self.weights_M[rows]
        self._gains_M += int(before.astype(np.int64) @ weights)
        over_M, sum_M = np.empty(len(self.best_M), np.int32), np.zeros(len(self.best_M), np.int32)
        levels = zip(before.tolist(), after.tolist(), weights.tolist(), strict=True)
        for number, (row_M, (low, high, weight)) in enumerate(zip(self._rows(rows), levels, strict=True), 1):
            row_M.clip(low, high, out=over_M)
            if weight > 1:
                self._gains_M -= weight * over_M.astype(np.int64)
            else:
                sum_M += over_M
            if number % SUMMED == 0:
                self._gains_M -= sum_M
                sum_M[:] = 0
        self._gains_M -= sum_M

    def _rows(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of the matrix."""
        if self._matrix_MM is not None:
            yield from map(self._matrix_MM.__getitem__, rows)
            return
        for start in range(0, len(rows), ROWS):
            yield from (self.points_MD[rows[start : start + ROWS]] @ self.points_MD.T).astype(np.int32)


class Sparse(_Coverage):
    """Only the nearest points, each point starting from its k-th nearest's similarity.

    lowest_M: similarities before anything was taken. second_M: to the second nearest of those taken, at least lowest_M.

    That objective is never below the dense one, and equals it as soon as every point has one of its nearest among the
    chosen. Gains are then the dense ones.
    """

    def __init__(self, folded: Folded, before: np.ndarray, columns: Columns) -> None:
        super().__init__(folded)
        self.columns = columns
        self.plain = bool((folded.weights_M == 1).all())
        self._starts = columns.starts_M1.tolist()
        self.best_M = columns.floors_M.astype(np.int32)
        self.represent(before)
        self.lowest_M, self.second_M = self.best_M.copy(), self.best_M.copy()

    def gains_M(self) -> np.ndarray:
        return self.above(self.best_M)

    def above(self, levels_M: np.ndarray) -> np.ndarray:
        over_E = np.maximum(self.columns.values_E - levels_M[self.columns.rows_E], 0).astype(np.float64)
        if not self.plain:
            over_E *= self.weights_M[self.columns.rows_E]
        sums_E1 = np.r_[0.0, np.cumsum(over_E)]  # whole numbers below 2^53: exact
        return np.diff(sums_E1[self.columns.starts_M1]).astype(np.int64)

    def count_above(self, levels_M: np.ndarray, times_M: np.ndarray) -> np.ndarray:
        over_E = self.columns.values_E > levels_M[self.columns.rows_E]
        times_E = np.repeat(times_M, np.diff(self.columns.starts_M1))
        return np.bincount(self.columns.rows_E[over_E], times_E[over_E], minlength=len(levels_M))

    def gain(self, point: int) -> int:
        part = slice(self._starts[point], self._starts[point + 1])
        rows = self.columns.rows_E[part]
        over = np.maximum(self.columns.values_E[part] - self.best_M[rows], 0)
        return int(over.sum(dtype=np.int64) if self.plain else over @ self.weights_M[rows])

    def take(self, point: int) -> None:
        part = slice(self._starts[point], self._starts[point + 1])
        rows, values = self.columns.rows_E[part], self.columns.values_E[part]
        self.second_M[rows] = np.maximum(self.second_M[rows], np.minimum(self.best_M[rows], values))
        self._raise(rows, values, point)

    def represent_the_rest(self, chosen: np.ndarray) -> None:
        """Find representatives of the points that have none among their nearest. Gains are no longer defined then."""
        rest = np.flatnonzero(self.nearest_M < 0)
        self.best_M[rest] = -SHIFT
        self.represent(chosen, rest)
