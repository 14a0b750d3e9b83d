"""Advantage estimators, one per file. To add one, write its file and add a line to `ESTIMATORS`."""

from __future__ import annotations

import numpy as np

from reflect_rl.settings import RlSettings
from reflect_rl.training.advantages import none, state, task, value
from reflect_rl.training.advantages.base import Estimates, Estimator, discounted_returns
from reflect_rl.training.rollout import Rollout

ESTIMATORS: dict[str, Estimator] = {
    "none": none.estimate,
    "state": state.estimate,
    "task": task.estimate,
    "value": value.estimate,
}
"""By the value of `rl.baseline`."""
ROUNDING = 1e-9
"""Standard deviations of the advantages below this share of the largest return count as zero."""


def advantages(rollout: Rollout, settings: RlSettings) -> Estimates:
    """(advantages, targets): a float64 array per trajectory; advantages are divided by their standard deviation.

    targets: what the value head learns; the discounted returns unless the estimator provides others. Raises
    NonFiniteError if returns are too large to learn a value.
    """
    returns = [discounted_returns(t.rewards, settings.gamma) for t in rollout.trajectories]
    largest = float(np.abs(np.concatenate(returns)).max())
    raw, targets = ESTIMATORS[settings.baseline](rollout, returns, settings)
    spread = float(np.concatenate(raw).std())
    # With equal returns only rounding errors are left, which must not be scaled up.
    scale = spread if spread > ROUNDING * largest else 1.0
    return [a / scale for a in raw], targets
