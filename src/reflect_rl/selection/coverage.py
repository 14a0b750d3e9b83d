"""Two ways to know the gains of facility location; both give the same whole numbers.

`Exact` computes whole columns of the matrix of similarities, `Sparse` knows the nearest points only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reflect_rl.selection.grid import Folded
from reflect_rl.selection.neighbours import Columns

SHIFT = 2**24
"""A product of two grid points is from -SHIFT to SHIFT."""
ROWS = 1024
ALL = slice(None)
FEW = 4
"""Rows of a column are listed where they are fewer than one in so many."""


class _Coverage:
    """best_M: the similarity of each distinct point to its representative; -SHIFT where there is none yet.

    nearest_M: that representative, -1 where there is none.
    """

    def __init__(self, folded: Folded) -> None:
        self.points_MD = folded.points_MD
        self.weights_M = folded.weights_M
        self.plain = bool((folded.weights_M == 1).all())
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

    def knows(self, point: int) -> bool:
        return True

    def learn(self, points: list[int]) -> None:
        pass

    def _raise(self, rows: Any, values: np.ndarray, points: int | np.ndarray) -> None:
        """Let points represent those of the rows to which they are nearer."""
        before = self.best_M[rows]
        self.nearest_M[rows] = np.where(values > before, points, self.nearest_M[rows])
        self.best_M[rows] = np.maximum(before, values)

    def _sum(self, over: np.ndarray, rows: Any) -> int:
        """The weighted sum of what is positive; `over` is overwritten."""
        np.maximum(over, 0, out=over)
        return int(np.add.reduce(over, dtype=np.int64) if self.plain else over @ self.weights_M[rows])


class Exact(_Coverage):
    """Columns of the matrix of similarities, computed when they are needed, several in one product.

    Most of a column soon lies below best_M, which only grows: then only the rows above it are kept. The columns used
    last are kept, KEPT bytes in all; up to 16,384 points that is the whole matrix.
    """

    KEPT = 2**30

    def __init__(self, folded: Folded, before: np.ndarray) -> None:
        super().__init__(folded)
        self.represent(before)
        self._columns: dict[int, tuple[Any, np.ndarray]] = {}
        self._bytes = 0

    def gains_M(self) -> np.ndarray:
        """Exact while nothing is represented: sum_i (x_i . x_j + SHIFT) = x_j . sum_i x_i + N SHIFT. Else a bound."""
        sum_D = self.weights_M @ self.points_MD.astype(np.float64)
        return (self.points_MD @ sum_D).astype(np.int64) + int(self.weights_M.sum()) * SHIFT

    def knows(self, point: int) -> bool:
        return point in self._columns

    def learn(self, points: list[int]) -> None:
        new = [point for point in dict.fromkeys(points) if point not in self._columns]
        columns_CM = (self.points_MD[new] @ self.points_MD.T).astype(np.int32)
        for point, column_M in zip(new, columns_CM, strict=True):
            rows = self._above(column_M > self.best_M)
            self._keep(point, rows, column_M.copy() if rows is ALL else column_M[rows])
        while self._bytes > self.KEPT and len(self._columns) > len(new):
            self._forget(next(iter(self._columns)))

    def gain(self, point: int) -> int:
        rows, values = self._forget(point)
        over = values - (self.best_M if rows is ALL else self.best_M.take(rows))
        better = self._above(over > 0)
        if better is not ALL:
            rows, values, over = better if rows is ALL else rows[better], values[better], over[better]
        self._keep(point, rows, values)  # the last to be forgotten
        return self._sum(over, rows)

    def take(self, point: int) -> None:
        if point in self._columns:
            self._raise(*self._forget(point), point)
        else:
            self.represent(np.array([point]))

    @staticmethod
    def _above(over: np.ndarray) -> Any:
        """The places where it is true if they are few, else ALL."""
        return np.flatnonzero(over) if FEW * np.count_nonzero(over) < len(over) else ALL

    def _keep(self, point: int, rows: Any, values: np.ndarray) -> None:
        self._columns[point] = rows, values
        self._bytes += values.nbytes + (0 if rows is ALL else rows.nbytes)

    def _forget(self, point: int) -> tuple[Any, np.ndarray]:
        rows, values = self._columns.pop(point)
        self._bytes -= values.nbytes + (0 if rows is ALL else rows.nbytes)
        return rows, values


class Sparse(_Coverage):
    """Only the nearest points, each point starting from its k-th nearest's similarity.

    lowest_M: similarities before anything was taken. second_M: to the second nearest of those taken, at least lowest_M.

    That objective is never below the dense one, and equals it as soon as every point has one of its nearest among the
    chosen. Gains are then the dense ones.
    """

    def __init__(self, folded: Folded, before: np.ndarray, columns: Columns) -> None:
        super().__init__(folded)
        self.columns = columns
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
        return self._sum(self.columns.values_E[part] - self.best_M[rows], rows)

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
