"""PEFT's LoRA layers with fewer passes over their output, and one rounding of it. This module imports peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

QUANTISED = ("Linear4bit", "Linear8bitLt")
"""PEFT's layers on bases of 4 and of 8 bits, by name: they exist only where bitsandbytes does."""


class Fused(nn.Module):
    """A LoRA layer that adds its product and the base's by one matrix product, which rounds their sum once.

    PEFT adds them in passes of their own, after it has rounded the base's output: in bfloat16, a sum with a number
    below half a unit in the last place is then the base's output again, so that young adapters do nothing. A base of 4
    or 8 bits is dequantised for each product. `fused` mixes this with one of PEFT's layers.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer: Any = self
        base, quantised = layer.base_layer, _is_quantised(layer)
        number = x.dtype if quantised else base.weight.dtype
        if layer.merged or layer.disable_adapters or (x.dtype != number and not _autocasts(x)):
            return super().forward(x, *args, **kwargs)
        (name,) = layer.active_adapters
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        rows_TD = x.flatten(0, -2)
        added_TE = rows_TD @ down.to(number).T @ (up * layer.scaling[name]).to(number).T
        if quantised:
            sum_TE = _QuantisedSum.apply(added_TE, rows_TD, base)
        else:
            sum_TE = torch.addmm(added_TE, rows_TD, base.weight if isinstance(base, Conv1D) else base.weight.T)
        return (sum_TE if base.bias is None else sum_TE + base.bias).view(*x.shape[:-1], -1)


class _QuantisedSum(torch.autograd.Function):
    """What an adapter adds, plus the product with a quantised weight, which is dequantised again for the gradient."""

    @staticmethod
    def forward(ctx: Any, added_TE: Tensor, rows_TD: Tensor, base: Any) -> Tensor:
        ctx.base = base
        return torch.addmm(added_TE, rows_TD, _dequantised(base, rows_TD.dtype).T)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad_TE,) = grads
        grad_TD = grad_TE @ _dequantised(ctx.base, grad_TE.dtype) if ctx.needs_input_grad[1] else None
        return grad_TE, grad_TD, None


def _dequantised(base: Any, number: torch.dtype) -> Tensor:
    from peft.utils.integrations import dequantize_bnb_weight

    return dequantize_bnb_weight(base.weight, getattr(base, "state", None)).to(number)


def _is_quantised(layer: Any) -> bool:
    return isinstance(layer, tuple(getattr(lora, name) for name in QUANTISED if hasattr(lora, name)))


def _autocasts(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


@cache
def fused(plain: type[nn.Module]) -> type[nn.Module]:
    """`Fused` with the rest of one of PEFT's layers."""
    return type(f"Fused{plain.__name__}", (Fused, plain), {"plain": plain})


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Let the LoRA layers of a model compute in PEFT's own way in the block."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, Fused)]
    for layer in layers:
        layer.__class__ = layer.plain
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = fused(type(layer))


def fuse(model: nn.Module) -> None:
    """Let the plain LoRA layers of a model compute as `Fused`; others stay as they are."""
    each: Any
    for each in model.modules():
        if not isinstance(each, lora.LoraLayer) or isinstance(each, Fused):
            continue
        plain = type(each) is lora.Linear and type(each.base_layer) in (nn.Linear, Conv1D)
        if (plain or _is_quantised(each)) and not each.lora_variant and not any(each.lora_bias.values()):
            each.__class__ = fused(type(each))
