"""Next-token logits step by step, with cached keys and values.

`Steps(ids_BL) -> logits_BV`: read L more tokens of every row and return the logits after the last one. `HubSteps` works
for any causal LM of transformers. `Gpt2Steps`, for GPT-2-shaped models, writes into fixed-size buffers and avoids the
library's bookkeeping, which costs more than the arithmetic of a small model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reflect_rl.lm.backbone import Backbone, block_finish, block_project
from reflect_rl.lm.models import base_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Steps = Callable[[Tensor], Tensor]


def decoding_steps(backbone: Backbone, rows: int, longest: int, pads_B: Tensor | None = None) -> Steps:
    """Begin to decode `rows` texts of at most `longest` tokens, prompts included.

    pads_B: left padding of each prompt, if the architecture allows it (`Backbone.lookup`).
    """
    if backbone.lookup:
        from reflect_rl.lm.lookup import LookupSteps

        steps: Steps = LookupSteps(base_model(backbone.model), rows, longest, pads_B)  # type: ignore[arg-type]
    else:
        steps = Gpt2Steps(backbone, rows, longest) if backbone.fast else HubSteps(backbone.model)

    def computed(ids_BL: Tensor) -> Tensor:
        with backbone.computing():
            return steps(ids_BL)

    return computed if backbone.mixed else steps


class HubSteps:
    """Any causal LM of transformers."""

    def __init__(self, model: PreTrainedModel) -> None:
        from transformers import DynamicCache

        self.model = model
        self.cache = DynamicCache()

    @torch.no_grad()
    def __call__(self, ids_BL: Tensor) -> Tensor:
        out = self.model(input_ids=ids_BL, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].float()


class Gpt2Steps:
    """GPT-2-shaped models; equal to transformers up to rounding."""

    def __init__(self, backbone: Backbone, rows: int, longest: int) -> None:
        self.body: Any = base_model(backbone.model).transformer
        self.output_rows = backbone.output_rows
        self.heads: int = self.body.h[0].attn.num_heads
        shape = (len(self.body.h), rows, self.heads, longest, backbone.width // self.heads)
        self.keys, self.values = (self.output_rows.new_empty(shape) for _ in range(2))
        self.read = 0

    @torch.no_grad()
    def __call__(self, ids_BL: Tensor) -> Tensor:
        first, end = self.read, self.read + ids_BL.shape[1]
        if first and ids_BL.shape[1] > 1:
            raise ValueError("after the prompts, one token a call")
        x_BLD = self.body.wte(ids_BL) + self.body.wpe.weight[first:end]
        for block, keys, values in zip(self.body.h, self.keys, self.values, strict=True):
            q, k, v = block_project(block, x_BLD, self.heads)
            keys[:, :, first:end], values[:, :, first:end] = k, v
            mixed = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], is_causal=not first)
            x_BLD = block_finish(block, x_BLD, mixed)
        self.read = end
        return (self.body.ln_f(x_BLD[:, -1]) @ self.output_rows.T).float()
