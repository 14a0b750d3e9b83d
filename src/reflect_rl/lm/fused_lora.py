"""PEFT's LoRA layer with fewer passes over its output, and one rounding of it. Importing this module imports peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class FusedLinear(lora.Linear):
    """A LoRA layer that adds its product and the base's by one matrix product, which rounds their sum once.

    PEFT adds them in passes of their own, after it has rounded the base's output: in bfloat16, a sum with a number
    below half a unit in the last place is then the base's output again, so that young adapters do nothing.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base: Any = self.base_layer
        weight: Tensor = base.weight
        if self.merged or self.disable_adapters or (x.dtype != weight.dtype and not _autocasts(x)):
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        down: Any = self.lora_A[name].weight
        up: Any = self.lora_B[name].weight
        rows_TD = x.flatten(0, -2)
        added_TE = rows_TD @ down.to(weight.dtype).T @ (up * self.scaling[name]).to(weight.dtype).T
        sum_TE = torch.addmm(added_TE, rows_TD, weight if isinstance(base, Conv1D) else weight.T)
        return (sum_TE if base.bias is None else sum_TE + base.bias).view(*x.shape[:-1], -1)


def _autocasts(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Let the LoRA layers of a model compute in PEFT's own way in the block."""
    fused: list[Any] = [module for module in model.modules() if type(module) is FusedLinear]
    for module in fused:
        module.__class__ = lora.Linear
    try:
        yield
    finally:
        for module in fused:
            module.__class__ = FusedLinear


def fuse(model: nn.Module) -> None:
    """Let the plain LoRA layers of a model compute as `FusedLinear`; others stay as they are."""
    each: Any
    for each in model.modules():
        plain = type(each) is lora.Linear and type(each.base_layer) in (nn.Linear, Conv1D)
        if plain and not each.lora_variant and not any(each.lora_bias.values()):
            each.__class__ = FusedLinear
