"""One iteration's policy update, on minibatches of distinct prompts that carry all their visits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reflect_rl.lm.encoded import Encoded
from reflect_rl.players.policy import Choices, Policy
from reflect_rl.ranks import ALONE, Ranks
from reflect_rl.seeding import stream
from reflect_rl.settings import RlSettings
from reflect_rl.training.finite import finite
from reflect_rl.training.gradients import accumulate
from reflect_rl.training.losses import Folded, entropy_P, kl_P, ppo_gain, reinforce_gain, value_error
from reflect_rl.training.optimizer import clip_and_step, rising, set_lr
from reflect_rl.training.replay import SuccessReplay
from reflect_rl.training.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Learner:
    """What an update needs. ranks: share each minibatch. reference: the frozen reference policy, if there is one."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    settings: RlSettings
    seed: int
    ranks: Ranks = ALONE
    reference: Policy | None = None

    def parts(self, encoded: Sequence[Encoded], rows: Sequence[int]) -> list[list[int]]:
        """This rank's share of the rows, split into parts of one forward pass."""
        share = self.ranks.share(rows)
        return [[share[i] for i in part] for part in self.policy.through.parts([encoded[i] for i in share])]

    def accumulate(self, parts: Callable[[], Iterator[Tensor]]) -> float:
        """`accumulate` for the policy's weights."""
        return accumulate(parts, self.policy, self.ranks, self.policy.backbone.halve)


def update(learner: Learner, rollout: Rollout, folded: Folded, iteration: int, entropy: float) -> dict[str, float]:
    """Run all epochs of one iteration; return the loss, the gradient norm, and the entropy before the update.

    The learning rate of the iteration is approached from 0 during `rl.warmup`: Adam's first steps are as large as the
    rate, whatever the gradient, and can undo SFT.
    """
    settings = learner.settings
    encoded = [learner.policy.encode(prompt) for prompt in rollout.prompts]
    width = rollout.log_probs_PN.shape[1]
    visits = float(folded.visits_P.sum())
    is_ppo = settings.algorithm == "ppo"
    epochs = settings.epochs if is_ppo else 1
    batches = min(settings.minibatches, len(encoded)) if is_ppo else 1
    lr = learner.optimizer.param_groups[0]["lr"]
    losses, norms = [], []
    for step, rows in enumerate(_minibatches(learner.seed, iteration, len(encoded), epochs, batches)):
        loss = finite("the loss", _accumulate(learner, encoded, folded, rows, width, batches / visits, entropy))
        set_lr(learner.optimizer, lr * rising(iteration + (step + 1) / (epochs * batches), settings.warmup))
        norms.append(clip_and_step(learner.optimizer, learner.policy.parameters(), settings.max_grad_norm))
        losses.append(loss)
    return {
        "loss": sum(losses) / len(losses),
        "grad_norm": sum(norms) / len(norms),
        "entropy": float((folded.visits_P * entropy_P(folded.old_PN)).sum()) / visits,
    }


def drift(folded: Folded, new_PN: Tensor) -> dict[str, float]:
    """Exact KL between the rollout's policy and the current one, and between this and the reference, averaged over
    visits.

    new_PN: current log-probabilities of the rollout's prompts.
    """
    weight_P, new_PN = folded.visits_P / folded.visits_P.sum(), new_PN.to(folded.old_PN.device)
    figures = {"kl": float((weight_P * kl_P(folded.old_PN, new_PN)).sum())}
    if folded.reference_PN is not None:
        figures["kl_sft"] = float((weight_P * kl_P(new_PN, folded.reference_PN)).sum())
    return figures


def clip_fraction(rollout: Rollout, new_PN: Tensor, clip: float) -> float:
    """Share of visits whose probability ratio to the rollout differs from 1 by more than `clip`.

    new_PN: current log-probabilities of the rollout's prompts.
    """
    rows_V = np.concatenate([t.rows for t in rollout.trajectories]).astype(np.int64)
    choices_V = np.concatenate([t.choices for t in rollout.trajectories]).astype(np.int64)
    changes_V = new_PN.cpu().numpy()[rows_V, choices_V].astype(np.float64) - rollout.log_probs_PN[rows_V, choices_V]
    return float((np.abs(np.expm1(changes_V)) > clip).mean())


def _minibatches(seed: int, iteration: int, prompts: int, epochs: int, batches: int) -> Iterator[list[int]]:
    """The prompts of each epoch in a new order, in `batches` equal parts."""
    for epoch in range(epochs):
        order = stream(seed, "rl minibatches", iteration, epoch).permutation(prompts)
        for start in range(batches):
            yield sorted(order[start::batches].tolist())


def _accumulate(
    learner: Learner, encoded: list[Encoded], folded: Folded, rows: list[int], width: int, scale: float, entropy: float
) -> float:
    """Accumulate the gradients of one minibatch; return its loss."""

    def parts() -> Iterator[Tensor]:
        for part in learner.parts(encoded, rows):
            choices = learner.policy([encoded[i] for i in part], width)
            yield _loss(choices, folded.rows(part), learner.settings, entropy) * scale

    return learner.accumulate(parts)


def _loss(choices: Choices, rows: Folded, settings: RlSettings, entropy: float) -> Tensor:
    """The loss, summed over visits."""
    log_probs_PN = choices.log_probs_BN
    if settings.algorithm == "ppo":
        gain = ppo_gain(log_probs_PN, rows, settings.clip)
    else:
        gain = reinforce_gain(log_probs_PN, rows)
    loss = -gain - entropy * (rows.visits_P * entropy_P(log_probs_PN)).sum()
    if rows.reference_PN is not None:
        loss = loss + settings.reference_kl * (rows.visits_P * kl_P(log_probs_PN, rows.reference_PN)).sum()
    if settings.learns_value:
        loss = loss + settings.value_weight * value_error(choices.value_B, rows)
    return loss


def replay_update(learner: Learner, replay: SuccessReplay, iteration: int) -> None:
    """One REINFORCE step on a replayed success, if there is one."""
    drawn = replay.draw(learner.seed, iteration)
    if drawn is None:
        return
    prompts, taken, returns = drawn
    encoded = [learner.policy.encode(prompt) for prompt in prompts]
    width = max(prompt.actions for prompt in prompts)

    def parts() -> Iterator[Tensor]:
        for part in learner.parts(encoded, range(len(encoded))):
            log_probs_TN = learner.policy([encoded[i] for i in part], width).log_probs_BN
            device = log_probs_TN.device
            return_T = torch.tensor([returns[i] for i in part], dtype=torch.float32, device=device)
            chosen_T = log_probs_TN.gather(1, torch.tensor([taken[i] for i in part], device=device)[:, None]).squeeze(1)
            yield -(chosen_T * return_T).sum() / len(encoded)

    finite("the loss of a replayed success", learner.accumulate(parts))
    clip_and_step(learner.optimizer, learner.policy.parameters(), learner.settings.max_grad_norm)
