"""The optimizer, learning-rate schedules, and gradient steps for SFT and RL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from reflect_rl.errors import NonFiniteError
from reflect_rl.training.finite import finite

BETAS = (0.9, 0.98)
"""Betas of AdamW."""
SCRATCH_WIDTH = 64
"""The width of models from scratch, for which the rates of a new pointer head are meant."""


def make_optimizer(
    module: nn.Module, lr: float, weight_decay: float, kind: Literal["adamw", "muon"] = "adamw"
) -> torch.optim.Optimizer:
    """AdamW on the trainable weights; with Muon, that takes the matrices of the layers. Only matrices decay.

    A step of AdamW on the pointer, a matrix between two hidden states, moves its scores in proportion to the square of
    the width. On a model wider than `SCRATCH_WIDTH` it gets a rate smaller by as much, or its first steps undo it.
    """
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    hidden = [weight for name, weight in named if weight.dim() == 2 and _in_a_layer(name)] if kind == "muon" else []
    pointer = next((weight for name, weight in named if name == "pointer.weight"), None)
    taken = {id(weight) for weight in (*hidden, pointer)}
    trained = [weight for _, weight in named if id(weight) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [w for w in trained if w.dim() >= 2], "weight_decay": weight_decay},
        {"params": [w for w in trained if w.dim() < 2], "weight_decay": 0.0},
    ]
    if pointer is not None:
        scale = min(1.0, (SCRATCH_WIDTH / len(pointer)) ** 2)
        groups.append({"params": [pointer], "weight_decay": weight_decay, "scale": scale})
    parts: list[torch.optim.Optimizer] = []
    if hidden:
        parts.append(torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    if trained:
        parts.append(torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=BETAS))
    return parts[0] if len(parts) == 1 else SideBySide(parts)


def _in_a_layer(name: str) -> bool:
    """Whether a weight belongs to one of a transformer's numbered layers, not to embeddings or heads."""
    return any(part.isdigit() for part in name.split("."))


class SideBySide(torch.optim.Optimizer):
    """Several optimizers with disjoint weights as one: one step, one state."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        super().load_state_dict(dict(state_dict))
        self._share()

    def _share(self) -> None:
        """Make each part use its groups of this optimizer, and this optimizer's state."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


def warmup_cosine(step: int, steps: int) -> float:
    """Factor of the peak rate: linear warm-up over the first 5 % of steps, then cosine to 0."""
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def linear_to(floor: float, step: int, steps: int) -> float:
    """Factor that falls linearly from 1 to `floor` over `steps`."""
    return 1 - (1 - floor) * step / max(1, steps - 1)


def rising(done: float, warmup: float) -> float:
    """Factor that rises linearly to 1 as `done` goes from 0 to `warmup`."""
    return min(1.0, done / warmup) if warmup else 1.0


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate. Raises NonFiniteError if Adam's first steps with it would exceed float32."""
    if lr / (1 - BETAS[0]) > torch.finfo(torch.float32).max:
        raise NonFiniteError(f"a step at the learning rate {lr:g} is not finite")
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)


def clip_and_step(optimizer: torch.optim.Optimizer, weights: Iterable[nn.Parameter], most: float) -> float:
    """Clip the global gradient norm to `most` and take one optimizer step; return the norm before clipping.

    Raises NonFiniteError, and takes no step, if the norm is not finite.
    """
    norm = finite("the gradient norm", float(nn.utils.clip_grad_norm_(weights, most)))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
