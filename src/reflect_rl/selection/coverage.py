"""Three ways to know the gains of facility location; all give the same whole numbers.

`Dense` holds the matrix of similarities (small pools), `Blocked` computes columns when they are asked for, `Sparse`
knows the nearest points only.
"""

from __future__ import annotations

import numpy as np

from reflect_rl.selection.grid import Folded
from reflect_rl.selection.neighbours import Columns

SHIFT = 2**24
"""A product of two grid points is from -SHIFT to SHIFT; (1 + cos) / 2 is (product + SHIFT) / (2 SHIFT)."""
ROWS = 1024


class _Coverage:
    """best_M: the similarity of each distinct point to its representative; -SHIFT where there is none yet.

    second_M: to the second nearest of those taken, at least what was there before the first was (after `begin`).
    """

    def __init__(self, folded: Folded) -> None:
        self.points_MD = folded.points_MD
        self.weights_M = folded.weights_M
        self.plain = bool((folded.weights_M == 1).all())
        self.best_M = np.full(len(folded.points_MD), -SHIFT, np.int32)
        self.second_M = self.best_M

    def represent(self, chosen: np.ndarray) -> None:
        """Take several points at once, those that are labelled already."""
        raise_to(self.best_M, self.points_MD, chosen)

    def begin(self) -> np.ndarray:
        """The levels that hold before anything is taken: best_M as it is now."""
        self.second_M = self.best_M.copy()
        return self.best_M.copy()

    def total(self) -> int:
        """The objective: the sum over items of product + SHIFT."""
        return int(((self.best_M.astype(np.int64) + SHIFT) * self.weights_M).sum())

    def knows(self, point: int) -> bool:
        return True

    def learn(self, points: list[int]) -> None:
        pass

    def _sum(self, over: np.ndarray, rows: np.ndarray | slice = slice(None)) -> int:
        """The weighted sum of what is positive; `over` is overwritten."""
        np.maximum(over, 0, out=over)
        return int(np.add.reduce(over, dtype=np.int64) if self.plain else over @ self.weights_M[rows])


class Dense(_Coverage):
    """The whole matrix: 4 M^2 bytes."""

    def __init__(self, folded: Folded) -> None:
        super().__init__(folded)
        self.matrix_MM = np.empty((len(self.points_MD), len(self.points_MD)), np.int32)
        for start in range(0, len(self.points_MD), ROWS):
            self.matrix_MM[start : start + ROWS] = self.points_MD[start : start + ROWS] @ self.points_MD.T

    def gains_M(self) -> np.ndarray:
        return np.array([self.gain(point) for point in range(len(self.points_MD))], np.int64)

    def gain(self, point: int) -> int:
        return self._sum(self.matrix_MM[point] - self.best_M)

    def take(self, point: int) -> None:
        column_M = self.matrix_MM[point]
        np.maximum(self.second_M, np.minimum(self.best_M, column_M), out=self.second_M)
        np.maximum(self.best_M, column_M, out=self.best_M)

    def above(self, levels_M: np.ndarray) -> np.ndarray:
        sums_M = np.zeros(len(levels_M))
        for start in range(0, len(levels_M), ROWS):
            part = slice(start, start + ROWS)
            over_BM = np.maximum(self.matrix_MM[part] - levels_M[part, None], 0).astype(np.float64)
            sums_M += self.weights_M[part].astype(np.float64) @ over_BM  # whole numbers below 2^53: exact
        return sums_M.astype(np.int64)

    def count_above(self, levels_M: np.ndarray, times_M: np.ndarray) -> np.ndarray:
        return (self.matrix_MM > levels_M[:, None]) @ times_M


class Blocked(_Coverage):
    """Columns when they are needed, several in one product.

    Of a column only the rows that it would represent better are kept: as these become fewer and never more, a kept
    column stays exact. The columns asked for last are kept, KEPT entries in all.
    """

    KEPT = 2**25

    def __init__(self, folded: Folded) -> None:
        super().__init__(folded)
        self._columns: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._entries = 0

    def gains_M(self) -> np.ndarray:
        """Exact while nothing is represented: sum_i (x_i . x_j + SHIFT) = x_j . sum_i x_i + N SHIFT. Else a bound."""
        sum_D = self.weights_M @ self.points_MD.astype(np.float64)
        return (self.points_MD @ sum_D).astype(np.int64) + int(self.weights_M.sum()) * SHIFT

    def knows(self, point: int) -> bool:
        return point in self._columns

    def learn(self, points: list[int]) -> None:
        new = [point for point in dict.fromkeys(points) if point not in self._columns]
        for point, column_M in zip(new, self.points_MD[new] @ self.points_MD.T, strict=True):
            rows = np.flatnonzero(column_M > self.best_M)
            self._keep(point, rows.astype(np.int32), column_M[rows].astype(np.int32))
        while self._entries > self.KEPT and len(self._columns) > len(new):
            self._forget(next(iter(self._columns)))

    def gain(self, point: int) -> int:
        rows, values = self._forget(point)
        over = values - self.best_M[rows]
        if 2 * np.count_nonzero(over > 0) < len(rows):
            better = np.flatnonzero(over > 0)
            rows, values, over = rows[better], values[better], over[better]
        self._keep(point, rows, values)  # the last to be forgotten
        return self._sum(over, rows)

    def take(self, point: int) -> None:
        if point in self._columns:
            rows, values = self._forget(point)
            self.best_M[rows] = np.maximum(self.best_M[rows], values)
        else:
            self.represent(np.array([point]))

    def _keep(self, point: int, rows: np.ndarray, values: np.ndarray) -> None:
        self._columns[point] = rows, values
        self._entries += len(rows)

    def _forget(self, point: int) -> tuple[np.ndarray, np.ndarray]:
        column = self._columns.pop(point)
        self._entries -= len(column[0])
        return column


class Sparse(_Coverage):
    """Only the nearest points, each point starting from its k-th nearest's similarity.

    That objective is never below the dense one, and equals it as soon as every point has one of its nearest among the
    chosen. Gains are then the dense ones.
    """

    def __init__(self, folded: Folded, columns: Columns) -> None:
        super().__init__(folded)
        self.columns = columns
        self._starts = columns.starts_M1.tolist()
        self.best_M = columns.floors_M.astype(np.int32)

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
        before = self.best_M[rows]
        self.second_M[rows] = np.maximum(self.second_M[rows], np.minimum(before, values))
        self.best_M[rows] = np.maximum(before, values)

    def dense_total(self, chosen: np.ndarray) -> int:
        """The dense objective of chosen points: those that none of them is near to are looked at again."""
        best_M = self.best_M.copy()
        far = np.flatnonzero(best_M <= self.columns.floors_M)
        best_M[far] = -SHIFT
        for start in range(0, len(far) if len(chosen) else 0, ROWS):
            part = far[start : start + ROWS]
            found_B = np.full(len(part), -SHIFT, np.int32)
            for first in range(0, len(chosen), ROWS):
                block_BC = self.points_MD[part] @ self.points_MD[chosen[first : first + ROWS]].T
                np.maximum(found_B, block_BC.max(axis=1).astype(np.int32), out=found_B)
            best_M[part] = found_B
        return int(((best_M.astype(np.int64) + SHIFT) * self.weights_M).sum())


def raise_to(best_M: np.ndarray, points_MD: np.ndarray, chosen: np.ndarray) -> None:
    """best_M becomes the maximum of itself and the similarity to any chosen point."""
    for start in range(0, len(points_MD) if len(chosen) else 0, ROWS):
        part = slice(start, start + ROWS)
        for first in range(0, len(chosen), ROWS):
            block_BC = points_MD[part] @ points_MD[chosen[first : first + ROWS]].T
            np.maximum(best_M[part], block_BC.max(axis=1).astype(np.int32), out=best_M[part])
