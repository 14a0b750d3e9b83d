"""Next-token logits step by step, with cached keys and values.

`decoding_steps(backbone, prompts, longest)` begins to continue some prompts: `first()` gives logits_BV after the
prompts, and each call with ids_B1, one token for each row, those after it. There are four ways:

- `TrieSteps`, for any model that reads packed prompts: a common prefix of several prompts is read once.
- `PaddedSteps`, for other models of transformers.
- `Gpt2Steps`, for GPT-2-shaped models, and `lookup.LookupSteps` write into fixed-size buffers and avoid the library's
  bookkeeping, which costs more than the arithmetic of a small model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reflect_rl.lm.backbone import Backbone, block_finish, block_project
from reflect_rl.lm.models import base_model
from reflect_rl.lm.packed import packs, read_pack
from reflect_rl.lm.reading import make_reader, takes_padding

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Steps(Protocol):
    def first(self) -> Tensor:
        """logits_BV after the prompts."""
        ...

    def __call__(self, ids_B1: Tensor) -> Tensor:
        """logits_BV after one more token of each row."""
        ...


def mixes_lengths(backbone: Backbone) -> bool:
    """Whether prompts of different lengths can be decoded together."""
    return backbone.lookup or backbone.passes.packed or (not backbone.fast and takes_padding(backbone.model))


def decoding_steps(backbone: Backbone, prompts: Sequence[list[int]], length: int, longest: int, fill: int = 0) -> Steps:
    """Begin to decode after some prompts. Unless `mixes_lengths`, they have equal lengths.

    length: pad prompts to this many tokens, where prompts are padded. longest: maximum tokens of a prompt with its
    padding and what follows. fill: the padding token id.
    """
    model = backbone.model
    steps: Steps
    if backbone.passes.packed:
        steps = TrieSteps(backbone, prompts)
    elif backbone.fast:
        steps = Gpt2Steps(backbone, prompts, longest)
    else:
        steps = PaddedSteps(model, prompts, length, longest, fill)
    return _Computed(steps, backbone) if backbone.mixed else steps


class _Computed:
    """Steps in the number format of `Backbone.computing`."""

    def __init__(self, steps: Steps, backbone: Backbone) -> None:
        self.steps, self.backbone = steps, backbone

    def first(self) -> Tensor:
        with self.backbone.computing():
            return self.steps.first()

    def __call__(self, ids_B1: Tensor) -> Tensor:
        with self.backbone.computing():
            return self.steps(ids_B1)


class PaddedSteps:
    """Prompts padded on the left, for any causal LM."""

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[list[int]], length: int, longest: int, fill: int
    ) -> None:
        pads = [length - len(ids) for ids in prompts]
        self.ids_BL = torch.tensor([[fill] * pad + ids for pad, ids in zip(pads, prompts, strict=True)]).to(
            model.device
        )
        self.read = make_reader(model, torch.tensor(pads, device=model.device), longest)

    def first(self) -> Tensor:
        return self.read(self.ids_BL)[:, -1]

    def __call__(self, ids_B1: Tensor) -> Tensor:
        return self.read(ids_B1)[:, -1]


class TrieSteps:
    """Prompts read as tries (`lm.packed`); each row then continues from the keys and values along its path.

    Rows are aligned on the right: a cache has one length, and sliding windows count from its end.
    """

    def __init__(self, backbone: Backbone, prompts: Sequence[list[int]]) -> None:
        self.backbone, self.prompts = backbone, prompts
        self.lengths_B = torch.tensor([len(ids) for ids in prompts], device=backbone.device)
        self.longest = int(self.lengths_B.max())
        self.written = 0
        self.cache: Any = None

    @torch.no_grad()
    def first(self) -> Tensor:
        from transformers import DynamicCache

        layers: list[list[tuple[Tensor, Tensor]]] = []
        rows: list[int] = []
        hidden = []
        for pack in packs(self.prompts, self.backbone.passes.tokens):
            cache = DynamicCache()
            x_TD = read_pack(self.backbone.model, pack, cache)
            hidden.append(x_TD[[int(path[-1]) for path in pack.paths]])
            layers.append([self._along(layer, pack.paths) for layer in cache.layers])
            rows += pack.rows
        back_B = torch.tensor(rows, device=self.backbone.device).argsort()
        self.cache = DynamicCache()
        for number, parts in enumerate(zip(*layers, strict=True)):
            keys, values = (torch.cat(each)[back_B] for each in zip(*parts, strict=True))
            self.cache.update(keys, values, number)
        return self.backbone.logits(torch.cat(hidden)[back_B])

    def _along(self, layer: Any, paths: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """A layer's keys and values along each path, (B, heads, longest, E); the padding on the left repeats a node."""
        padded = np.stack([np.pad(path, (self.longest - len(path), 0)) for path in paths])
        nodes_BL = torch.from_numpy(padded).to(self.backbone.device)
        keys, values = (part[0][:, nodes_BL].transpose(0, 1) for part in (layer.keys, layer.values))
        return keys, values

    @torch.no_grad()
    def __call__(self, ids_B1: Tensor) -> Tensor:
        self.written += 1
        body: Any = base_model(self.backbone.model).base_model
        end = self.longest + self.written
        seen_BL = torch.arange(end, device=ids_B1.device) >= (self.longest - self.lengths_B)[:, None]
        out = body(
            input_ids=ids_B1,
            attention_mask=seen_BL.long(),
            position_ids=(self.lengths_B + self.written - 1)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return self.backbone.logits(out.last_hidden_state[:, -1])


class Gpt2Steps:
    """GPT-2-shaped models; equal to transformers up to rounding."""

    def __init__(self, backbone: Backbone, prompts: Sequence[list[int]], longest: int) -> None:
        self.body: Any = base_model(backbone.model).transformer
        self.backbone = backbone
        self.ids_BL = torch.tensor(prompts, device=backbone.device)
        self.heads: int = self.body.h[0].attn.num_heads
        shape = (len(self.body.h), len(prompts), self.heads, longest, backbone.width // self.heads)
        self.keys, self.values = (backbone.output_rows.new_empty(shape) for _ in range(2))
        self.read = 0

    def first(self) -> Tensor:
        return self._next(self.ids_BL)

    def __call__(self, ids_B1: Tensor) -> Tensor:
        return self._next(ids_B1)

    @torch.no_grad()
    def _next(self, ids_BL: Tensor) -> Tensor:
        first, end = self.read, self.read + ids_BL.shape[1]
        x_BLD = self.body.wte(ids_BL) + self.body.wpe.weight[first:end]
        for block, keys, values in zip(self.body.h, self.keys, self.values, strict=True):
            q, k, v = block_project(block, x_BLD, self.heads)
            keys[:, :, first:end], values[:, :, first:end] = k, v
            mixed = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], is_causal=not first)
            x_BLD = block_finish(block, x_BLD, mixed)
        self.read = end
        return self.backbone.logits(self.body.ln_f(x_BLD[:, -1]))
