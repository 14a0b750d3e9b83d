"""The forward pass behind policy and reflector: a causal language model read at a few positions only.

`Backbone.hidden` gives the last layer's hidden states at the requested positions, without vocabulary-sized logits.
There are two modes (`Passes`):

- packed: rows with a common prefix share a trie (lm/packed.py); for any architecture that accepts an attention mask.
- exact: rows are padded on the right, where causal attention cannot see, so padding never changes a result. Two exact
  optimisations apply to GPT-2-shaped models: the prefix shared by all rows is read once, and the last block is
  computed at the read positions only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reflect_rl.lm.layers import is_sharded, recomputes
from reflect_rl.lm.models import LOOKUP, base_model
from reflect_rl.lm.packed import Opening, Pack, read_opening, read_pack
from reflect_rl.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


UNBOUNDED = 1 << 30
LEAST_TOKENS = 64
"""Passes are not halved below this many tokens."""
GRAPH_BYTES = 3 * 2**26
"""Approximate memory that a padded pass may keep for its backward pass, unless `Passes.learning` is set."""


@dataclass(frozen=True, slots=True)
class Passes:
    """How rows go through a model.

    packed: as tries; otherwise padded, in chunks of one shape, so a row's results do not depend, to the bit, on its
    batch. tokens: maximum tokens in a pass, unless a single row is longer. learning: the same for a padded pass with
    gradients; 0 means what fits into GRAPH_BYTES. progress: is warned if passes become smaller.
    """

    packed: bool = False
    tokens: int = 2048
    learning: int = 0
    progress: Progress = field(default_factory=Progress, compare=False)

    @property
    def mode(self) -> Literal["packed", "exact"]:
        """The mode as recorded in manifests."""
        return "packed" if self.packed else "exact"

    def rows(self, length: int) -> int:
        """Rows of this length in a padded pass: a power of two, which limits the number of shapes."""
        return 1 << max(0, (self.tokens // length).bit_length() - 1)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A padded batch.

    prefix_P: token ids shared by all rows (may be empty). ids_BL: the rest of each row, padded on the right. read_BR:
    the positions in ids_BL (without the prefix) whose hidden states are wanted.
    """

    prefix_P: Tensor
    ids_BL: Tensor
    read_BR: Tensor

    def to(self, device: torch.device) -> TokenBatch:
        return TokenBatch(self.prefix_P.to(device), self.ids_BL.to(device), self.read_BR.to(device))


KeysValues = tuple[Tensor, Tensor]
"""Keys and values of the prefix in one block, each (1, heads, length, D / heads)."""


class Backbone:
    """`hidden(batch)` -> hidden_BRD for any causal LM of transformers; adapters and quantised layers stay active."""

    def __init__(self, model: PreTrainedModel, passes: Passes | None = None) -> None:
        from transformers import GPT2LMHeadModel

        self.model = model
        self.passes = passes or Passes()
        self._alone = False  # whether the latest pass read a single row
        self._opening: tuple[object, Opening] | None = None
        plain = base_model(model)
        adapted = hasattr(model, "peft_config") or getattr(plain, "is_quantized", False)
        gpt2 = isinstance(plain, GPT2LMHeadModel) and _plain_attention(plain.config)
        self.fast = gpt2 and not adapted and not self.passes.packed and not recomputes(model)
        self.lookup = plain.config.model_type == LOOKUP
        self.mixed: bool = getattr(plain, "computes_in_bfloat16", False)
        output: Any = plain.get_output_embeddings()
        self.output_rows: Tensor = output.weight
        self._bias: Tensor | None = getattr(output, "bias", None)
        config: Any = plain.config.get_text_config()
        self._scale: float = (getattr(config, "logit_scale", None) or 1.0) / (
            getattr(config, "logits_scaling", None) or 1.0
        )  # of Cohere's and Granite's models
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)  # of Gemma's
        self.width: int = plain.config.hidden_size
        positions = getattr(plain.config, "max_position_embeddings", None) or getattr(plain.config, "n_positions", None)
        self.context: int = UNBOUNDED if self.lookup else positions or UNBOUNDED
        """Context length in tokens. A lookup model has no positional limit."""

    @property
    def device(self) -> torch.device:
        return self.output_rows.device

    @cached_property
    def _weights(self) -> list[nn.Parameter]:
        return list(self.model.parameters())  # going through the modules takes as long as some of their layers

    def computing(self) -> AbstractContextManager[object]:
        """Context with the number format of a forward pass: bfloat16 on float32 weights if `bits: 16` asks for it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.mixed else nullcontext()

    @property
    def learning_tokens(self) -> int:
        """Maximum tokens in a pass with gradients, unless a single row is longer."""
        if self.passes.packed:
            return self.passes.tokens
        layers = base_model(self.model).config.num_hidden_layers
        each = 12 * layers * self.width * self.output_rows.element_size()
        return self.passes.learning or GRAPH_BYTES // each

    def halve(self) -> bool:
        """Halve the passes after one that ran out of memory; False if they cannot be smaller."""
        tokens = self.passes.tokens // 2
        if self._alone or tokens < LEAST_TOKENS or is_sharded(self.model):
            return False
        self.passes = replace(self.passes, tokens=tokens, learning=min(max(1, self.learning_tokens // 2), tokens))
        self.passes.progress.warn_here(
            f"The device ran out of memory: from now on, a pass has at most {tokens:,} tokens. To begin with that, set "
            f"compute.tokens: {tokens}."
        )
        return True

    def logits(self, x: Tensor, ids_N: Tensor | None = None) -> Tensor:
        """float32 logits of the N given tokens, or of the whole vocabulary: hidden states (..., D) -> (..., N).

        Those of given tokens are also computed in float32. Products of 16 bits would be rounded, to 1/16 between 8 and
        16, and differ between two passes of equal weights by more than the hidden states do.
        """
        logits = (x @ self.output_rows.T).float() if ids_N is None else x.float() @ self.output_rows[ids_N].float().T
        if self._bias is not None:
            logits = logits + (self._bias if ids_N is None else self._bias[ids_N]).float()
        if self._scale != 1.0:
            logits = logits * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def nodes(self, pack: Pack, opening: Opening | None = None) -> Tensor:
        """x_TD: hidden states of a pack's nodes, after the final norm. opening: what comes before them."""
        self._alone = len(pack.rows) == 1
        if torch.is_grad_enabled():  # a step follows, and fused optimizers do not count a weight's versions
            self._opening = None
        with self.computing():
            return read_pack(self.model, pack, opening=opening)

    def opening(self, ids: tuple[int, ...]) -> Opening:
        """Keys and values of the tokens that prompts begin with; kept until other tokens are asked for, a weight
        has changed, or a pass has kept gradients.
        """
        key = ids, sum(weight._version for weight in self._weights)
        if self._opening is None or self._opening[0] != key:
            self._alone = True
            with self.computing(), torch.no_grad():
                self._opening = key, read_opening(self.model, ids)
        return self._opening[1]

    def hidden(self, batch: TokenBatch) -> Tensor:
        """hidden_BRD at batch.read_BR, after the final norm."""
        self._alone = len(batch.ids_BL) == 1
        with self.computing():
            return self._hidden(batch)

    def _hidden(self, batch: TokenBatch) -> Tensor:
        body: Any = base_model(self.model).base_model
        if self.fast:
            return gpt2_hidden(body, batch)
        rows = batch.ids_BL.shape[0]
        ids_BL = torch.cat([batch.prefix_P.expand(rows, -1), batch.ids_BL], dim=1)
        read_BR = batch.read_BR + batch.prefix_P.shape[0]
        if self.lookup:
            return body.at(ids_BL, read_BR)
        return _gather(body(input_ids=ids_BL, use_cache=False).last_hidden_state, read_BR)


def _plain_attention(config: Any) -> bool:
    """Whether a GPT-2 scales attention in the usual way; some published ones do not."""
    return config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx


def _gather(x_BLD: Tensor, read_BR: Tensor) -> Tensor:
    return x_BLD.gather(1, read_BR.unsqueeze(-1).expand(-1, -1, x_BLD.shape[-1]))


def gpt2_hidden(body: Any, batch: TokenBatch) -> Tensor:
    """The forward pass of transformers' GPT2Model at the read positions only; equal to it up to rounding."""
    shared = _read(body, batch.prefix_P) if len(batch.prefix_P) else [None] * len(body.h)
    first, length = len(batch.prefix_P), batch.ids_BL.shape[1]
    weight = body.wpe.weight
    x_BLD = body.wte(batch.ids_BL) + weight[first : first + length]
    mask_LK = _mask(first, length, weight.dtype, weight.device) if first else None
    for block, before in zip(body.h[:-1], shared, strict=False):
        q, k, v = block_project(block, x_BLD, block.attn.num_heads)
        x_BLD = block_finish(block, x_BLD, _attend(q, *_behind(before, k, v), mask_LK))
    return body.ln_f(_last_block(body.h[-1], shared[-1], x_BLD, batch.read_BR))


def _read(body: Any, prefix_P: Tensor) -> list[KeysValues]:
    """Keys and values of the prefix in every block."""
    x_1LD = body.wte(prefix_P.unsqueeze(0)) + body.wpe.weight[: len(prefix_P)]
    kept = []
    for block in body.h:
        q, k, v = block_project(block, x_1LD, block.attn.num_heads)
        kept.append((k, v))
        if len(kept) < len(body.h):
            x_1LD = block_finish(block, x_1LD, _attend(q, k, v, None))
    return kept


@lru_cache(maxsize=64)
def _mask(first: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """mask_LK, added to the attention scores of `length` tokens after `first` others."""
    places = torch.arange(first + length, device=device)
    mask_LK = torch.zeros(length, first + length, dtype=dtype, device=device)
    return mask_LK.masked_fill(places[first:, None] < places, -torch.inf)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask_LK: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask_LK, is_causal=mask_LK is None)


def _last_block(block: Any, before: KeysValues | None, x_BLD: Tensor, read_BR: Tensor) -> Tensor:
    """The last block: keys and values of all positions, everything else at the read positions only."""
    heads, width = block.attn.num_heads, x_BLD.shape[-1]
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    normed = block.ln_1(x_BLD)
    q = _heads(torch.matmul(_gather(normed, read_BR), weight[:, :width]) + bias[:width], heads)
    kv = torch.matmul(normed, weight[:, width:]) + bias[width:]
    k, v = _behind(before, *(_heads(part, heads) for part in kv.chunk(2, dim=-1)))
    places = torch.arange(k.shape[2], device=k.device)
    seen_B1RK = (places <= (read_BR + k.shape[2] - x_BLD.shape[1])[..., None]).unsqueeze(1)
    return block_finish(block, _gather(x_BLD, read_BR), F.scaled_dot_product_attention(q, k, v, attn_mask=seen_B1RK))


def _behind(before: KeysValues | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values, preceded by those of the prefix."""
    if before is None:
        return k, v
    keys, values = (known.expand(k.shape[0], -1, -1, -1) for known in before)
    return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)


def _heads(x_BLD: Tensor, heads: int) -> Tensor:
    B, L, D = x_BLD.shape
    return x_BLD.view(B, L, heads, D // heads).transpose(1, 2)


def block_project(block: Any, x_BLD: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a GPT-2 block, each (B, heads, L, D / heads)."""
    qkv = block.attn.c_attn(block.ln_1(x_BLD))
    q, k, v = (_heads(part, heads) for part in qkv.chunk(3, dim=-1))
    return q, k, v


def block_finish(block: Any, x_BLD: Tensor, mixed_BHLE: Tensor) -> Tensor:
    """Attention's output projection and the MLP, each added to the residual stream."""
    mixed = mixed_BHLE.transpose(1, 2).reshape(x_BLD.shape)
    x_BLD = x_BLD + block.attn.c_proj(mixed)
    return x_BLD + block.mlp(block.ln_2(x_BLD))
