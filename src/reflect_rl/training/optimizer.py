"""The optimizer and its learning-rate schedules, and gradient steps shared by SFT and RL."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def make_optimizer(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable weights; decay only on matrices."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in trained if w.dim() >= 2], "weight_decay": weight_decay},
        {"params": [w for w in trained if w.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=(0.9, 0.98))


def warmup_cosine(step: int, steps: int) -> float:
    """Factor of the peak rate: linear warm-up over the first 5 %, then cosine to 0."""
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def linear_to(floor: float, step: int, steps: int) -> float:
    """Factor that falls linearly from 1 to `floor` over `steps`."""
    return 1 - (1 - floor) * step / max(1, steps - 1)


def rising(done: float, warmup: float) -> float:
    """Factor that rises linearly to 1 while `done` goes from 0 to `warmup`."""
    return min(1.0, done / warmup) if warmup else 1.0


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_and_step(optimizer: torch.optim.Optimizer, weights: Iterable[nn.Parameter], most: float) -> float:
    """One optimizer step with the global gradient norm clipped to `most`; returns the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(weights, most)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
