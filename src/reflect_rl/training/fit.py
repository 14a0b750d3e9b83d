"""A supervised warm-up: minimise a loss over batches of examples, with checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from reflect_rl.errors import SettingsError
from reflect_rl.progress import Progress
from reflect_rl.ranks import ALONE, Ranks
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream
from reflect_rl.settings.training import SftSettings
from reflect_rl.training.checkpoint import Checkpointer
from reflect_rl.training.finite import finite, stopping
from reflect_rl.training.gradients import accumulate
from reflect_rl.training.optimizer import clip_and_step, make_optimizer, set_lr, warmup_cosine
from reflect_rl.training.sft_losses import Loss

SAVE_EVERY, SAVE_SECONDS = 200, 60.0
"""Steps and seconds between checkpoints, whichever is reached first: a step of a pretrained model takes seconds."""
SHARE = 20
"""A checkpoint by time waits at least this many times as long as the last one took to write."""


def fit(
    loss: Loss,
    examples: int,
    module: nn.Module,
    settings: SftSettings,
    run: RunFolder,
    seed: int,
    who: str,
    progress: Progress,
    ranks: Ranks = ALONE,
    halve: Callable[[], bool] = lambda: False,
) -> list[float]:
    """Minimise `loss`, resuming from a checkpoint; return the loss of each step.

    ranks: share each batch. halve: makes the loss's passes smaller when they run out of memory (`Backbone.halve`).
    Raises NonFiniteError if a loss, a gradient or a weight is not finite, including the weights after the last step.
    """
    if settings.steps and not examples:
        raise SettingsError(
            f"There is no label to train the {who} on. Collect episodes whose steps have an expert's action and a "
            f"teacher's text, or set {who}_sft.steps: 0."
        )
    module.eval()  # no dropout: it draws from a global generator, and would train another function than is evaluated
    optimizer = make_optimizer(module, settings.lr, settings.weight_decay, settings.optimizer)
    checkpoint = Checkpointer(run, f"checkpoints/sft-{who}", module, optimizer)
    found = checkpoint.load()
    start, losses = (found.done, found.extra["losses"]) if found else (0, [])
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    due = Due()
    advice = f"Lower {who}_sft.lr (it is {settings.lr:g}) and run again."
    with progress.bar(f"sft {who}", settings.steps, "steps", done=start) as bar:
        for step in range(start, settings.steps):
            with stopping(f"sft_{who}", "step", step + 1, checkpoint, advice):
                set_lr(optimizer, settings.lr * warmup_cosine(step, settings.steps))
                batch = _indices(seed, who, step, settings.batch, examples)
                parts = partial(loss, ranks.share(batch), batch)
                losses.append(finite("the loss", accumulate(parts, module, ranks, halve)))
                clip_and_step(optimizer, weights, 1.0)
                bar.update()
                bar.note(loss=losses[-1])
                if ranks.first and step + 1 < settings.steps and due(step + 1):
                    checkpoint.save(step + 1, losses=losses)
                    due.saved()
                if step + 1 == settings.steps:  # no later step would notice
                    checkpoint.check_finite()
                    with torch.no_grad():
                        finite("the loss after the last step", sum(ranks.gather(sum(map(float, parts())))))
    return losses


def last_tenth(losses: Sequence[float]) -> float | None:
    """The mean loss of the last tenth of the steps; None without steps."""
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last) if last else None


class Due:
    """When to write a checkpoint. What is trained does not depend on it."""

    def __init__(self) -> None:
        self._since, self._most = time.monotonic(), SAVE_SECONDS
        self._asked = self._since

    def __call__(self, done: int) -> bool:
        """Whether to write one after so many steps."""
        self._asked = time.monotonic()
        return done % SAVE_EVERY == 0 or self._asked - self._since >= self._most

    def saved(self) -> None:
        """One was written, since the last call of this object."""
        self._since = time.monotonic()
        self._most = max(SAVE_SECONDS, SHARE * (self._since - self._asked))


def _indices(seed: int, who: str, step: int, batch: int, examples: int) -> list[int]:
    """The examples of a step. Each epoch is a permutation; a batch may span two epochs."""
    chosen: list[int] = []
    place = step * batch
    while len(chosen) < batch:
        epoch, offset = divmod(place + len(chosen), examples)
        order = stream(seed, f"sft {who}", epoch).permutation(examples)
        chosen += order[offset : offset + batch - len(chosen)].tolist()
    return chosen
