"""Policy losses on folded rows.

A prompt visited many times in a rollout is one row. Within an iteration its old distribution is the same at each visit,
so the sums of the positive and of the negative advantages per action give exactly the loss and gradient of the single
visits. Entropy and KL are exact, computed from the stored N-way distributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reflect_rl.training.rollout import Rollout

MOST_LOG_RATIO = 60.0
"""Beyond it exp nears float32's end, and an infinite ratio times an advantage of 0 would be no number."""


@dataclass(frozen=True, slots=True)
class Folded:
    """P distinct prompts with the sums over their visits.

    old_PN: log-probabilities in the rollout. gain_PN, loss_PN: sums of the positive and of the negative advantages of
    each action. visits_P: number of visits. return_P, square_P: sums of returns and of squared returns. reference_PN:
    log-probabilities of the reference policy, if there is one.
    """

    old_PN: Tensor
    gain_PN: Tensor
    loss_PN: Tensor
    visits_P: Tensor
    return_P: Tensor
    square_P: Tensor
    reference_PN: Tensor | None = None

    def rows(self, indices: Sequence[int] | Tensor) -> Folded:
        """The same for a subset of the prompts."""
        always = (self.old_PN, self.gain_PN, self.loss_PN, self.visits_P, self.return_P, self.square_P)
        reference_PN = None if self.reference_PN is None else self.reference_PN[indices]
        return Folded(*(field[indices] for field in always), reference_PN=reference_PN)


def fold(rollout: Rollout, advantages: Sequence[np.ndarray], returns: Sequence[np.ndarray], device: str) -> Folded:
    """Sum over the visits of each prompt."""
    rows = np.concatenate([t.rows for t in rollout.trajectories]).astype(np.int64)
    choices = np.concatenate([t.choices for t in rollout.trajectories]).astype(np.int64)
    advantage, reward = np.concatenate(advantages), np.concatenate(returns)
    P, N = rollout.log_probs_PN.shape
    gain_PN, loss_PN = np.zeros((P, N)), np.zeros((P, N))
    np.add.at(gain_PN, (rows, choices), advantage.clip(min=0))
    np.add.at(loss_PN, (rows, choices), advantage.clip(max=0))
    sums = [np.bincount(rows, weights, P) for weights in (None, reward, reward**2)]
    arrays = [rollout.log_probs_PN, gain_PN, loss_PN, *sums]
    return Folded(*(torch.tensor(array, dtype=torch.float32, device=device) for array in arrays))


def ppo_gain(log_probs_PN: Tensor, rows: Folded, clip: float) -> Tensor:
    """Sum over visits of PPO's clipped surrogate (Schulman et al. 2017, eq. 7)."""
    ratio_PN = _finite(log_probs_PN - rows.old_PN).clamp(max=MOST_LOG_RATIO).exp()
    return (ratio_PN.clamp(max=1 + clip) * rows.gain_PN + ratio_PN.clamp(min=1 - clip) * rows.loss_PN).sum()


def reinforce_gain(log_probs_PN: Tensor, rows: Folded) -> Tensor:
    """Sum over visits of log pi(a|s) times the advantage (Williams 1992)."""
    return (_finite(log_probs_PN) * (rows.gain_PN + rows.loss_PN)).sum()


def entropy_P(log_probs_PN: Tensor) -> Tensor:
    """Exact entropy of each choice distribution, in nats."""
    return -(log_probs_PN.exp() * _finite(log_probs_PN)).sum(-1)


def kl_P(old_PN: Tensor, log_probs_PN: Tensor) -> Tensor:
    """Exact KL(old || new) of each choice distribution, in nats."""
    return (old_PN.exp() * _finite(old_PN - log_probs_PN)).sum(-1)


def value_error(value_P: Tensor, rows: Folded) -> Tensor:
    """Sum over visits of (value - return)^2, from the folded sums."""
    return (rows.visits_P * value_P**2 - 2 * value_P * rows.return_P + rows.square_P).sum()


def _finite(x_PN: Tensor) -> Tensor:
    """Replace -inf and nan, which belong to inadmissible actions, by 0."""
    return torch.where(torch.isfinite(x_PN), x_PN, torch.zeros_like(x_PN))
