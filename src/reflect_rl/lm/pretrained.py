"""Load and save pretrained or earlier trained models and their tokenizers, in the layouts of transformers and PEFT."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.errors import ModelError
from reflect_rl.lm import adapters, checks
from reflect_rl.lm.bases import Bases
from reflect_rl.lm.checks import refusal
from reflect_rl.lm.models import quiet
from reflect_rl.lm.sources import lasting, located
from reflect_rl.settings import ModelSettings

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_pretrained(
    settings: ModelSettings,
    device: str = "cpu",
    seed: int = 0,
    read_only: bool = False,
    bases: Bases | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer from a source (`lm.sources`); safetensors or GGUF, without running code of theirs.

    LoRA adapters are applied to the base that they name: with `lora_rank` they are trained further, without it they are
    merged. If the source has no adapters, `lora_rank` adds new ones, initialised from `seed`. bits: 16 without adapters
    means float32 weights that compute in bfloat16 (`Backbone.computing`), since bfloat16 weights are too coarse for
    small updates. read_only: the model is not trained: no new adapters, and bits: 16 means bfloat16 weights. bases:
    where base models with adapters are kept, each once; by default each player loads its own.

    Raises ModelError if the model is not found, not a causal language model, damaged or pickled, or a library is
    missing.
    """
    source = settings.source
    path = located(source)
    local = Path(path).is_dir()
    try:
        if local:
            checks.check_folder(Path(path), source)
        with quiet(bars=not local):  # keep the bar of a download
            model, tokenizer = _loaded(settings, path, device, seed, read_only, bases or Bases())
            checks.check_reading(model, source)
    except ModelError:
        raise
    except Exception as error:  # a foreign folder can break its loaders in any way
        raise _refused(source, error) from error
    return model, tokenizer


def _refused(source: str, error: Exception) -> ModelError:
    """The error for a model at which a library failed."""
    reason, *more = (str(error).strip() or type(error).__name__).splitlines()
    if "custom code" in reason:
        reason = "it needs code of its own, which is never run here"
    if "gated repo" in reason:
        return refusal(source, " ".join([reason, *more[:1]]), "Accept its terms there, and log in: hf auth login.")
    return refusal(source, reason)


def _loaded(
    settings: ModelSettings, path: str, device: str, seed: int, read_only: bool, bases: Bases
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model, with the adapters of the folder or those that the settings request."""
    import torch

    known, found = _file(path, "config.json"), _file(path, adapters.CONFIG)
    if not (known or found):  # fail now: every further request to an unreachable hub is retried
        raise refusal(settings.source, "it is no folder here, and not to be had from the hub or its cache")
    config = adapters.read_config(found, settings.source) if found else None
    base = settings.source if config is None else _base(config, str(found), settings.source)
    quantised = settings.bits in (4, 8)
    # Adapters are merged and trained in float32; their base may be coarser.
    keeps = quantised or (settings.lora_rank > 0 and not read_only)
    half = quantised or (settings.bits == 16 and (keeps or (read_only and config is None)))
    dtype = torch.bfloat16 if half else torch.float32
    tokenizer = _tokenizer(path, located(base))
    shares = settings.lora_rank > 0 if config is None else not adapters.changes_base(config)
    if keeps and shares:
        key = lasting(base), settings.bits, dtype, device
        model = bases.get(key, lambda: _plain(settings, base, dtype, device))
    else:
        model = _plain(settings, base, dtype, device)
    embeddings: Any = model.get_input_embeddings()
    checks.check_vocabulary(tokenizer, embeddings.weight.shape[0], settings.source)
    adapted: Any = None
    if config is not None:
        if not read_only and settings.lora_rank not in (0, config.r):
            raise refusal(
                settings.source,
                f"its adapters have rank {config.r}, and lora_rank is {settings.lora_rank}",
                f"Set lora_rank: {config.r} to train them on, or 0 to merge them and train all weights.",
            )
        adapted = adapters.attach(model, config, lasting(base), seed)
        adapters.fill(adapted, Path(str(_file(path, adapters.WEIGHTS))), settings.source)
    elif keeps and settings.lora_rank:
        adapted = adapters.attach(model, adapters.fresh_config(settings.lora_rank), lasting(base), seed)
    if adapted is not None and keeps:
        return adapted, tokenizer
    model = model if adapted is None else adapted.merge_and_unload().requires_grad_(True)
    if settings.bits == 16 and read_only:
        model = model.bfloat16()
    elif settings.bits == 16:
        model.computes_in_bfloat16 = True  # type: ignore[assignment]
    return model, tokenizer


def _plain(settings: ModelSettings, base: str, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The checked model without adapters of the source `base`, on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    from reflect_rl.lm import lookup  # noqa: F401  registers its model type

    source, base = settings.source, located(base)
    checks.check_config(AutoConfig.from_pretrained(base, trust_remote_code=False), source)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if settings.bits in (4, 8):
        if find_spec("bitsandbytes") is None:
            raise ModelError(f"bits: {settings.bits} needs bitsandbytes: pip install 'reflect-rl[quantize]'.")
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=settings.bits == 4, load_in_8bit=settings.bits == 8, bnb_4bit_compute_dtype=dtype
        )
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        base, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    model, info = loaded
    checks.check_loaded(model, info, Path(str(_file(base, "config.json"))).parent, source)
    checks.check_finite(model.state_dict().items(), source)
    _drop_what_cannot_be_saved(model)
    _keep_quantised_layout(model)
    return model if settings.bits in (4, 8) else model.to(device)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model or of adapters, without the model. Raises ModelError."""
    path = located(source)
    try:
        if Path(path).is_dir():
            checks.check_folder(Path(path), source)
        found = _file(path, adapters.CONFIG)
        base = path if found is None else located(_base(adapters.read_config(found, source), str(found), source))
        return _tokenizer(path, base)
    except ModelError:
        raise
    except Exception as error:  # a foreign folder can break its loaders in any way
        raise _refused(source, error) from error


def _tokenizer(path: str, base: str) -> PreTrainedTokenizerBase:
    """The tokenizer of `path` (a folder or hub name) if it has one, otherwise that of its base."""
    from transformers import AutoTokenizer

    of = path if _file(path, "tokenizer.json") or _file(path, "tokenizer_config.json") else base
    return AutoTokenizer.from_pretrained(of, trust_remote_code=False)


def _base(config: LoraConfig, file: str, source: str) -> str:
    """The source of the base model of adapters. Raises ModelError if it is missing."""
    base = str(config.base_model_name_or_path or "")
    mend = f"Put it there, or write where it is as base_model_name_or_path in {file}."
    try:
        path = located(base)
    except ModelError as error:
        absent = f"it is an adapter, and the model that it belongs to ({base}) is not there"
        raise refusal(source, absent, mend) from error
    if Path(path).is_dir():
        if _file(path, adapters.CONFIG):
            raise refusal(source, f"its base {base} is an adapter itself", "Merge that one first, and name the result.")
        checks.check_folder(Path(path), base)
    elif not _file(path, "config.json"):
        raise refusal(source, f"it is an adapter, and the model that it belongs to ({base}) is not there", mend)
    return base


def _file(source: str, name: str) -> Path | None:
    """A file of a folder or of the hub, if reachable; None if there is none."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return Path(found) if found else None


def _keep_quantised_layout(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew when they are first read on a CPU with AVX512-BF16.

    With packed ones, gradients stop without an error, and log-probabilities of SmolLM2 moved by up to 7 when the
    policy that SFT had left was loaded again (bitsandbytes 0.50).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _drop_what_cannot_be_saved(model: PreTrainedModel) -> None:
    """Drop inconsistent sampling defaults, which can be loaded but not saved; they are never used here."""
    from transformers import GenerationConfig

    ends = model.generation_config.eos_token_id  # type: ignore[union-attr]
    try:
        model.generation_config.validate(strict=True)  # type: ignore[union-attr]
    except ValueError:
        model.generation_config = GenerationConfig(eos_token_id=ends)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save in Hugging Face's layout for AutoModelForCausalLM; of a model with adapters, save these only, in PEFT's."""
    with quiet():
        if hasattr(model, "peft_config"):
            adapters.save(model, folder)  # type: ignore[arg-type]
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
