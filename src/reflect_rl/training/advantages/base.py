"""Types and functions shared by the advantage estimators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from reflect_rl.settings import RlSettings
from reflect_rl.training.rollout import Rollout

Estimates = tuple[list[np.ndarray], list[np.ndarray]]
"""(advantages, targets of the value head): a float64 array per trajectory."""
Estimator = Callable[[Rollout, list[np.ndarray], RlSettings], Estimates]
"""Takes a rollout and the discounted returns of its trajectories."""


def discounted_returns(rewards: Sequence[float], gamma: float) -> np.ndarray:
    """G_t = r_t + gamma G_{t+1}."""
    returns = np.zeros(len(rewards))
    ahead = 0.0
    for step in reversed(range(len(rewards))):
        returns[step] = ahead = rewards[step] + gamma * ahead
    return returns
