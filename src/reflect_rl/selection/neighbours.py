"""The k most similar points of every point, exactly, without an N x N matrix.

Similarities are computed in blocks by matrix products, each pair once for both of its points. A point keeps a buffer of
the best it has seen and, as its threshold, the k-th best of them; of a block only what exceeds a threshold is looked at
again. Points are first put in an order in which similar ones are often neighbours, and compared within blocks of it, so
that thresholds are high from the start and little passes them.

Cost: N^2 D / 2 multiply-adds, 4 N D + 24 k N bytes, and a block for each thread.
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
from reflect_rl.selection.blas import single_threaded

ROWS, COLUMNS = 1024, 2048
"""A block of similarities: 8 MiB, which fits the cache of one core together with what it is computed from."""
MOST_LEADERS, PER_LEADER = 1024, 256
"""How many points the order of likeness goes by."""
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
    threads = threads or cores()
    tasks = list(search.tasks())
    with (
        progress.bar("neighbours", len(tasks), "blocks") as bar,
        single_threaded(),
        ThreadPoolExecutor(threads) as pool,
    ):
        try:
            list(pool.map(search.seed, search.diagonal()))
            for _ in pool.map(search.compare, tasks):
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return search.columns_found()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Search:
    """The buffers, and what fills them.

    Points are known here by their place in order_M, in which similar ones are near to each other.
    """

    def __init__(self, points_MD: np.ndarray, k: int) -> None:
        self.k, size = k, len(points_MD)
        self.rows = max(ROWS, 4 * k)
        self.room = ROOM * k
        self.order_M = order_by_likeness(points_MD)
        self.points_MD = points_MD[self.order_M]
        self.values_MW = np.full((size, self.room), -np.inf, np.float32)
        self.columns_MW = np.zeros((size, self.room), np.int32)
        self.fill_M = np.zeros(size, np.int64)
        self.threshold_M = np.full(size, -np.inf, np.float32)
        self.lock, self.own = Lock(), local()

    def diagonal(self) -> Iterator[slice]:
        """The points in blocks of rows; the last is a long one."""
        size = len(self.order_M)
        ends = [*range(self.rows, size - self.rows + 1, self.rows), size]
        yield from map(slice, [0, *ends[:-1]], ends)

    def seed(self, block: slice) -> None:
        """Fill the buffers of a block from itself."""
        values_BB = self.points_MD[block] @ self.points_MD[block].T
        k = min(self.k, len(values_BB))
        best_BK = np.argpartition(values_BB, len(values_BB) - k, axis=1)[:, -k:]
        found_BK = np.take_along_axis(values_BB, best_BK, axis=1)
        self.values_MW[block, :k] = found_BK
        self.columns_MW[block, :k] = block.start + best_BK
        self.fill_M[block] = k
        if k == self.k:
            self.threshold_M[block] = found_BK.min(axis=1)

    def tasks(self) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of every block above the diagonal."""
        size = len(self.order_M)
        for rows in self.diagonal():
            for start in range(rows.stop, size, COLUMNS):
                yield rows, slice(start, min(start + COLUMNS, size))

    def compare(self, task: tuple[slice, slice]) -> None:
        """One block: what its rows find among its columns, and its columns among its rows."""
        rows, columns = task
        width = columns.stop - columns.start
        values_RC, over_RC = self._blocks(rows.stop - rows.start, width)
        np.matmul(self.points_MD[rows], self.points_MD[columns].T, out=values_RC)
        np.greater(values_RC, self.threshold_M[rows, None], out=over_RC)
        hits = np.flatnonzero(over_RC)
        r, c = np.divmod(hits, width)
        self._add(rows.start + r, columns.start + c, values_RC.ravel()[hits])
        np.greater(values_RC, self.threshold_M[columns], out=over_RC)
        hits = np.flatnonzero(over_RC)
        r, c = np.divmod(hits, width)
        by_column = np.argsort(c.astype(np.uint16), kind="stable")
        self._add(columns.start + c[by_column], rows.start + r[by_column], values_RC.ravel()[hits[by_column]])

    def _blocks(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays of this thread's own, used again and again."""
        if not hasattr(self.own, "values"):
            self.own.values = np.empty(2 * self.rows * COLUMNS, np.float32)
            self.own.over = np.empty(2 * self.rows * COLUMNS, bool)
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
        places_E, found_E = np.nonzero(self.values_MW[:, : self.k] > self.threshold_M[:, None])
        values_E = self.values_MW[places_E, found_E].astype(np.int32)
        columns_E = self.order_M[self.columns_MW[places_E, found_E]]
        by_column = np.argsort(columns_E, kind="stable")
        counts_M = np.bincount(columns_E, minlength=len(self.order_M))
        floors_M = np.empty(len(self.order_M), np.int64)
        floors_M[self.order_M] = self.threshold_M
        rows_E = self.order_M[places_E[by_column]].astype(np.int32)
        return Columns(np.r_[0, np.cumsum(counts_M)], rows_E, values_E[by_column], floors_M)


def order_by_likeness(points_MD: np.ndarray) -> np.ndarray:
    """An order in which similar points are often near: by the most similar of some leaders, which form a chain."""
    draw = stream(0, "neighbours")
    leaders = draw.permutation(len(points_MD))[: min(MOST_LEADERS, max(1, len(points_MD) // PER_LEADER))]
    leaders_LD = points_MD[leaders]
    like_LL = leaders_LD @ leaders_LD.T
    chain, here = np.zeros(len(leaders), np.int64), 0  # chain: the place of each leader
    for place in range(len(leaders)):
        chain[here] = place
        like_LL[:, here] = -np.inf
        here = int(like_LL[here].argmax())
    near_M = np.empty(len(points_MD), np.int64)
    for start in range(0, len(points_MD), COLUMNS):
        part = slice(start, start + COLUMNS)
        near_M[part] = chain[(points_MD[part] @ leaders_LD.T).argmax(axis=1)]
    return np.argsort(near_M, kind="stable")
