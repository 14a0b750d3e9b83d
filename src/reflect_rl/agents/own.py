"""Anybody's agent: a class with `act`, loaded by name and called with every answer checked."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from reflect_rl.agents.player import Game, Move, Played, Player, Turn
from reflect_rl.envs.base import as_index
from reflect_rl.envs.promises import short, where
from reflect_rl.envs.registry import imported
from reflect_rl.errors import AgentError, ReflectRLError

ASYNC_SIDE_BY_SIDE = 16
"""Most episodes that an agent with an asynchronous `act` plays side by side, each with an instance of its own."""


class OwnPlayer(Player):
    """An agent of the user's, "module:Class".

    With `act_batch`, one instance plays `num_envs` episodes side by side; with an asynchronous `act`, several instances
    do; else one instance plays one episode after the other. A function is an agent that remembers nothing.

    Raises AgentError if it cannot be loaded, or raises.
    """

    def __init__(self, name: str, num_envs: int) -> None:
        self.name = name
        self._target = load_target(name)
        self._batched = hasattr(self._target, "act_batch")
        is_async = inspect.iscoroutinefunction(getattr(self._target, "act", self._target))
        self.num_envs = num_envs if self._batched else min(num_envs, ASYNC_SIDE_BY_SIDE) if is_async else 1
        self._runner = asyncio.Runner()
        self._idle: list[Any] = []
        self._playing: dict[Game, Any] = {}
        self._numbers: dict[Game, int] = {}
        self._count = itertools.count()
        self._shared: Any = None

    def begin(self, game: Game) -> None:
        if not self._batched:
            known = self._playing.get(game)  # it begins again, since its world was lost
            self._playing[game] = agent = known or (self._idle.pop() if self._idle else self._made())
            self._reset(agent, game)
            return
        if self._shared is None:
            self._shared = self._made()
            self._reset(self._shared, game)
        self._numbers[game] = next(self._count)

    def moves(self, turns: Sequence[Turn]) -> list[Move]:
        asked = [(turn.state.observation, turn.state.actions) for turn in turns]
        if self._batched:
            act_batch = self._shared.act_batch
            more = {"episodes": [self._numbers[t.game] for t in turns]} if _takes(act_batch, "episodes") else {}
            observations, actions = map(list, zip(*asked, strict=True))
            (answers,) = self._call("act_batch()", [lambda: act_batch(observations, actions, **more)])
            answers = list(answers) if isinstance(answers, Iterable) and not isinstance(answers, str) else [answers]
            if len(answers) != len(turns):
                raise AgentError(
                    f"{self.name}: act_batch() gave {len(answers)} choices for {len(turns)} observations. Return a "
                    f"list with a choice for each."
                )
        else:
            acts = [getattr(agent, "act", agent) for agent in (self._playing[turn.game] for turn in turns)]
            calls = [lambda act=act, each=each: act(*each) for act, each in zip(acts, asked, strict=True)]
            answers = self._call("act()", calls)
        return [self._move(answer, turn.state.actions) for answer, turn in zip(answers, turns, strict=True)]

    def end(self, played: Sequence[Played]) -> list[dict[str, Any]]:
        if not self._batched:
            self._idle += [self._playing.pop(each.game) for each in played]
        return super().end(played)

    def close(self) -> None:
        self._runner.close()

    def _made(self) -> Any:
        if not isinstance(self._target, type):
            return self._target
        return self._call(f"{self._target.__name__}()", [self._target])[0]

    def _reset(self, agent: Any, game: Game) -> None:
        if (reset := getattr(agent, "reset", None)) is not None:
            given = {"seed": game.seed} if _takes(reset, "seed") else {}
            self._call("reset()", [lambda: reset(**given)])

    def _call(self, what: str, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """The results of the user's code; those that have to be awaited are awaited side by side."""
        try:
            results = [call() for call in calls]
            waiting = [place for place, result in enumerate(results) if inspect.isawaitable(result)]
            if waiting:
                for place, value in zip(waiting, self._runner.run(_all([results[i] for i in waiting])), strict=True):
                    results[place] = value
        except (ReflectRLError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise AgentError(
                f"{self.name}: {what} raised {where(error)}. Finished episodes are kept; the same command continues."
            ) from error
        return results

    def _move(self, answer: Any, actions: tuple[str, ...]) -> Move:
        """The move that an answer names: an index, the text of an action, or an object with these as `choice`."""
        choice = getattr(answer, "choice", answer)
        index = _index_of(choice, actions) if isinstance(choice, str) else as_index(choice)
        said, given = getattr(answer, "reflection", None), getattr(answer, "probabilities", None)
        try:
            reflection = None if said is None else str.encode(said).decode()
            shares = [] if given is None else [round(float(share), 6) for share in given]
            if shares and not (len(shares) == len(actions) and all(map(math.isfinite, shares))):
                raise ValueError("other probabilities")
        except (TypeError, ValueError) as error:
            raise AgentError(
                f"{self.name}: an answer has the reflection {short(said)} and the probabilities {short(given)}. Give "
                f"text, and a finite number for each of the {len(actions)} actions; or None."
            ) from error
        more: dict[str, Any] = {"probabilities": shares} if shares else {}
        if not 0 <= index < len(actions):
            return Move(None, reflection, more | {"said": short(choice)})
        return Move(index, reflection, more)


async def _all(awaitables: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables)


def load_target(name: str) -> Any:
    """What "module:Class" names: a class with `act` or `act_batch`, or a function. Raises AgentError."""
    kinds = f"There is no agent '{name}': it is neither random, expert, openai:MODEL nor a folder"
    if ":" not in name:
        near = difflib.get_close_matches(name, ("random", "expert"), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else " Your own is named module:Class, or module:function."
        raise AgentError(f"{kinds}.{hint}")
    try:
        target = imported(name)
    except ReflectRLError as error:
        raise AgentError(f"{kinds}, and as module:Class: {error}") from error
    is_agent = any(callable(getattr(target, method, None)) for method in ("act", "act_batch"))
    if not is_agent and (isinstance(target, type) or not callable(target)):
        raise AgentError(
            f"{name} is no agent: it is {short(target)}. Name a class with reset() and act(observation, actions), or a "
            f"function of (observation, actions)."
        )
    return target


def source_hash(name: str) -> str | None:
    """sha256 of the file that defines an agent; None if it has none. Raises AgentError."""
    target = load_target(name)
    try:
        file = inspect.getsourcefile(target if isinstance(target, type) or inspect.isroutine(target) else type(target))
    except TypeError:
        return None
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _index_of(text: str, actions: tuple[str, ...]) -> int:
    """The action with this text, whatever its case and the white space around it; -1 if there is none."""
    if text in actions:
        return actions.index(text)
    found = [index for index, action in enumerate(actions) if action.strip().lower() == text.strip().lower()]
    return found[0] if len(found) == 1 else -1
