"""The k most similar points of every point, exactly, without an N x N matrix.

Similarities are computed in blocks by matrix products, each pair once for both of its points. A point keeps a buffer of
the best it has seen and, as its threshold, the k-th best of them; of a block only what exceeds a threshold is looked at
again. The thresholds start from a random sample of the pool, so that about k ln(N / sample) values a point pass.

Cost: N^2 D multiply-adds, 24 k N bytes, and a block for each thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, local

import numpy as np

from reflect_rl.progress import Progress
from reflect_rl.seeding import stream

ROWS, COLUMNS = 1024, 2048
"""A block of similarities: 8 MiB, which fits the cache of one core together with what it is computed from."""
ROOM = 3
"""Places in a point's buffer, as a multiple of k."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Who is similar to whom, by column: entries starts_M1[j] to starts_M1[j + 1] are those of point j.

    rows_E, values_E: the points i that have j among their nearest, more similar than i's k-th nearest is, and the
    similarity (int32). floors_M: the similarity of each point's k-th nearest.
    """

    starts_M1: np.ndarray
    rows_E: np.ndarray
    values_E: np.ndarray
    floors_M: np.ndarray


def nearest(points_MD: np.ndarray, k: int, progress: Progress, *, threads: int | None = None) -> Columns:
    """The nearest k of every point, itself among them; 0 < k < M. points_MD: whole numbers (see `grid`)."""
    search = _Search(points_MD, k)
    threads = threads or len(os.sched_getaffinity(0))
    tasks = list(search.tasks())
    with progress.bar("neighbours", len(tasks), "blocks") as bar, ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(search.seed, search.columns(0)))
            for _ in pool.map(search.compare, tasks):
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return search.columns_found()


class _Search:
    """The buffers, and what fills them. Points are visited in a random order, so that thresholds rise early."""

    def __init__(self, points_MD: np.ndarray, k: int) -> None:
        self.points_MD, self.k = points_MD, k
        size = len(points_MD)
        self.rows = max(ROWS, 4 * k)
        self.room = ROOM * k
        self.order_M = stream(0, "neighbours").permutation(size)
        self.values_MW = np.full((size, self.room), -np.inf, np.float32)
        self.columns_MW = np.zeros((size, self.room), np.int32)
        self.fill_M = np.zeros(size, np.int64)
        self.threshold_M = np.full(size, -np.inf, np.float32)
        self.lock, self.own = Lock(), local()

    def columns(self, start: int) -> Iterator[np.ndarray]:
        """Points in parts of COLUMNS, from a place in the order on."""
        for first in range(start, len(self.order_M), COLUMNS):
            yield self.order_M[first : first + COLUMNS]

    def seed(self, part: np.ndarray) -> None:
        """Fill the buffers of a part from the sample, which is the first block of rows."""
        sample = self.order_M[: self.rows]
        values_BS = self.points_MD[part] @ self.points_MD[sample].T
        best_BK = np.argpartition(values_BS, len(sample) - min(self.k, len(sample)), axis=1)[:, -self.k :]
        found_BK = np.take_along_axis(values_BS, best_BK, axis=1)
        with self.lock:
            self.values_MW[part, : found_BK.shape[1]] = found_BK
            self.columns_MW[part, : found_BK.shape[1]] = sample[best_BK]
            self.fill_M[part] = found_BK.shape[1]
            if found_BK.shape[1] == self.k:
                self.threshold_M[part] = found_BK.min(axis=1)

    def tasks(self) -> Iterator[tuple[int, int]]:
        """(first row, first column) of every block on or above the diagonal, places in the order."""
        for row in range(0, len(self.order_M), self.rows):
            for column in range(row if row else self.rows, len(self.order_M), COLUMNS):
                yield row, column

    def compare(self, task: tuple[int, int]) -> None:
        """One block: what its rows find among its columns, and its columns among its rows."""
        row, column = task
        rows, columns = self.order_M[row : row + self.rows], self.order_M[column : column + COLUMNS]
        values_RC, over_RC = self._blocks(len(rows), len(columns))
        np.matmul(self.points_MD[rows], self.points_MD[columns].T, out=values_RC)
        np.greater(values_RC, self.threshold_M[rows][:, None], out=over_RC)
        hits = np.flatnonzero(over_RC)
        r, c = np.divmod(hits, len(columns))
        self._add(rows[r], columns[c], values_RC.ravel()[hits])
        if not row:
            return  # the columns have seen the sample: see seed
        np.greater(values_RC, self.threshold_M[columns], out=over_RC)
        if column < row + self.rows:
            over_RC[:, : row + self.rows - column] = False  # within the diagonal block, both are rows
        hits = np.flatnonzero(over_RC)
        r, c = np.divmod(hits, len(columns))
        by_column = np.argsort(c.astype(np.uint16), kind="stable")
        self._add(columns[c[by_column]], rows[r[by_column]], values_RC.ravel()[hits[by_column]])

    def _blocks(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays of this thread's own, used again and again."""
        if not hasattr(self.own, "values"):
            self.own.values = np.empty(self.rows * COLUMNS, np.float32)
            self.own.over = np.empty(self.rows * COLUMNS, bool)
        size = rows * columns
        return self.own.values[:size].reshape(rows, columns), self.own.over[:size].reshape(rows, columns)

    def _add(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """Put (row, column, value) into the buffers; equal rows stand together."""
        with self.lock:
            while True:
                kept = np.flatnonzero(values > self.threshold_M[rows])
                if not len(kept):
                    return
                rows, columns, values = rows[kept], columns[kept], values[kept]
                firsts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
                counts = np.diff(np.r_[firsts, len(rows)])
                places = np.arange(len(rows)) + np.repeat(self.fill_M[rows[firsts]] - firsts, counts)
                fits = places < self.room
                into, at = rows[fits], places[fits]
                self.values_MW[into, at] = values[fits]
                self.columns_MW[into, at] = columns[fits]
                distinct = rows[firsts]
                self.fill_M[distinct] = np.minimum(self.fill_M[distinct] + counts, self.room)
                self._compress(distinct[self.fill_M[distinct] == self.room])
                rows, columns, values = rows[~fits], columns[~fits], values[~fits]

    def _compress(self, rows: np.ndarray) -> None:
        """Keep the best k of full buffers."""
        if not len(rows):
            return
        values_RW = self.values_MW[rows]
        best_RK = np.argpartition(values_RW, self.room - self.k, axis=1)[:, -self.k :]
        found_RK = np.take_along_axis(values_RW, best_RK, axis=1)
        columns_RK = np.take_along_axis(self.columns_MW[rows], best_RK, axis=1)
        self.values_MW[rows] = -np.inf
        self.values_MW[rows, : self.k] = found_RK
        self.columns_MW[rows, : self.k] = columns_RK
        self.fill_M[rows] = self.k
        self.threshold_M[rows] = found_RK.min(axis=1)

    def columns_found(self) -> Columns:
        """The entries above each point's floor, sorted by column."""
        for start in range(0, len(self.order_M), COLUMNS):
            self._compress(np.arange(start, min(start + COLUMNS, len(self.order_M))))
        rows_E, places_E = np.nonzero(self.values_MW[:, : self.k] > self.threshold_M[:, None])
        values_E = self.values_MW[rows_E, places_E].astype(np.int32)
        columns_E = self.columns_MW[rows_E, places_E]
        by_column = np.argsort(columns_E, kind="stable")
        counts_M = np.bincount(columns_E, minlength=len(self.order_M))
        return Columns(
            np.r_[0, np.cumsum(counts_M)],
            rows_E[by_column].astype(np.int32),
            values_E[by_column],
            self.threshold_M.astype(np.int64),
        )
