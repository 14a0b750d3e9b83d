"""Group-relative by task, as in GRPO (arXiv 2402.03300): episodes of the same task are compared with each other."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from reflect_rl.settings import RlSettings
from reflect_rl.training.advantages.base import Estimates
from reflect_rl.training.rollout import Rollout


def estimate(rollout: Rollout, returns: list[np.ndarray], settings: RlSettings) -> Estimates:
    """A_t = G_0 - mean of G_0 over episodes of the same task and stage, for every step of the episode."""
    starts = defaultdict(list)
    for t, g in zip(rollout.trajectories, returns, strict=True):
        starts[t.spec.task, t.spec.stage].append(g[0])
    raw = [
        np.full(len(g), g[0] - np.mean(starts[t.spec.task, t.spec.stage]))
        for t, g in zip(rollout.trajectories, returns, strict=True)
    ]
    return raw, returns
