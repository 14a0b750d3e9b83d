"""A small causal LM that learns to look things up in its prompt: a short causal convolution, and no positions.

A new GPT-2 of this size hardly learns to find an earlier word in its prompt, which is what reading an observation, a
history and a list of actions requires. Three changes solve this:

- A depthwise causal convolution with a residual mixes each token with the few before it, so a token knows its
  predecessor without positions ("canon layers": Allen-Zhu 2025).
- Without positional encoding (Kazemnejad et al. 2023, arXiv 2305.19466), what is learned at one position holds at all.
- Keys are initialised as a multiple of the queries (mimetic initialisation: Trockman and Kolter 2023, arXiv
  2305.09828), so a token attends to similar tokens from the first step.

It is a transformers model, saved and loaded in its layout. Importing this module registers it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from reflect_rl.lm.models import LOOKUP

KEY_GAIN = 1.5
"""Initial keys as a multiple of the queries."""


class LookupConfig(PretrainedConfig):
    """max_position_embeddings: maximum length, which only bounds memory. kernel: width of the convolution in tokens."""

    model_type = LOOKUP

    def __init__(
        self,
        vocab_size: int = 300,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        kernel: int = 8,
        max_position_embeddings: int = 1024,
        tie_word_embeddings: bool = True,
        **rest: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.kernel = kernel
        self.max_position_embeddings = max_position_embeddings
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**rest)


class LookupBlock(nn.Module):
    """Convolution, attention, MLP; pre-norm, residual."""

    def __init__(self, config: LookupConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.norm_1 = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, config.kernel, groups=width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def mixed(self, normed_BLD: Tensor, past_BKD: Tensor | None = None) -> Tensor:
        """Add to each token a mix of itself and the kernel - 1 tokens before it. past: the tokens before the first."""
        before = self.mix.kernel_size[0] - 1
        x_BLD = F.pad(normed_BLD, (0, 0, before, 0)) if past_BKD is None else torch.cat([past_BKD, normed_BLD], dim=1)
        return normed_BLD + self.mix(x_BLD.transpose(1, 2)).transpose(1, 2)

    def split(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, L, D / heads)."""
        B, L, D = x_BLD.shape
        q, k, v = (part.view(B, L, self.heads, -1).transpose(1, 2) for part in self.qkv(x_BLD).split(D, dim=-1))
        return q, k, v

    def finish(self, x_BLD: Tensor, attended_BHLE: Tensor) -> Tensor:
        """The output projection of attention and the MLP, each added to the residual stream."""
        x_BLD = x_BLD + self.out(attended_BHLE.transpose(1, 2).reshape(x_BLD.shape))
        return x_BLD + self.down(F.gelu(self.up(self.norm_2(x_BLD)), approximate="tanh"))

    def forward(self, x_BLD: Tensor) -> Tensor:
        q, k, v = self.split(self.mixed(self.norm_1(x_BLD)))
        return self.finish(x_BLD, F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def at(self, x_BLD: Tensor, read_BR: Tensor) -> Tensor:
        """`forward` at the read positions only; keys and values are computed for all tokens."""
        mixed_BLD = self.mixed(self.norm_1(x_BLD))
        place_BRD = read_BR.unsqueeze(-1).expand(-1, -1, x_BLD.shape[-1])
        q, k, v = self.split(mixed_BLD)
        q = q.gather(2, read_BR[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
        seen_B1RL = (torch.arange(x_BLD.shape[1], device=read_BR.device) <= read_BR[..., None]).unsqueeze(1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_B1RL)
        return self.finish(x_BLD.gather(1, place_BRD), attended)


class LookupModel(PreTrainedModel):
    """The body: hidden states after the final norm. Rows may be padded on the right."""

    config_class = LookupConfig
    base_model_prefix = "body"

    def __init__(self, config: LookupConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(LookupBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False, **_: Any) -> BaseModelOutput:
        seen = [self.embed(input_ids)]
        for block in self.blocks:
            seen.append(block(seen[-1]))
        seen[-1] = self.norm(seen[-1])
        return BaseModelOutput(seen[-1], tuple(seen) if output_hidden_states else None)  # type: ignore[arg-type]

    def at(self, ids_BL: Tensor, read_BR: Tensor) -> Tensor:
        """The last hidden states at the read positions only."""
        x_BLD = self.embed(ids_BL)
        for block in self.blocks[:-1]:  # type: ignore[union-attr]
            x_BLD = block(x_BLD)
        return self.norm(self.blocks[-1].at(x_BLD, read_BR))  # type: ignore[operator]


class LookupForCausalLM(PreTrainedModel, GenerationMixin):
    """The model with a language-model head, tied to the embeddings. `generate` works, without a cache."""

    config_class = LookupConfig
    base_model_prefix = "body"
    _tied_weights_keys = {"lm_head.weight": "body.embed.weight"}  # noqa: RUF012  as declared in transformers

    def __init__(self, config: LookupConfig) -> None:
        super().__init__(config)
        self.body = LookupModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.body.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self, input_ids: Tensor, logits_to_keep: int = 0, output_hidden_states: bool = False, **_: Any
    ) -> CausalLMOutput:
        out = self.body(input_ids, output_hidden_states=output_hidden_states)
        logits_BLV = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutput(logits=logits_BLV, hidden_states=out.hidden_states)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, **_: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids, "logits_to_keep": 1}


class LookupSteps:
    """Decoding with a cache: see `lm.decoding`.

    pads_B: left padding of each prompt. Without positions, unseen tokens change nothing: padding is neither mixed with
    what follows nor attended to.
    """

    def __init__(self, model: LookupForCausalLM, rows: int, longest: int, pads_B: Tensor | None = None) -> None:
        self.model, config = model, model.config
        places = torch.arange(longest, device=model.device)
        self.told_BL = None if pads_B is None else places >= pads_B[:, None]
        heads = config.num_attention_heads
        shape = (config.num_hidden_layers, rows, heads, longest, config.hidden_size // heads)
        self.keys, self.values = (model.lm_head.weight.new_empty(shape) for _ in range(2))
        self.past: list[Tensor | None] = [None] * config.num_hidden_layers
        self.read = 0

    @torch.no_grad()
    def hidden(self, ids_BL: Tensor) -> Tensor:
        """Read L more tokens of every row; return their hidden states after the final norm, (B, L, D)."""
        first, end = self.read, self.read + ids_BL.shape[1]
        before = self.model.config.kernel - 1
        x_BLD = self.model.body.embed(ids_BL)
        seen_B1LK = self._seen(first, end)
        blocks: Any = self.model.body.blocks
        for index, block in enumerate(blocks):
            normed_BLD, past_BKD = block.norm_1(x_BLD), self.past[index]
            if past_BKD is None and self.told_BL is not None:
                normed_BLD = normed_BLD * self.told_BL[:, :end, None]
            if past_BKD is None:
                past_BKD = normed_BLD.new_zeros(len(ids_BL), before, normed_BLD.shape[-1])
            q, k, v = block.split(block.mixed(normed_BLD, past_BKD))
            self.past[index] = torch.cat([past_BKD, normed_BLD], dim=1)[:, -before:] if before else past_BKD
            keys, values = self.keys[index], self.values[index]
            keys[:, :, first:end], values[:, :, first:end] = k, v
            mixed = F.scaled_dot_product_attention(
                q, keys[:, :, :end], values[:, :, :end], seen_B1LK, is_causal=seen_B1LK is None and not first
            )
            x_BLD = block.finish(x_BLD, mixed)
        self.read = end
        return self.model.body.norm(x_BLD)

    def _seen(self, first: int, end: int) -> Tensor | None:
        """The attention mask of the tokens from first to end; None if each sees all before it.

        Padding attends to itself to avoid nan.
        """
        single = first and end == first + 1
        if self.told_BL is None and (single or not first):
            return None
        if self.told_BL is not None and single:
            return self.told_BL[:, None, None, :end]
        places = torch.arange(end, device=self.model.device)
        causal_LK = places[first:, None] >= places
        if self.told_BL is None:
            return causal_LK
        return (self.told_BL[:, None, :end] & causal_LK | (places[first:, None] == places)).unsqueeze(1)


def fresh_lookup_lm(config: LookupConfig, seed: int) -> LookupForCausalLM:
    """A new model, initialised as the module describes; the same seed gives the same weights."""
    model = LookupForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    residual = (2 * config.num_hidden_layers) ** -0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("embed.weight"):
                weight.normal_(0, 0.3, generator=generator)
            elif name.endswith("mix.weight"):
                weight.normal_(0, config.kernel**-0.5, generator=generator)
            elif weight.dim() == 2:
                scale = residual if name.endswith(("out.weight", "down.weight")) else 1.0
                weight.normal_(0, scale * weight.shape[1] ** -0.5, generator=generator)
            elif name.endswith("bias"):
                weight.zero_()
        for block in model.body.blocks:
            query, key, _ = block.qkv.weight.split(config.hidden_size)  # type: ignore[union-attr, operator]
            key.copy_(KEY_GAIN * query)
    model.tie_weights()
    return model


AutoConfig.register(LookupConfig.model_type, LookupConfig, exist_ok=True)
AutoModelForCausalLM.register(LookupConfig, LookupForCausalLM, exist_ok=True)
