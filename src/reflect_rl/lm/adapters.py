"""LoRA adapters: create, load and save them in PEFT's layout, with a reference to their base model."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reflect_rl.errors import ModelError
from reflect_rl.lm.checks import check_finite, check_number_formats, refusal

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def require_peft(what: str) -> None:
    """Raise ModelError if peft is not installed."""
    # On some CPUs bitsandbytes, which PEFT imports, warns that a kernel for packed weights is absent; we pack none.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ModelError(f"{what} needs the peft library: pip install 'reflect-rl[lora]'.") from error


def read_config(file: Path, source: str) -> LoraConfig:
    """Read the adapter configuration of a folder. Raises ModelError for adapters that cannot be trained or merged."""
    require_peft(f"The adapter '{source}'")
    from peft import LoraConfig, PeftConfig

    config = PeftConfig.from_pretrained(str(file.parent))
    if not isinstance(config, LoraConfig) or config.alora_invocation_tokens:
        raise refusal(source, f"it is an adapter of the kind {config.peft_type}, and only LoRA is known", _MERGED)
    if config.task_type not in (None, "CAUSAL_LM"):
        raise refusal(source, f"it is an adapter for {config.task_type}, which is no causal language model")
    if not config.base_model_name_or_path:
        raise refusal(source, "it is an adapter that does not say of which model", f"Name its base in {file}.")
    return config


def changes_base(config: LoraConfig) -> bool:
    """Whether adapters also change weights of their base: they train its biases, or begin as a part of its weights
    (PiSSA, OLoRA and others), which is subtracted from it.
    """
    begin = config.init_lora_weights
    return config.bias != "none" or (isinstance(begin, str) and begin not in ("gaussian", "orthogonal"))


def fresh_config(rank: int) -> LoraConfig:
    """LoRA on every linear layer except the output layer."""
    require_peft("lora_rank")
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0)


def attach(model: PreTrainedModel, config: LoraConfig, base: str, seed: int) -> PeftModel:
    """Attach new trainable adapters to `model`. base: an absolute folder or hub name, stored with the adapters."""
    from peft import get_peft_model

    from reflect_rl.lm.fused_lora import fuse

    config.inference_mode = False
    with torch.random.fork_rng():  # peft uses the global generator, whose state must not affect a run
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, config)
    config.base_model_name_or_path = base
    fuse(adapted)
    return adapted.eval()


def fill(model: PeftModel, file: Path, source: str) -> None:
    """Load adapter weights from a file. Raises ModelError if they do not match the configuration exactly."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file
    from torch import nn

    plain: Any = model.get_base_model()
    outer = plain.get_input_embeddings(), plain.get_output_embeddings()
    if not all(isinstance(each, nn.Embedding | nn.Linear) for each in outer):  # PEFT's wrappers are neither
        raise refusal(source, "its adapters change the embeddings or the output layer", _MERGED)
    check_number_formats([file], source)
    weights = load_file(file)
    check_finite(weights.items(), source)
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    if odd := sorted(weights.keys() ^ wanted.keys()):
        state = "is missing" if odd[0] in wanted else "is more than its configuration says"
        raise refusal(source, f"of its adapters, {odd[0]} {state}", _MERGED)
    if other := sorted(name for name in weights if weights[name].shape != wanted[name].shape):
        shapes = f"{tuple(weights[other[0]].shape)}, and {tuple(wanted[other[0]].shape)} fits their base"
        raise refusal(source, f"of its adapters, {other[0]} has the shape {shapes}", _TRAINED)
    set_peft_model_state_dict(model, weights)


def save(model: PeftModel, folder: Path) -> None:
    """Save in PEFT's layout, with the same bytes every time."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config: Any = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    for name, value in vars(config).items():
        if isinstance(value, set):  # the order of a set differs between processes
            setattr(config, name, sorted(value))
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file({name: w.cpu().contiguous() for name, w in weights.items()}, folder / WEIGHTS, {"format": "pt"})


_TRAINED = f"Name the model that they were trained on as base_model_name_or_path in its {CONFIG}."
_MERGED = "Merge it into its base with PEFT (merge_and_unload), save that, and give its folder."
