"""Checks of a loaded model, each with one clear message for a fault that would otherwise pass silently.

The libraries accept too much: missing weights are initialised at random, eight-bit floats lose their scales, and a
bidirectional model passes for a language model. These checks inspect everything that was loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reflect_rl.errors import ModelError
from reflect_rl.lm.models import control_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

INSTEAD = "Give a folder or hub name of a causal language model with safetensors weights."
FLOATS = {"F64", "F32", "F16", "BF16"}
"""Accepted number formats of weights, by their safetensors names."""
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")
"""Suffixes of the class names of causal language models."""
PROBE = 8
"""Number of tokens read to test a model."""


def refusal(source: str, reason: str, instead: str = INSTEAD) -> ModelError:
    """The error for an unusable model."""
    return ModelError(f"The model '{source}' could not be loaded: {reason.rstrip('.')}. {instead}")


def check_folder(folder: Path, source: str) -> None:
    """Raise ModelError for an incomplete model folder, with a better message than the libraries give."""
    names = {path.name for path in folder.iterdir()}
    if not names & {"config.json", "adapter_config.json"}:
        if gguf := sorted(name for name in names if name.lower().endswith(".gguf")):
            raise refusal(source, "it is a folder with a GGUF file", f"Give the file: {folder / gguf[0]}.")
        raise refusal(source, "it has no config.json")
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
        held = f"its weights are pickles ({pickles[0]}), which can run code" if pickles else "it has no weights"
        raise refusal(source, f"{held}; there is no safetensors file")


def check_config(config: PreTrainedConfig, source: str) -> None:
    """Raise ModelError unless the config is of a plain causal language model; no weights are read."""
    if config.is_encoder_decoder:
        raise refusal(source, "it is an encoder-decoder model, which is no causal language model")
    if method := getattr(config, "quantization_config", None):
        name = method.get("quant_method") if isinstance(method, Mapping) else None
        raise refusal(
            source,
            f"its weights are quantised already ({name or 'an unknown method'})",
            "Give the model as it was before, and set bits: 4 or 8 to quantise it here.",
        )


def check_loaded(model: PreTrainedModel, info: Mapping[str, Collection[Any]], folder: Path, source: str) -> None:
    """Raise ModelError if weights are missing, have a wrong shape or number format, or are not of a language model.

    info: transformers' loading info. folder: the folder that was read.
    """
    known = {type(model).__name__, type(model.base_model).__name__}
    saved = model.config.architectures or []
    if saved and not any(name in known or name.endswith(LANGUAGE_MODELS) for name in saved):
        raise refusal(source, f"it was saved as {saved[0]}, which is no causal language model")
    if wrong := sorted(info["mismatched_keys"]):
        name, stored, wanted = wrong[0]
        raise refusal(
            source, f"{name} has the shape {tuple(stored)}, and its config.json says {tuple(wanted)}{_more(wrong)}"
        )
    if missing := sorted(info["missing_keys"]):
        raise refusal(source, f"the weight {missing[0]} is missing{_more(missing)}")
    if errors := list(info.get("error_msgs") or ()):
        raise refusal(source, str(errors[0]).splitlines()[0])
    check_number_formats(folder.glob("*.safetensors"), source)


def check_number_formats(files: Iterable[Path], source: str) -> None:
    """Raise ModelError for integer or eight-bit weights: their scales, which give them a meaning, are not loaded."""
    from safetensors import safe_open

    for file in sorted(files):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  not a dict
                stored = opened.get_slice(name).get_dtype()
                if name.endswith("weight") and stored not in FLOATS:
                    raise refusal(
                        source,
                        f"{name} is stored as {stored}, which means nothing without a scale",
                        "Give the model with weights of 16 or 32 bits, and set bits to quantise it here.",
                    )


def check_finite(weights: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Raise ModelError, naming the first weight that is not finite."""
    for name, weight in weights:
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            bad = int((~torch.isfinite(weight)).sum())
            raise refusal(
                source,
                f"{bad:,} of {weight.numel():,} numbers in {name} are not finite (NaN or infinite)",
                "The training that made it went wrong, or the file is damaged: give another model.",
            )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, source: str) -> None:
    """Raise ModelError if the tokenizer produces no tokens, or tokens without an embedding.

    rows: size of the embedding. Special tokens may lie beyond it, since they are never written, except the begin and
    end tokens.
    """
    if not tokenizer.encode("Action: A", add_special_tokens=False):
        raise refusal(source, "it has no tokenizer", "Save the tokenizer it was trained with into the same folder.")
    ends = tokenizer.eos_token_id
    if not isinstance(ends, int):
        raise refusal(source, "its tokenizer has no end-of-text token", "Set its eos_token, or choose another model.")
    special = control_ids(tokenizer)
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if tokenizer.pad_token_id in beyond:
        tokenizer.pad_token = None  # common and harmless: any token can pad
    if wrong := sorted(
        number for number in beyond if number not in special or number in (ends, tokenizer.bos_token_id)
    ):
        raise refusal(
            source,
            f"its tokenizer writes {beyond[wrong[0]]!r} as token {wrong[0]}, but the model has embeddings for "
            f"{rows:,} tokens{_more(wrong)}",
            "Give the tokenizer it was trained with, or resize and train its embeddings.",
        )


def check_reading(model: PreTrainedModel, source: str) -> None:
    """Read two texts with a common beginning.

    Raises ModelError if the beginning sees the end, if reading fails, or if the logits are not the model's own.

    All code here relies on causal attention: padding on the right is invisible, and a row's results do not depend on
    its batch.
    """
    from reflect_rl.lm.backbone import Backbone, TokenBatch

    try:
        backbone = Backbone(model)
        length = min(PROBE, backbone.context)
        ids_L = torch.arange(length) % len(backbone.output_rows)
        ids_BL = torch.stack([ids_L, ids_L])
        ids_BL[1, length // 2 :] = torch.arange(length - length // 2) + 2
        ids_BL %= len(backbone.output_rows)
        read_BR = torch.arange(length).expand(2, -1)
        batch = TokenBatch(torch.tensor((), dtype=torch.long), ids_BL, read_BR).to(backbone.device)
        with torch.no_grad():
            hidden_BRD = backbone.hidden(batch)
            with backbone.computing():
                own_BRV = model(input_ids=batch.ids_BL).logits.float()
                logits_BRV = backbone.logits(hidden_BRD)
    except Exception as error:  # an unknown architecture can fail in any way
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise refusal(source, f"{type(model).__name__} cannot be read as a causal language model ({said})") from error
    if not bool(torch.isfinite(hidden_BRD).all()):
        raise refusal(source, "what it reads becomes numbers that are not finite", "Try bits: 32, or another model.")
    begin_BRD = hidden_BRD[:, : length // 2]
    near = 1e-4 if hidden_BRD.dtype == torch.float32 and not backbone.mixed else 1e-2
    if bool((begin_BRD[0] - begin_BRD[1]).abs().max() > near * begin_BRD.abs().max()):
        raise refusal(source, f"{type(model).__name__} reads from both sides, which is no causal language model")
    if bool((logits_BRV - own_BRV).abs().max() > 10 * near * own_BRV.abs().max()):
        raise refusal(source, f"the output layer of {type(model).__name__} does what is not known here")


def _more(found: Collection[Any]) -> str:
    return f" ({len(found) - 1:,} more are wrong)" if len(found) > 1 else ""
