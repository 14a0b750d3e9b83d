"""PEFT's LoRA layer with fewer passes over its output. Importing this module imports peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _RoundedOnce(torch.autograd.Function):
    """x W^T + bias + scaling x A^T B^T for rows x_TD, with A (down) and B (up) in a finer format than x and W.

    The sum is rounded once, by one matrix product. PEFT rounds x W^T first; in bfloat16, a sum with a number below half
    a unit in the last place is then the first number again, so that young adapters do nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        down_RD, up_ER = down.to(weight.dtype), (up * scaling).to(weight.dtype)
        inner_TR = x_TD @ down_RD.T
        ctx.save_for_backward(x_TD, inner_TR, weight, down_RD, up_ER)
        ctx.scaling, ctx.formats = scaling, (down.dtype, up.dtype)
        return F.linear(torch.cat([x_TD, inner_TR], 1), torch.cat([weight, up_ER], 1), bias)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, gradient_TE: Tensor
    ) -> tuple[Tensor | None, ...]:
        x_TD, inner_TR, weight, down_RD, up_ER = ctx.saved_tensors
        gradient_TR = gradient_TE @ up_ER
        for_down = (gradient_TR.T @ x_TD).to(ctx.formats[0])
        for_up = (gradient_TE.T @ inner_TR).to(ctx.formats[1]) * ctx.scaling
        for_x = (gradient_TE @ weight).addmm_(gradient_TR, down_RD) if ctx.needs_input_grad[0] else None
        return for_x, None, None, for_down, for_up, None


class FusedLinear(lora.Linear):
    """A LoRA layer whose scaled product is added by the matrix product itself.

    PEFT scales and adds it in two more passes, which took 21 % of the time of a forward and backward pass of
    SmolLM2-135M with rank 8 on a CPU.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        (name,) = self.active_adapters
        down: Any = self.lora_A[name].weight
        up: Any = self.lora_B[name].weight
        weight: Any = self.base_layer.weight
        same = x.dtype == down.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)
        if self.merged or self.disable_adapters or not (same or x.dtype == weight.dtype):
            return super().forward(x, *args, **kwargs)
        if not same:
            rows_TD = x.flatten(0, -2)
            made: Any = _RoundedOnce.apply(rows_TD, weight, self.base_layer.bias, down, up, self.scaling[name])
            return made.view(*x.shape[:-1], -1)
        base = self.base_layer(x)
        added = torch.addmm(base.flatten(0, -2), x.flatten(0, -2) @ down.T, up.T, alpha=self.scaling[name])
        return added.view(base.shape)


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
        plain = type(each) is lora.Linear and type(each.base_layer) is nn.Linear
        if plain and not each.lora_variant and not any(each.lora_bias.values()):
            each.__class__ = FusedLinear
