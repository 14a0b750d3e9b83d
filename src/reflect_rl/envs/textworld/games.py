"""TextWorld's games by name and seed: made by textworld itself, without a network, and kept in the user's cache.

Making one takes seconds. textworld is imported when a game is first made or played.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from reflect_rl.errors import EnvironmentContractError


class Kind(NamedTuple):
    """challenge: textworld's name. settings: the challenge's, as used by default. told: the goal, without the plan."""

    challenge: str
    settings: Mapping[str, Any]
    told: str


KINDS = {
    "coin": Kind("tw-coin_collector", {"level": 105}, "Find the coin and take it."),
    "cooking": Kind(
        "tw-cooking",
        {"recipe": 1, "take": 1, "go": 1, "open": True, "cook": True, "cut": True, "drop": False, "recipe_seed": 0},
        "Read the cookbook in the kitchen, gather the ingredients, cook the meal as the recipe says, and eat it.",
    ),
}

REFUSALS = (AssertionError, IndexError, KeyError, NameError, TypeError, ValueError)
"""What textworld raises for settings that it cannot use."""

_MAKING = threading.Lock()
"""textworld cannot make two games at once in one process."""


def engine() -> ModuleType:
    """The package textworld. Raises EnvironmentContractError if it is missing."""
    try:
        import textworld  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise EnvironmentContractError(
            f"TextWorld needs {error.name}, which is not installed: pip install 'reflect-rl[textworld]'."
        ) from error
    return textworld


@contextmanager
def without_warnings() -> Iterator[None]:
    """jericho, which runs the games, warns of each that it does not know its score; textworld keeps that itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def cache_folder() -> Path:
    """Where games are kept: $XDG_CACHE_HOME/reflect-rl/textworld, else ~/.cache/reflect-rl/textworld."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflect-rl" / "textworld"


def game_file(kind: str, settings: Mapping[str, Any], seed: int) -> Path:
    """The compiled game, made on first use. Several processes may ask for it at once.

    kind: a key of KINDS. settings: of the challenge, complete. Raises EnvironmentContractError if textworld is missing
    or refuses the settings, and if the cache cannot be written.
    """
    textworld = engine()
    key = json.dumps([kind, dict(settings), _version()], sort_keys=True, allow_nan=False)
    folder = cache_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}" / str(seed)
    with _MAKING:
        if folder.is_dir():
            return folder / "game.z8"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as draft:
                made = Path(draft) / "game"
                _make(textworld, kind, settings, seed, made)
                made.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # another process may have made it meanwhile
                raise EnvironmentContractError(
                    f"The game {kind} {seed} could not be kept in {folder} ({error}). Make room, or set XDG_CACHE_HOME "
                    f"to another folder."
                ) from error
    return folder / "game.z8"


def _make(textworld: ModuleType, kind: str, settings: Mapping[str, Any], seed: int, folder: Path) -> None:
    """Compile a game into a new folder: game.z8 and what textworld knows of it, game.json."""
    from textworld.challenges import CHALLENGES  # pyright: ignore[reportMissingImports]
    from textworld.generator import compile_game  # pyright: ignore[reportMissingImports]

    options = textworld.GameOptions()
    options.seeds = seed
    options.path = str(folder / "game.z8")
    with without_warnings():
        try:
            game = CHALLENGES[KINDS[kind].challenge][1](dict(settings), options)
        except REFUSALS as error:
            raise EnvironmentContractError(
                f"textworld cannot make a {kind} game with {dict(settings)}: {type(error).__name__}: {error}."
            ) from error
        compile_game(game, options)


@cache
def _version() -> str:
    return metadata.version("textworld")
