"""Merge the LoRA adapters of a saved model into its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.errors import ModelError
from reflect_rl.lm import adapters
from reflect_rl.lm.models import quiet
from reflect_rl.lm.pretrained import load_pretrained
from reflect_rl.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_merged(folder: Path, trained: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer of a folder with adapters, merged into their base in float32.

    trained: the settings the adapters were trained with. A base that was quantised then is quantised here and turned
    back into float32: the adapters were fitted to these weights, not to those before.

    Raises ModelError if the base is missing, or if the adapters cannot be merged.
    """
    source = str(folder.resolve())
    if trained.bits not in (4, 8):
        return load_pretrained(ModelSettings(source=source))
    own = ModelSettings(source=source, lora_rank=trained.lora_rank, bits=trained.bits)
    loaded: Any = load_pretrained(own)
    adapted, tokenizer = loaded
    config = adapted.peft_config["default"]
    try:
        with quiet():
            base = adapted.unload().dequantize().float()
            again: Any = adapters.attach(base, config, config.base_model_name_or_path, seed=0)
            adapters.fill(again, folder / adapters.WEIGHTS, source)
            return again.merge_and_unload(), tokenizer
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"The adapters in {folder} cannot be merged into their base of {trained.bits} bits: {error}. Export them "
            f"without --merge, or train with bits: 32."
        ) from error
