"""A learned value with generalized advantage estimation (GAE: Schulman et al. 2016, arXiv 1506.02438, eq. 16)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reflect_rl.errors import NonFiniteError
from reflect_rl.settings import RlSettings
from reflect_rl.training.advantages.base import Estimates
from reflect_rl.training.rollout import Rollout


def estimate(rollout: Rollout, returns: list[np.ndarray], settings: RlSettings) -> Estimates:
    """GAE, with A_t + V(s_t) as targets. Raises NonFiniteError if returns are too large to learn a value."""
    largest = float(np.abs(np.concatenate(returns)).max())
    if largest**2 * rollout.steps > float(np.finfo(np.float32).max):
        raise NonFiniteError(
            f"the sum of the squared returns, of up to {largest:.3g} each, is not finite in single precision",
            "Scale the world's rewards to about 1, or choose an rl.baseline that learns no value.",
        )
    raw = [
        generalized_advantages(t.rewards, rollout.values_P[t.rows], settings.gamma, settings.gae_lambda)
        for t in rollout.trajectories
    ]
    return raw, [a + rollout.values_P[t.rows] for a, t in zip(raw, rollout.trajectories, strict=True)]


def generalized_advantages(rewards: Sequence[float], values: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """A_t = sum over k of (gamma lam)^k (r + gamma V' - V), from step t on, with a value of 0 after the last step.

    That holds at the horizon too: only success within it counts, so nothing can be earned after it, and bootstrapping
    would be wrong (Pardo et al. 2018, arXiv 1712.00378). Prompts do not show the remaining steps, so V(s) averages over
    them.
    """
    advantages = np.zeros(len(rewards))
    ahead, value_ahead = 0.0, 0.0
    for step in reversed(range(len(rewards))):
        delta = rewards[step] + gamma * value_ahead - values[step]
        advantages[step] = ahead = delta + gamma * lam * ahead
        value_ahead = values[step]
    return advantages
