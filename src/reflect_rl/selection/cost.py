"""A rough estimate of the time and memory of a selection, from its sizes and this machine's speed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from reflect_rl.selection.coverage import Exact
from reflect_rl.selection.facility_location import FacilityLocation
from reflect_rl.selection.k_center import KCenter
from reflect_rl.selection.neighbours import ROOM
from reflect_rl.selection.picks import Selector
from reflect_rl.selection.uncertain_then_diverse import UncertainThenDiverse

SIDE = 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """seconds: of the choice alone. memory: bytes beyond the embeddings as they were given."""

    seconds: float
    memory: int


def estimate(strategy: Selector, size: int, width: int, budget: int, rate: float | None = None) -> Cost:
    """A rough cost of `strategy.select` on `size` embeddings of `width` numbers.

    rate: multiply-adds a second of this machine's matrix products, measured when not given.
    """
    size = min(size, math.ceil(strategy.keep * budget)) if isinstance(strategy, UncertainThenDiverse) else size
    strategy = _inner(strategy)
    rate = rate or matrix_rate()
    if isinstance(strategy, KCenter):
        # measured: what is chosen is not looked at again, at most N k otherwise
        pairs = size * budget - budget**2 / 2 + 3072 * max(budget, 3072)
        wide = 1 if strategy.metric == "cosine" else 2
        return Cost(1.2 * wide * pairs * width / rate + budget * 1e-5, 4 * wide * size * width + 100 * 2**20)
    if isinstance(strategy, FacilityLocation):
        k = strategy.neighbours(size, budget)
        if k is not None:
            seconds = 1.4 * size**2 / 2 * width / rate + budget * 1e-4
            return Cost(seconds, 8 * size * width + (8 * ROOM + 16) * k * size + 60 * 2**20)
        held = 4 * size**2 if 4 * size**2 <= Exact.HELD else 0
        rows = min(7.0, 1 + math.log(budget + 1)) * size  # that change, measured
        products = size if held else rows
        return Cost(size * (products * width / rate + rows * 2e-9) + budget * 1e-5, 4 * size * width + held + 2**27)
    return Cost(1e-6 * size, 40 * size)


def _inner(strategy: Selector) -> Selector:
    """The strategy that does the work, where one delegates to another."""
    for name in ("within", "diverse"):
        strategy = getattr(strategy, name, strategy)
    return strategy


def matrix_rate() -> float:
    """Multiply-adds a second of float32 matrix products here, in a tenth of a second."""
    left, right = (np.ones((SIDE, SIDE), np.float32) for _ in range(2))
    out = left @ right
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < 0.1:
        np.matmul(left, right, out=out)
        times += 1
    return times * SIDE**3 / (time.perf_counter() - began)
