"""The k most similar points of every point, exactly, without an N x N matrix.

Similarities are computed in blocks by matrix products, each pair once for both of its points. Each point keeps a buffer
of the best points seen so far; the k-th best is its threshold, and only entries of a block above a threshold are
examined. Points are first sorted so that similar ones are often adjacent, and compared within blocks of that order, so
that thresholds are high early and few entries pass them. Where the machine multiplies bytes fast (`byte_products`),
rounded products rule out whole blocks.

Cost: N^2 D / 2 multiply-adds, 4 N D + 24 k N bytes (N D with bytes), and a block for each thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock

import numpy as np

from reflect_rl.progress import Bar, Progress
from reflect_rl.selection.blas import single_threaded
from reflect_rl.selection.byte_products import ByteProducts, one_thread, worth_it
from reflect_rl.selection.likeness import order_by_likeness

ROWS, COLUMNS = 1024, 2048
"""A block of similarities: 8 MiB, which fits the cache of one core together with what it is computed from."""
ROOM = 3
"""Places in a point's buffer, as a multiple of k."""
FEW = 128
"""If at most one pair in so many could pass, those pairs are computed one by one; otherwise the whole block is."""
PAIRS = 4096
TRIES = 64
"""Blocks after which bytes are given up if most of the blocks had to be computed as a whole."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Neighbours by column: entries starts_M1[j] to starts_M1[j + 1] belong to point j.

    rows_E, values_E: the points i that have j among their nearest, more similar than i's k-th nearest is, and the
    similarity (int32). floors_M: the similarity of each point's k-th nearest.
    """

    starts_M1: np.ndarray
    rows_E: np.ndarray
    values_E: np.ndarray
    floors_M: np.ndarray


def nearest(points_MD: np.ndarray, k: int, progress: Progress, *, threads: int | None = None) -> Columns:
    """The nearest k of every point, itself among them; 0 < k < M. points_MD: whole numbers (see `grid`)."""
    quick = ByteProducts(points_MD) if worth_it(points_MD, ROWS, COLUMNS) else None
    with (
        single_threaded(),
        one_thread() if quick else nullcontext() as alone,
        ThreadPoolExecutor(threads or cores(), initializer=alone) as pool,
    ):
        order_M = order_by_likeness(points_MD, quick.most_similar if quick else None, pool.map)
        search = _Search(points_MD, order_M, k, quick)
        tasks = list(search.tasks())
        with progress.bar("neighbours", len(tasks), "blocks") as bar:
            search.fill(pool, tasks, bar)
    return search.columns_found()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Search:
    """The buffers, and what fills them.

    Points are known here by their place in order_M, in which similar ones are near to each other.
    """

    def __init__(self, points_MD: np.ndarray, order_M: np.ndarray, k: int, quick: ByteProducts | None) -> None:
        self.k, size = k, len(points_MD)
        self.tried = self.in_vain = 0
        self.rows = max(ROWS, 4 * k)
        self.room = ROOM * k
        self.order_M = order_M
        self.quick = quick.in_order(order_M) if quick else None
        self.given_MD = points_MD
        self.points_MD = None if self.quick else points_MD[self.order_M]
        self.values_MW = np.full((size, self.room), -np.inf, np.float32)
        self.columns_MW = np.zeros((size, self.room), np.int32)
        self.fill_M = np.zeros(size, np.int64)
        self.threshold_M = np.full(size, -np.inf, np.float32)
        self.lock = Lock()

    def fill(self, pool: ThreadPoolExecutor, tasks: Sequence[tuple[slice, slice]], bar: Bar) -> None:
        """Compare every block."""
        try:
            list(pool.map(self.seed, self.diagonal()))
            for _ in pool.map(self.compare, tasks):
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    def diagonal(self) -> Iterator[slice]:
        """The points in blocks of rows; the last is a long one."""
        size = len(self.order_M)
        ends = [*range(self.rows, size - self.rows + 1, self.rows), size]
        yield from map(slice, [0, *ends[:-1]], ends)

    def seed(self, block: slice) -> None:
        """Fill the buffers of a block from itself."""
        points_BD = self.points(block)
        values_BB = points_BD @ points_BD.T
        k = min(self.k, len(values_BB))
        best_BK = np.argpartition(values_BB, len(values_BB) - k, axis=1)[:, -k:]
        found_BK = np.take_along_axis(values_BB, best_BK, axis=1)
        self.values_MW[block, :k] = found_BK
        self.columns_MW[block, :k] = block.start + best_BK
        self.fill_M[block] = k
        if k == self.k:
            self.threshold_M[block] = found_BK.min(axis=1)

    def tasks(self) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of every block above the diagonal, those near to it first."""
        size = len(self.order_M)
        found = [
            (rows, slice(start, min(start + COLUMNS, size)))
            for rows in self.diagonal()
            for start in range(rows.stop, size, COLUMNS)
        ]
        yield from sorted(found, key=lambda task: task[1].start - task[0].stop)

    def points(self, part: slice) -> np.ndarray:
        """Points by their place in the order."""
        return self.given_MD[self.order_M[part]] if self.points_MD is None else self.points_MD[part]

    def compare(self, task: tuple[slice, slice]) -> None:
        """One block: what its rows find among its columns, and its columns among its rows."""
        if self.quick is None or not self._compare_quickly(self.quick, *task):
            self._compare_all(*task)

    def _compare_quickly(self, quick: ByteProducts, rows: slice, columns: slice) -> bool:
        """By rounded products, and exactly what they leave; False if they leave too much."""
        if self.tried >= TRIES and 2 * self.in_vain > self.tried:
            return False
        self.tried += 1
        rough_RC = quick.block(rows, columns)
        cuts_R = quick.cuts(self.threshold_M[rows], rows, columns)
        cuts_C = quick.cuts(self.threshold_M[columns], columns, rows)
        if rough_RC.max() <= min(cuts_R.min(), cuts_C.min()):
            return True
        over_RC = rough_RC > cuts_R[:, None]
        over_RC |= rough_RC > cuts_C
        hits = np.flatnonzero(over_RC)
        if len(hits) * FEW > over_RC.size:
            self.in_vain += 1
            return False
        r, c = np.divmod(hits, over_RC.shape[1])
        r, c = rows.start + r, columns.start + c
        values = np.empty(len(hits), np.float32)
        for start in range(0, len(hits), PAIRS):
            some = slice(start, start + PAIRS)
            ours, theirs = (self.given_MD[self.order_M[places[some]]] for places in (r, c))
            values[some] = np.einsum("pd,pd->p", ours, theirs)
        self._add(r, c, values)
        by_column = np.argsort(c, kind="stable")
        self._add(c[by_column], r[by_column], values[by_column])
        return True

    def _compare_all(self, rows: slice, columns: slice) -> None:
        values_RC = self.points(rows) @ self.points(columns).T
        hits = np.flatnonzero(values_RC > self.threshold_M[rows, None])
        r, c = np.divmod(hits, values_RC.shape[1])
        self._add(rows.start + r, columns.start + c, values_RC.ravel()[hits])
        hits = np.flatnonzero(values_RC > self.threshold_M[columns])
        r, c = np.divmod(hits, values_RC.shape[1])
        by_column = np.argsort(c.astype(np.uint16), kind="stable")
        self._add(columns.start + c[by_column], rows.start + r[by_column], values_RC.ravel()[hits[by_column]])

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
        """The entries above each point's floor, sorted by column. The buffers are given up."""
        size, parts = len(self.order_M), []
        for start in range(0, size, COLUMNS):
            some = np.arange(start, min(start + COLUMNS, size))
            self._compress(some)
            values_BK = self.values_MW[some, : self.k]
            places, found = np.nonzero(values_BK > self.threshold_M[some, None])
            columns = self.order_M[self.columns_MW[some[places], found]].astype(np.int32)
            rows = self.order_M[some[places]].astype(np.int32)
            parts.append((columns, rows, values_BK[places, found].astype(np.int32)))
        del self.values_MW, self.columns_MW, self.quick
        columns_E, rows_E, values_E = (np.concatenate(part) for part in zip(*parts, strict=True))
        del parts
        by_column = np.argsort(columns_E, kind="stable")
        counts_M = np.bincount(columns_E, minlength=size)
        floors_M = np.empty(size, np.int64)
        floors_M[self.order_M] = self.threshold_M
        return Columns(np.r_[0, np.cumsum(counts_M)], rows_E[by_column], values_E[by_column], floors_M)
