"""Advantage estimators, a file each, in one table. A new one is a file and a line in `ESTIMATORS`."""

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
"""By the name of `rl.baseline`."""
ROUNDING = 1e-9
"""Spread of the advantages, in the largest return, below which it is none."""


def advantages(rollout: Rollout, settings: RlSettings) -> Estimates:
    """(advantages, targets), a float64 array a trajectory each; the advantages are divided by their overall deviation.

    targets: what a value head learns, the discounted returns unless the estimator says otherwise. Raises NonFiniteError
    for returns that are too large to learn a value of.
    """
    returns = [discounted_returns(t.rewards, settings.gamma) for t in rollout.trajectories]
    largest = float(np.abs(np.concatenate(returns)).max())
    raw, targets = ESTIMATORS[settings.baseline](rollout, returns, settings)
    spread = float(np.concatenate(raw).std())
    # Where all returns are equal, what is left is rounding, which must not be blown up to a signal.
    scale = spread if spread > ROUNDING * largest else 1.0
    return [a / scale for a in raw], targets
