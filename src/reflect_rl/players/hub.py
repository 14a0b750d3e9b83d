"""Exported agents on the Hugging Face hub: their files, and how they get there and back."""

from __future__ import annotations

import os
import re
from pathlib import Path

from reflect_rl.errors import OutputError, RunFolderError
from reflect_rl.paths import expanded
from reflect_rl.runs.folder import CONFIG

RESULTS, CARD = "results.json", "README.md"
PLAYERS = ("policy", "reflector")
PLAYER_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""The files of a model and its tokenizer. Never a pickle."""
FILES = [CONFIG, RESULTS, CARD, *(f"{player}/{pattern}" for player in PLAYERS for pattern in PLAYER_FILES)]
"""Everything that is uploaded or downloaded, as patterns."""
_PART = r"\w[\w.-]*"


def is_hub_name(source: str) -> bool:
    """Whether a source is a name on the hub, such as gpt2 or Qwen/Qwen3-0.6B, and no folder here."""
    return bool(re.fullmatch(rf"(?:{_PART}/)?{_PART}", source)) and not Path(source).exists()


def is_local(source: str) -> bool:
    """Whether a source is a path of this machine, and no name of a model on the hub or in a package."""
    return not (is_hub_name(source) or source.startswith("package:"))


def public_name(source: str) -> str:
    """A source without the folders that it lies in on this machine."""
    return Path(source).name if is_local(source) else source


def check_repository(name: str) -> None:
    """Raise OutputError unless `name` is a valid user/name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise OutputError(f"The repository '{name}' cannot be used: {_reason(error)}.") from error
    if "/" not in name:
        raise OutputError(f"The repository '{name}' has no owner. Name it user/name.")


def local_folder(path: str | Path) -> Path:
    """The folder of an agent: the path itself, or a download if it is a user/name of the hub and no folder here.

    Only `FILES` are downloaded. Raises RunFolderError if the hub has no such agent, or cannot be reached.
    """
    name = os.fspath(path)
    owner = name.partition("/")[0]
    if "/" not in name or not is_hub_name(name) or Path(owner).exists():  # beside existing runs: a mistyped folder
        return expanded(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # the client raises many unrelated types
        raise RunFolderError(
            f"{name} holds no trained agent: there is no such folder here, and the Hugging Face hub gave none "
            f"({_reason(error)}). `reflect-rl run RECIPE --out {name}` trains one."
        ) from error


def upload(folder: Path, name: str) -> str:
    """Upload an exported agent to the hub repository `name`, which is created if needed; return its address.

    The token is the one that huggingface_hub finds. Raises OutputError.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=FILES,
            delete_patterns=[RESULTS, *(f"{player}/*" for player in PLAYERS)],
            commit_message="Upload an agent exported by reflect-rl",
        )
    except Exception as error:  # the client raises many unrelated types
        raise OutputError(
            f"{folder} is complete, but could not be uploaded to {name}: {_reason(error)}. Check the network and the "
            f"token (`hf auth login`, or HF_TOKEN), and run the same command again."
        ) from error
    return str(address)


def _reason(error: Exception) -> str:
    """The first line of an error, without a full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
