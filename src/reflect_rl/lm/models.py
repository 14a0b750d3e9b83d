"""Common properties of causal language models: base model, size, fingerprint, control tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pprint import pformat
from typing import TYPE_CHECKING, Any

from reflect_rl.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOOKUP = "reflect-rl-lookup"
"""Model type of `lm.lookup`; transformers knows it only after that module is imported."""
UNREAD = {"transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}
"""Parts of a configuration that change no output, and that saving may change; `fingerprint` has the weights' types."""
LIMITS = {"truncation", "padding"}
"""Parts of a tokenizer that calls change."""


def base_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM inside a PEFT wrapper (adapters stay active), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the end-of-text token. Raises ModelError if there is none."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(f"The tokenizer of {tokenizer.name_or_path} has no end-of-text token; choose another model.")
    return tokenizer.eos_token_id


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The sorted ids of all tokens that end a text, by tokenizer and generation settings."""
    more = getattr(model.generation_config, "eos_token_id", None)
    return sorted({end_id(tokenizer), *(more if isinstance(more, list) else [more])} - {None})  # type: ignore[type-var]


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids of all control tokens: those with a role, such as the end token, and those only marked as special."""
    marked = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return marked | set(tokenizer.all_special_ids)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id for padding, which nothing reads: any id with an embedding will do."""
    return tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all weights, what the model does with them, and the tokenizer.

    With equal ones, and equal precision, models write equal text.
    """
    digest = hashlib.sha256(pformat(_computes(model)).encode())  # which sorts
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(_bytes(weight))
    for token, index in sorted(tokenizer.get_vocab().items()):
        digest.update(f"{token}\0{index}\0".encode())
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:  # such as merges and normaliser
        rules = {key: rule for key, rule in json.loads(backend.to_str()).items() if key not in LIMITS}
        digest.update(json.dumps(rules, allow_nan=False).encode())
    ends = tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)
    digest.update(f"{ends}".encode())
    return digest.hexdigest()[:20]


def _computes(model: PreTrainedModel) -> dict[str, Any]:
    """The configuration, without what changes no output, and the scaling of adapters."""
    config = {key: value for key, value in model.config.to_dict().items() if key[0] != "_" and key not in UNREAD}
    scaled = {
        name: each for name, part in model.named_modules() if isinstance(each := getattr(part, "scaling", 0), dict)
    }
    return {"config": config, "scaling": scaled}


def _bytes(weight: torch.Tensor) -> bytes:
    import torch

    return weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def parameter_count(model: PreTrainedModel) -> int:
    """Number of weights; tied weights count once."""
    return sum(weight.numel() for weight in {id(p): p for p in model.parameters()}.values())


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Suppress messages of transformers and PEFT, and their bars, which would mix with those of the stages."""
    import warnings

    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
