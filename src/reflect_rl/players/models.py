"""Language models and tokenizers: from scratch, and saved in Hugging Face's layout."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.errors import ModelError, SettingsError
from reflect_rl.players import adapters
from reflect_rl.players.pretrained import quiet
from reflect_rl.progress import Progress
from reflect_rl.run_folder import RunFolder
from reflect_rl.settings import ComputeSettings, ModelSettings, Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

StageFunction = Callable[[RunFolder, Settings, Progress], dict[str, Any]]

PIECES = r" ?[A-Za-z]+| [0-9]+|[0-9]|-{2,}|[^A-Za-z0-9]"
"""What the scratch tokenizer never merges across: a word or a number with the space before it, a digit without one, a
rule of dashes, one other character."""


MKL_BITWISE = "MKL_CBWR"
"""Without it, Intel's MKL picks other kernels for the rows of a second thread, and a prompt's last bits would depend on
its place in a batch. MKL reads this at its first use; other libraries ignore it."""
LOOKUP = "reflect-rl-lookup"
"""The model type of `lookup_lm`, which transformers does not know before that module is imported."""


def check_device(device: str) -> None:
    """Raise SettingsError if the device is not there."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        raise SettingsError(f"compute.device: {device} is not available here. Use compute.device: cpu.")


@contextmanager
def torch_set_up(compute: ComputeSettings) -> Iterator[None]:
    """Threads and determinism of this process; afterwards they, and torch's generator, are what they were.

    Raises SettingsError if the device is not there.
    """
    import torch

    check_device(compute.device)
    bitwise = os.environ.get(MKL_BITWISE)
    os.environ.setdefault(MKL_BITWISE, "AUTO")
    memory: Any = torch.utils.deterministic
    threads, fills, frozen = torch.get_num_threads(), memory.fill_uninitialized_memory, gc.get_freeze_count()
    strict, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    gc.freeze()  # the libraries' own objects: walking through them takes a tenth of a second each time
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(compute.device == "cpu")
    memory.fill_uninitialized_memory = False  # nothing here reads it
    try:
        with torch.random.fork_rng(devices=[]):  # fresh layers draw from it before their weights are set
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=only_warns)
        memory.fill_uninitialized_memory = fills
        if bitwise is None:
            os.environ.pop(MKL_BITWISE, None)
        if not frozen:
            gc.unfreeze()


def with_torch(stage: StageFunction) -> StageFunction:
    """A stage that computes with torch, set up as its settings say while it runs."""

    @wraps(stage)
    def set_up(run: RunFolder, settings: Settings, progress: Progress) -> dict[str, Any]:
        with torch_set_up(settings.compute):
            return stage(run, settings, progress)

    return set_up


def train_tokenizer(texts: Iterable[str], vocabulary: int = 2000) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of the run's own texts.

    Words and numbers become single tokens, while every digit in a row of characters and every grid character stays one,
    so that a picture keeps its columns.
    Bytes are the fallback: any text survives the round trip.
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
    """A fresh model of `context` positions, float32, without dropout: GPT-2-shaped, or see `lookup_lm`.

    Its initialisation lets a model this narrow learn: embeddings with deviation 0.3, linear layers 1/sqrt(fan-in),
    against the library's flat 0.02, with which it barely moves.
    """
    if settings.architecture == "lookup":
        from reflect_rl.players.lookup_lm import LookupConfig, fresh_lookup_lm

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


def base_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM inside a PEFT wrapper (adapters stay active), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Hugging Face's layout, loadable by AutoModelForCausalLM; of a model with adapters these alone, in PEFT's."""
    with quiet():
        if hasattr(model, "peft_config"):
            adapters.save(model, folder)  # type: ignore[arg-type]
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the end-of-text token. Raises ModelError if there is none."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(f"The tokenizer of {tokenizer.name_or_path} has no end-of-text token; choose another model.")
    return tokenizer.eos_token_id


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to fill rows with where nothing reads it: any id that has an embedding will do."""
    return tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of every weight and of the vocabulary: two models with one fingerprint say the same."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(_bytes(weight))
    for token, index in sorted(tokenizer.get_vocab().items()):
        digest.update(f"{token}\0{index}\0".encode())
    return digest.hexdigest()[:20]


def _bytes(weight: torch.Tensor) -> bytes:
    import torch

    return weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def parameter_count(model: PreTrainedModel) -> int:
    """Number of weights, tied ones once."""
    return sum(weight.numel() for weight in {id(p): p for p in model.parameters()}.values())
