"""Small models and tokenizers from scratch, which learn from the run's own texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from reflect_rl.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PIECES = r" ?[A-Za-z]+| [0-9]+|[0-9]|-{2,}|[^A-Za-z0-9]"
"""The tokenizer never merges across these pieces: a word or number with the space before it, a digit without one, a
rule of dashes, any other single character.
"""


def train_tokenizer(texts: Iterable[str], vocabulary: int = 2000) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer on the run's own texts.

    Words and numbers become single tokens. Digits without a space before them and grid characters stay separate, so
    that a picture keeps its columns. Bytes are the fallback, so any text survives the round trip.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def scratch_model(settings: ModelSettings, vocabulary: int, context: int, seed: int, eos: int) -> PreTrainedModel:
    """A new model with `context` positions, float32, without dropout: GPT-2-shaped, or see `lm.lookup`.

    The initialisation lets such a narrow model learn: embeddings with standard deviation 0.3 and linear layers with
    1/sqrt(fan-in). With the library's constant 0.02 it hardly learns.
    """
    if settings.architecture == "lookup":
        from reflect_rl.lm.lookup import LookupConfig, fresh_lookup_lm

        return fresh_lookup_lm(
            LookupConfig(
                vocab_size=vocabulary,
                hidden_size=settings.width,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                kernel=settings.kernel,
                max_position_embeddings=context,
                bos_token_id=eos,
                eos_token_id=eos,
                pad_token_id=0,
            ),
            seed,
        )
    return _scratch_gpt2(settings, vocabulary, context, seed, eos)


def _scratch_gpt2(settings: ModelSettings, vocabulary: int, context: int, seed: int, eos: int) -> PreTrainedModel:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(seed)
    residual = (2 * settings.layers) ** -0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("wte.weight", "wpe.weight")):
                weight.normal_(0, 0.3, generator=generator)
            elif weight.dim() == 2:  # Conv1D: (fan-in, fan-out)
                scale = residual if name.endswith("c_proj.weight") else 1.0
                weight.normal_(0, scale * weight.shape[0] ** -0.5, generator=generator)
    return model
