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

    def hidden(self, batch: TokenBatch) -> Tensor:
        """hidden_BRD at batch.read_BR, after the final norm."""
        if self.fast:
            return gpt2_hidden(base_model(self.model).transformer, batch)  # type: ignore[arg-type]
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


def gpt2_hidden(body: Any, batch: TokenBatch) -> Tensor:
    """The forward pass of transformers' GPT2Model, at the read positions only (equal to it up to rounding)."""
    P, (B, L) = batch.prefix_P.shape[0], batch.ids_BL.shape
    places = torch.arange(P + L, device=batch.ids_BL.device)
    x_BLD = body.wte(batch.ids_BL) + body.wpe(places[P:])
    p_1PD = (body.wte(batch.prefix_P) + body.wpe(places[:P])).unsqueeze(0)
    causal_LK = places[P:, None] >= places[None, :] if P else None
    blocks = list(body.h)
    for block in blocks[:-1]:
        keys, values = [], []
        if P:
            q, k, v = block_project(block, p_1PD, block.attn.num_heads)
            p_1PD = block_finish(block, p_1PD, F.scaled_dot_product_attention(q, k, v, is_causal=True))
            keys, values = [k.expand(B, -1, -1, -1)], [v.expand(B, -1, -1, -1)]
        q, k, v = block_project(block, x_BLD, block.attn.num_heads)
        keys, values = torch.cat([*keys, k], dim=2), torch.cat([*values, v], dim=2)
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=causal_LK, is_causal=causal_LK is None)
        x_BLD = block_finish(block, x_BLD, mixed)
    return body.ln_f(_last_block(blocks[-1], p_1PD, x_BLD, batch.read_BR, places))


def _last_block(block: Any, p_1PD: Tensor, x_BLD: Tensor, read_BR: Tensor, places: Tensor) -> Tensor:
    """Keys and values of every position, everything else of the read ones."""
    heads, width, P = block.attn.num_heads, x_BLD.shape[-1], p_1PD.shape[1]
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    normed = block.ln_1(x_BLD)
    read_BRD = _gather(x_BLD, read_BR)
    q = _heads(torch.matmul(_gather(normed, read_BR), weight[:, :width]) + bias[:width], heads)
    kv = torch.matmul(normed, weight[:, width:]) + bias[width:]
    k, v = (_heads(part, heads) for part in kv.chunk(2, dim=-1))
    if P:
        kv = torch.matmul(block.ln_1(p_1PD), weight[:, width:]) + bias[width:]
        shared = [_heads(part, heads).expand(x_BLD.shape[0], -1, -1, -1) for part in kv.chunk(2, dim=-1)]
        k, v = torch.cat([shared[0], k], dim=2), torch.cat([shared[1], v], dim=2)
    seen_B1RK = (places[None, None, :] <= (read_BR + P)[..., None]).unsqueeze(1)
    return block_finish(block, read_BRD, F.scaled_dot_product_attention(q, k, v, attn_mask=seen_B1RK))


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
