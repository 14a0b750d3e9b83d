"""Products of points rounded to bytes: several times as fast as products of floats, with a known error bound.

The neighbour search skips every block in which no rounded product comes near a threshold, and computes the rest
exactly. It finds the same pairs with and without them.

The products are torch's (int8 by int8, summed in int32). They are not used without torch, or on a processor on which
they are slow or wrong (sums of bytes can saturate).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np

from reflect_rl.seeding import stream
from reflect_rl.selection.blas import single_threaded

LEAST = 50_000
"""Points from which they are used: importing torch takes seconds, and smaller pools gain nothing."""
SAMPLE = 4096
FASTER = 1.5
"""How many times as fast as products of floats they have to be."""
MARGIN = 4
"""A cut-off is lowered by this much to allow for its own rounding in float64."""


class ByteProducts:
    """points_MD / step rounded to bytes.

    off_M: the length of what rounding left out, in units of the grid. radius: no point is longer.
    """

    def __init__(self, points_MD: np.ndarray) -> None:
        self.step = best_step(points_MD[:: max(1, len(points_MD) // SAMPLE)])
        self.bytes_MD = np.empty((len(points_MD), padded(points_MD.shape[1])), np.int8)
        self.off_M = np.empty(len(points_MD))
        self.radius = 0.0
        for start in range(0, len(points_MD), SAMPLE):
            part = slice(start, start + SAMPLE)
            block_BD = points_MD[part]
            self.bytes_MD[part] = rounded(block_BD, self.step)
            self.off_M[part] = off(block_BD, self.step)
            self.radius = max(self.radius, float(_lengths(block_BD).max()))

    def in_order(self, order_M: np.ndarray) -> ByteProducts:
        """The points in another order; no longer in the former one."""
        self.bytes_MD, self.off_M = self.bytes_MD[order_M], self.off_M[order_M]
        return self

    def most_similar(self, leaders_LD: np.ndarray) -> Callable[[slice], np.ndarray]:
        """A function from a slice of the points to the leader that each is most similar to, by rounded products."""
        bytes_LD = rounded(leaders_LD, self.step)
        return lambda part: _product(self.bytes_MD[part], bytes_LD).argmax(axis=1)

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Rounded products (R, C) int32, in units of step^2."""
        return _product(self.bytes_MD[rows], self.bytes_MD[columns])

    def cuts(self, levels_B: np.ndarray, part: slice, others: slice) -> np.ndarray:
        """int32 (B,): a pair's product is above its level only if the rounded one is above this.

        levels_B: a level for each point of `part`; the other point is one of `others`.
        With q = s b + e: |q . q' - s^2 b . b'| <= |e| |q'| + |s b| |e'| <= |e| R + (R + |e|) |e'|.
        """
        own_B, most = self.off_M[part], float(self.off_M[others].max())
        off_B = own_B * self.radius + (self.radius + own_B) * most
        cuts_B = (levels_B.astype(np.float64) - off_B) / self.step**2 - MARGIN
        return np.floor(np.clip(cuts_B, -(2.0**31), 2.0**31 - 1)).astype(np.int32)


def best_step(sample_SD: np.ndarray) -> float:
    """The value of a byte's unit with the least mean rounding error; large numbers may be cut off."""
    largest = float(np.abs(sample_SD).max(initial=0.0)) or 1.0
    steps = [largest / 127 / shrink for shrink in (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)]
    return min(steps, key=lambda step: float(off(sample_SD, step).mean()))


def rounded(points_BD: np.ndarray, step: float) -> np.ndarray:
    """int8, with zeros up to the `padded` width."""
    bytes_BD = np.zeros((len(points_BD), padded(points_BD.shape[1])), np.int8)
    bytes_BD[:, : points_BD.shape[1]] = np.clip(np.rint(points_BD / step), -127, 127)
    return bytes_BD


def off(points_BD: np.ndarray, step: float) -> np.ndarray:
    """The lengths of what rounding leaves out."""
    return _lengths(points_BD - step * rounded(points_BD, step)[:, : points_BD.shape[1]].astype(np.float64))


def padded(width: int) -> int:
    """torch 2.13 multiplies bytes of width 1 wrongly: a multiple of 4."""
    return -(-width // 4) * 4


def _lengths(rows_BD: np.ndarray) -> np.ndarray:
    rows_BD = rows_BD.astype(np.float64)
    return np.sqrt(np.einsum("bd,bd->b", rows_BD, rows_BD))


def _product(a_RD: np.ndarray, b_CD: np.ndarray) -> np.ndarray:
    """(R, C) int32."""
    import torch

    return torch.ops.aten._int_mm(torch.from_numpy(a_RD), torch.from_numpy(b_CD).T).numpy()


@contextmanager
def one_thread() -> Iterator[Callable[[], None]]:
    """A function that each thread has to call first, so that torch uses no further threads for its products."""
    import torch

    before = torch.get_num_threads()
    try:
        yield lambda: torch.set_num_threads(1)
    finally:
        torch.set_num_threads(before)


def worth_it(points_MD: np.ndarray, rows: int, columns: int) -> bool:
    """Whether products of bytes are correct on this machine, and much faster than products of floats."""
    if len(points_MD) < LEAST or find_spec("torch") is None:
        return False
    import torch

    if not hasattr(torch.ops.aten, "_int_mm") or not right(padded(points_MD.shape[1]), rows, columns):
        return False
    floats_MD = points_MD[: min(len(points_MD), columns)]
    bytes_MD = rounded(floats_MD, 32.0)
    with single_threaded(), one_thread() as alone:
        alone()
        slow = _seconds(lambda: floats_MD[:rows] @ floats_MD.T)
        return FASTER * _seconds(lambda: _product(bytes_MD[:rows], bytes_MD)) < slow


def right(width: int, rows: int, columns: int) -> bool:
    """Whether products of blocks up to this size are right, also those of the largest bytes, which could saturate."""
    draw = stream(0, "byte products")
    a, b = (draw.integers(-127, 128, (size, width)).astype(np.int8) for size in (rows, columns))
    a[: rows // 4], a[rows // 4 : rows // 2], b[: columns // 4], b[columns // 4 : columns // 2] = 127, -127, 127, -127
    for some, others in ((a, b), (a[: rows // 2 + 1], b[: columns // 3 + 1]), (a[:1], b[:1]), (a[-1:], b)):
        try:
            found = _product(some, others)
        except RuntimeError:  # a build of torch that has no such product for this processor
            return False
        if (found != some.astype(np.float64) @ others.astype(np.float64).T).any():
            return False
    return True


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
