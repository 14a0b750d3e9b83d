"""Logits of texts that are read piece by piece, with a cache: `read(ids_BL, last) -> logits_BKV`.

Prompts of different lengths are padded on the left. Mask and positions hide the padding, so results change by rounding
only. Architectures that do not accept both read prompts of one length at a time.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from reflect_rl.lm.models import LOOKUP, base_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reader(Protocol):
    def __call__(self, ids_BL: Tensor, last: int = 1) -> Tensor:
        """Read L more tokens of every row; return the logits after the last ones, (B, last, V) float32."""
        ...


def takes_padding(model: PreTrainedModel) -> bool:
    """Whether a batch may mix prompt lengths."""
    return _is_lookup(model) or {"attention_mask", "position_ids"} <= _arguments(model)


def make_reader(model: PreTrainedModel, pads_B: Tensor, longest: int) -> Reader:
    """A reader for texts of at most `longest` tokens. pads_B: left padding of each prompt."""
    if _is_lookup(model):
        return LookupReader(model, pads_B, longest)
    return CachedReader(model, pads_B) if "past_key_values" in _arguments(model) else PlainReader(model)


class CachedReader:
    """Any causal LM of transformers with a cache, which its own forward pass creates."""

    def __init__(self, model: PreTrainedModel, pads_B: Tensor) -> None:
        self.model, self.pads_B = model, pads_B
        self.arguments = _arguments(model)
        self.padded = takes_padding(model)
        self.cache: Any = None
        self.read = 0

    @torch.no_grad()
    def __call__(self, ids_BL: Tensor, last: int = 1) -> Tensor:
        given: dict[str, Any] = {"logits_to_keep": last} if "logits_to_keep" in self.arguments else {}
        end = self.read + ids_BL.shape[1]
        if self.padded:
            places_BL = torch.arange(end, device=ids_BL.device) - self.pads_B[:, None]
            given["attention_mask"] = (places_BL >= 0).long()
            given["position_ids"] = places_BL[:, self.read :].clamp(min=0)
        out = self.model(input_ids=ids_BL, past_key_values=self.cache, use_cache=True, **given)
        self.cache, self.read = out.past_key_values, end
        return out.logits[:, -last:].float()


class PlainReader:
    """A causal LM without a cache: every call reads the whole text again."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.ids_BL: Tensor | None = None

    @torch.no_grad()
    def __call__(self, ids_BL: Tensor, last: int = 1) -> Tensor:
        self.ids_BL = ids_BL if self.ids_BL is None else torch.cat([self.ids_BL, ids_BL], dim=1)
        return self.model(input_ids=self.ids_BL).logits[:, -last:].float()


class LookupReader:
    """The `lookup` architecture of this library."""

    def __init__(self, model: PreTrainedModel, pads_B: Tensor, longest: int) -> None:
        from reflect_rl.lm.lookup import LookupSteps

        self.steps = LookupSteps(base_model(model), len(pads_B), longest, pads_B)  # type: ignore[arg-type]

    @torch.no_grad()
    def __call__(self, ids_BL: Tensor, last: int = 1) -> Tensor:
        return self.steps.model.lm_head(self.steps.hidden(ids_BL)[:, -last:]).float()


def _is_lookup(model: PreTrainedModel) -> bool:
    return base_model(model).config.model_type == LOOKUP


def _arguments(model: PreTrainedModel) -> set[str]:
    return set(signature(base_model(model).forward).parameters)
