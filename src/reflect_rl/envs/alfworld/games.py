"""The games that worlds play, shared by all instances: those of a data folder, or generated ones, by task type."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from reflect_rl.envs.alfworld.data import TASK_TYPES, AlfworldData
from reflect_rl.envs.alfworld.game import GameFile
from reflect_rl.envs.alfworld.generator import GeneratedData
from reflect_rl.envs.simple import unknown
from reflect_rl.errors import EnvironmentContractError

GENERATED = "generated"
TOMATO = "pick_and_place_simple-Tomato-None-Microwave"
"""The task family of Reflect-RL (arXiv 2402.12621)."""
GAMES_KEPT = 256
"""Game files kept in memory; some 0.1 MB each."""


def families(task_types: str | Iterable[str]) -> tuple[str, ...]:
    """The types and families named, "all" and "tomato" spelled out. Raises EnvironmentContractError for others."""
    named = task_types.split(",") if isinstance(task_types, str) else list(task_types)
    found: list[str] = []
    for name in named:
        name = name.strip() if isinstance(name, str) else name
        if name == "all":
            found += TASK_TYPES
        elif name == "tomato":
            found.append(TOMATO)
        elif isinstance(name, str) and name.partition("-")[0] in TASK_TYPES:
            found.append(name)
        else:
            raise EnvironmentContractError(unknown("task type", name, ("all", "tomato", *TASK_TYPES)))
    if not found:
        raise EnvironmentContractError("task_types names no task type; leave it out for all six.")
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=4)
def games_of(data: str | None) -> AlfworldData | GeneratedData:
    """The games of a folder (see `find_data`), or generated ones."""
    return GeneratedData() if data == GENERATED else AlfworldData(data)


@lru_cache(maxsize=64)
def tasks_of(data: str | None, split: str, types: tuple[str, ...], described: bool = False) -> tuple[str, ...]:
    """The games of a split (by its name in the data) that belong to one of these types or families.

    described: only those that people described.
    """
    begins, games = tuple(f"{name}-" for name in types), games_of(data)
    found = (game for game in games.games(split) if f"{game.split('/')[-2]}-".startswith(begins))
    return tuple(game for game in found if not described or game in games.described)


@lru_cache(maxsize=GAMES_KEPT)
def load(data: str | None, task: str) -> GameFile:
    """Read a game."""
    return games_of(data).load(task)
