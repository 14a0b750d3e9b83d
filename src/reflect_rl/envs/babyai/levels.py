"""BabyAI's levels by name, from minigrid, and its bot. minigrid is imported when a level is first made."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from threading import Lock
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from reflect_rl.envs.babyai.view import thing_name
from reflect_rl.envs.simple import unknown
from reflect_rl.errors import EnvironmentContractError

PREFIX = "BabyAI-"
VERBS = {
    "GoNextTo": "Go to",
    "Explore": "Explore",
    "Pickup": "Pick up",
    "Drop": "Drop",
    "Open": "Open",
    "Close": "Close",
}
"""By the names of the bot's subgoals."""
_PRINTS = Lock()
"""Held while stdout is replaced, which is one for all threads."""


class Aim(NamedTuple):
    """verb: one of VERBS, "" where the bot knows no way. target: what is there, "" for a cell that is empty or unseen.

    forward, left: steps to it; negative: back, right.
    """

    verb: str
    target: str
    forward: int
    left: int


def make_level(level: str) -> Any:
    """minigrid's environment of a level, without wrappers.

    Raises EnvironmentContractError if minigrid is missing, or has no such level.
    """
    try:
        import minigrid  # noqa: F401  # pyright: ignore[reportMissingImports]  for its registrations
    except ModuleNotFoundError as error:
        raise EnvironmentContractError(
            f"BabyAI needs {error.name}, which is not installed: pip install 'reflect-rl[babyai]'."
        ) from error
    ids = {
        name.removeprefix(PREFIX).rpartition("-v")[0]: name for name in gymnasium.registry if name.startswith(PREFIX)
    }
    if level not in ids:
        raise EnvironmentContractError(unknown("level", level, sorted(ids)))
    return gymnasium.make(ids[level], disable_env_checker=True).unwrapped


def reset_level(env: Any, seed: int) -> dict[str, Any]:
    """Begin an episode; minigrid's first observation. minigrid prints the layouts that it rejects: that is dropped."""
    with _PRINTS, redirect_stdout(io.StringIO()):
        return env.reset(seed=seed)[0]


class Guide:
    """minigrid's BabyAIBot, told what was really done.

    The bot follows an episode from its first step. So it plays along in an environment of its own, as far behind as
    nobody asks it.

    Args:
        env: the environment, of the level that is played.
        seed: of the episode.
    """

    def __init__(self, env: Any, seed: int) -> None:
        from minigrid.utils.baby_ai_bot import (  # pyright: ignore[reportMissingImports]
            BabyAIBot,
            DisappearedBoxError,
        )

        self._failures = (DisappearedBoxError, AssertionError, TypeError)  # how it gives up, in all levels tried
        self._env = env
        reset_level(env, seed)
        self._bot: Any = BabyAIBot(self._env)
        self._played = 0
        self._last: int | None = None
        self._next: int | None = None
        self._asked = self._lost = False

    def advise(self, done: list[int]) -> int | None:
        """What the bot would do now. done: the actions of the episode so far.

        Returns:
            minigrid's action; None if the bot knows no way on, as after a box was opened.
        """
        for action in done[self._played :]:
            self._ask()
            self._env.step(action)
            self._last, self._asked = action, False
        self._played = len(done)
        self._ask()
        return None if self._lost else self._next

    def aim(self) -> Aim:
        """What the bot is about now, after `advise`."""
        if self._lost or not self._bot.stack:
            return Aim("", "", 0, 0)
        subgoal = self._bot.stack[-1]
        verb, place = type(subgoal).__name__.removesuffix("Subgoal"), self._env.front_pos
        if verb == "GoNextTo":
            place = subgoal.datum
            if hasattr(place, "obj_set"):  # a description: the nearest of the things that fit
                place = self._bot._find_obj_pos(place, subgoal.reason == "PutNext")[1]
            elif hasattr(place, "cur_pos"):
                place = place.cur_pos
            verb = "Explore" if subgoal.reason == "Explore" else verb
        away = np.subtract(place, self._env.agent_pos)
        thing = self._env.grid.get(*place) if self._bot.vis_mask[tuple(place)] else None
        name = thing_name(*thing.encode()) if thing else ""
        return Aim(VERBS[verb], name, int(away @ self._env.dir_vec), -int(away @ self._env.right_vec))

    def _ask(self) -> None:
        """Have the bot think about the state now, once."""
        if self._asked or self._lost:
            return
        self._asked = True
        try:
            action = int(self._bot.replan(self._last))
        except self._failures:
            self._lost = True
            return
        self._lost = action == int(self._env.actions.done)
        self._next = action
