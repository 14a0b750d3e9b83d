"""Returns and advantages of a rollout, a float64 array a trajectory.

Baselines: none; the mean return of the same prompt (group-relative by state); the mean return of the same start
(group-relative by task); a learned value with GAE.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from reflect_rl.errors import NonFiniteError
from reflect_rl.settings import RlSettings
from reflect_rl.training.rollout import Rollout

ROUNDING = 1e-9
"""Spread of the advantages, in the largest return, below which it is none."""


def discounted_returns(rewards: Sequence[float], gamma: float) -> np.ndarray:
    """G_t = r_t + gamma G_{t+1}."""
    returns = np.zeros(len(rewards))
    ahead = 0.0
    for step in reversed(range(len(rewards))):
        returns[step] = ahead = rewards[step] + gamma * ahead
    return returns


def generalized_advantages(
    rewards: Sequence[float], values: np.ndarray, gamma: float, lam: float, last: float = 0.0
) -> np.ndarray:
    """GAE (Schulman et al. 2016, eq. 16); `last` is the value after the last step, 0 where the episode ends.

    That includes the horizon. It is part of the task, since only success within it counts, and so nothing is gained
    after it: bootstrapping there would value what cannot be earned (Pardo et al. 2018, "Time limits in reinforcement
    learning", arXiv 1712.00378). But prompts do not tell how many steps are left, so V(s) is a mean over them.
    """
    advantages = np.zeros(len(rewards))
    ahead, value_ahead = 0.0, last
    for step in reversed(range(len(rewards))):
        delta = rewards[step] + gamma * value_ahead - values[step]
        advantages[step] = ahead = delta + gamma * lam * ahead
        value_ahead = values[step]
    return advantages


def advantages(rollout: Rollout, settings: RlSettings) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(advantages, returns) of every trajectory, the advantages divided by their overall deviation.

    Raises NonFiniteError for returns that are too large to learn a value of.
    """
    returns = [discounted_returns(t.rewards, settings.gamma) for t in rollout.trajectories]
    largest = float(np.abs(np.concatenate(returns)).max())
    if settings.baseline == "value":
        if largest**2 * rollout.steps > float(np.finfo(np.float32).max):
            raise NonFiniteError(
                f"the sum of the squared returns, of up to {largest:.3g} each, is not finite in single precision",
                "Scale the world's rewards to about 1, or choose an rl.baseline that learns no value.",
            )
        raw = [
            generalized_advantages(t.rewards, rollout.values_P[t.rows], settings.gamma, settings.gae_lambda)
            for t in rollout.trajectories
        ]
        returns = [a + rollout.values_P[t.rows] for a, t in zip(raw, rollout.trajectories, strict=True)]
    elif settings.baseline == "state":
        mean_P = _mean_by([(t.rows, g) for t, g in zip(rollout.trajectories, returns, strict=True)])
        raw = [
            g - np.array([mean_P[row] for row in t.rows]) for t, g in zip(rollout.trajectories, returns, strict=True)
        ]
    elif settings.baseline == "task":
        starts = defaultdict(list)
        for t, g in zip(rollout.trajectories, returns, strict=True):
            starts[t.spec.task, t.spec.stage].append(g[0])
        # The whole episode is judged by its start's group, as in GRPO.
        raw = [
            np.full(len(g), g[0] - np.mean(starts[t.spec.task, t.spec.stage]))
            for t, g in zip(rollout.trajectories, returns, strict=True)
        ]
    else:
        raw = returns
    spread = float(np.concatenate(raw).std())
    # Where all returns are equal, what is left is rounding, which must not be blown up to a signal.
    scale = spread if spread > ROUNDING * largest else 1.0
    return [a / scale for a in raw], returns


def _mean_by(groups: Sequence[tuple[Sequence[int], np.ndarray]]) -> dict[int, float]:
    sums: dict[int, float] = defaultdict(float)
    counts: dict[int, int] = defaultdict(int)
    for keys, values in groups:
        for key, value in zip(keys, values, strict=True):
            sums[key] += float(value)
            counts[key] += 1
    return {key: sums[key] / counts[key] for key in sums}
