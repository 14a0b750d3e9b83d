"""Group-relative by state: the baseline is the mean return after the same prompt, in any episode at any step."""

from __future__ import annotations

import numpy as np

from reflect_rl.settings import RlSettings
from reflect_rl.training.advantages.base import Estimates
from reflect_rl.training.rollout import Rollout


def estimate(rollout: Rollout, returns: list[np.ndarray], settings: RlSettings) -> Estimates:
    """A_t = G_t - mean of G over all visits of prompt s_t."""
    sums_P, visits_P = [0.0] * len(rollout.prompts), [0] * len(rollout.prompts)
    for t, g in zip(rollout.trajectories, returns, strict=True):
        for row, value in zip(t.rows, g, strict=True):
            sums_P[row] += float(value)
            visits_P[row] += 1
    mean_P = [total / max(1, visits) for total, visits in zip(sums_P, visits_P, strict=True)]
    raw = [g - np.array([mean_P[row] for row in t.rows]) for t, g in zip(rollout.trajectories, returns, strict=True)]
    return raw, returns
