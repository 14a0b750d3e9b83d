"""Group-relative by state: the baseline is the mean return after the same prompt, in any episode at any step."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from reflect_rl.settings import RlSettings
from reflect_rl.training.advantages.base import Estimates
from reflect_rl.training.rollout import Rollout


def estimate(rollout: Rollout, returns: list[np.ndarray], settings: RlSettings) -> Estimates:
    """A_t = G_t - mean of G over all visits of prompt s_t."""
    sums: dict[int, float] = defaultdict(float)
    visits = Counter[int]()
    for t, g in zip(rollout.trajectories, returns, strict=True):
        visits.update(t.rows)
        for row, value in zip(t.rows, g, strict=True):
            sums[row] += float(value)
    mean = {row: total / visits[row] for row, total in sums.items()}
    raw = [g - np.array([mean[row] for row in t.rows]) for t, g in zip(rollout.trajectories, returns, strict=True)]
    return raw, returns
