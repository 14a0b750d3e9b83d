"""No baseline: REINFORCE (Williams 1992). The advantage is the return."""

from __future__ import annotations

import numpy as np

from reflect_rl.settings import RlSettings
from reflect_rl.training.advantages.base import Estimates
from reflect_rl.training.rollout import Rollout


def estimate(rollout: Rollout, returns: list[np.ndarray], settings: RlSettings) -> Estimates:
    """A_t = G_t."""
    return returns, returns
