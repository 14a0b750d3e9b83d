"""A causal language model read at a few positions only: the one forward pass behind policy and reflector.

`Backbone.hidden` gives the last layer's hidden states at the positions asked for, and nothing else: no
vocabulary-sized logits. Rows are padded on the right, where causal attention cannot see, so padding never changes a
number. For GPT-2-shaped models two exact savings are made: text that all rows share is computed once (`prefix`), and
the last block is computed for the read positions only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reflect_rl.players.models import LOOKUP, base_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


UNBOUNDED = 1 << 30


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """prefix_P: token ids shared by all rows (may be empty). ids_BL: what follows, padded on the right.
    read_BR: positions in ids_BL (not counting the prefix) at which the hidden state is wanted."""

    prefix_P: Tensor
    ids_BL: Tensor
    read_BR: Tensor

    def to(self, device: torch.device) -> TokenBatch:
        return TokenBatch(self.prefix_P.to(device), self.ids_BL.to(device), self.read_BR.to(device))


Prefix = list[tuple[Tensor, Tensor]]
"""Keys and values of a shared prefix, each (1, heads, P, D / heads), of every block."""


class Backbone:
    """`hidden(batch)` -> hidden_BRD, for any causal LM of transformers; adapters and quantised layers stay in use."""

    def __init__(self, model: PreTrainedModel, fast: bool = True) -> None:
        from transformers import GPT2LMHeadModel

        self.model = model
        plain = base_model(model)
        adapted = hasattr(model, "peft_config") or getattr(plain, "is_quantized", False)
        self.fast = fast and isinstance(plain, GPT2LMHeadModel) and not adapted and _plain_attention(plain.config)
        self.lookup = plain.config.model_type == LOOKUP
        self.output_rows: Tensor = plain.get_output_embeddings().weight  # type: ignore[union-attr, assignment]
        self.width: int = plain.config.hidden_size
        positions = getattr(plain.config, "max_position_embeddings", None) or getattr(plain.config, "n_positions", None)
        self.context: int = UNBOUNDED if self.lookup else positions or UNBOUNDED
        """Tokens that the model can read; a lookup model has no positions that could run out."""

    def read_prefix(self, prefix_P: Tensor) -> Prefix | None:
        """What `hidden` needs of a shared prefix, to be computed once for many batches; None if it cannot be kept."""
        return gpt2_prefix(base_model(self.model).transformer, prefix_P) if self.fast else None

    def hidden(self, batch: TokenBatch, prefix: Prefix | None = None) -> Tensor:
        """hidden_BRD at batch.read_BR, after the final norm. prefix: of batch.prefix_P, if it was computed before."""
        if self.fast:
            return gpt2_hidden(base_model(self.model).transformer, batch, prefix)  # type: ignore[arg-type]
        rows = batch.ids_BL.shape[0]
        ids_BL = torch.cat([batch.prefix_P.expand(rows, -1), batch.ids_BL], dim=1)
        read_BR = batch.read_BR + batch.prefix_P.shape[0]
        body: Any = base_model(self.model).base_model
        if self.lookup:
            return body.at(ids_BL, read_BR)
        return _gather(body(input_ids=ids_BL, use_cache=False).last_hidden_state, read_BR)


def _plain_attention(config: Any) -> bool:
    """Whether a GPT-2 scales its attention in the usual way; some published ones do not."""
    return config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx


def _gather(x_BLD: Tensor, read_BR: Tensor) -> Tensor:
    return x_BLD.gather(1, read_BR.unsqueeze(-1).expand(-1, -1, x_BLD.shape[-1]))


def gpt2_prefix(body: Any, prefix_P: Tensor) -> Prefix:
    """Keys and values of a text that all rows begin with, of every block."""
    x_1PD = (body.wte(prefix_P) + body.wpe.weight[: len(prefix_P)]).unsqueeze(0)
    kept = []
    for number, block in enumerate(body.h, 1):
        q, k, v = block_project(block, x_1PD, block.attn.num_heads)
        kept.append((k, v))
        if number < len(body.h):
            x_1PD = block_finish(block, x_1PD, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return kept


def gpt2_hidden(body: Any, batch: TokenBatch, prefix: Prefix | None = None) -> Tensor:
    """The forward pass of transformers' GPT2Model, at the read positions only (equal to it up to rounding)."""
    P, L = batch.prefix_P.shape[0], batch.ids_BL.shape[1]
    if P and prefix is None:
        prefix = gpt2_prefix(body, batch.prefix_P)
    places = torch.arange(P + L, device=batch.ids_BL.device)
    x_BLD = body.wte(batch.ids_BL) + body.wpe.weight[P : P + L]
    causal_LK = places[P:, None] >= places if P else None
    before = prefix if P and prefix else [None] * len(body.h)
    for block, shared in zip(body.h[:-1], before[:-1], strict=True):
        q, k, v = block_project(block, x_BLD, block.attn.num_heads)
        k, v = _behind(shared, k, v)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_LK, is_causal=causal_LK is None)
        x_BLD = block_finish(block, x_BLD, mixed)
    return body.ln_f(_last_block(body.h[-1], before[-1], x_BLD, batch.read_BR, places))


def _last_block(
    block: Any, shared: tuple[Tensor, Tensor] | None, x_BLD: Tensor, read_BR: Tensor, places: Tensor
) -> Tensor:
    """Keys and values of every position, everything else of the read ones."""
    heads, width = block.attn.num_heads, x_BLD.shape[-1]
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    normed = block.ln_1(x_BLD)
    q = _heads(torch.matmul(_gather(normed, read_BR), weight[:, :width]) + bias[:width], heads)
    kv = torch.matmul(normed, weight[:, width:]) + bias[width:]
    k, v = _behind(shared, *(_heads(part, heads) for part in kv.chunk(2, dim=-1)))
    before = len(places) - x_BLD.shape[1]
    seen_B1RK = (places <= (read_BR + before)[..., None]).unsqueeze(1)
    return block_finish(block, _gather(x_BLD, read_BR), F.scaled_dot_product_attention(q, k, v, attn_mask=seen_B1RK))


def _behind(shared: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with those of the shared prefix, if there is one, before each row's own."""
    if shared is None:
        return k, v
    rows = k.shape[0]
    return (
        torch.cat([shared[0].expand(rows, -1, -1, -1), k], dim=2),
        torch.cat([shared[1].expand(rows, -1, -1, -1), v], dim=2),
    )


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
