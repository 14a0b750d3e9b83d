"""The episodes of the page: a person steps the agent's world, and sees what the agent would do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import StrictInt
from starlette.exceptions import HTTPException

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, facts_of, tasks_of
from reflect_rl.players.agent import Agent, Decision
from reflect_rl.records import CHECKED, EpisodeMemory, State, StopReason
from reflect_rl.serving.batcher import Batcher
from reflect_rl.serving.kept import Kept
from reflect_rl.serving.limits import RETRY, Limits
from reflect_rl.serving.worker import Worker

Result = TypeVar("Result")

MOST_TASKS = 500
"""Test tasks that the page offers."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The episode to begin: a task, by default one that the world draws, and the world's seed."""

    __pydantic_config__ = CHECKED

    task: str | None = None
    seed: StrictInt = 0


@dataclass(frozen=True, slots=True)
class Choose:
    """The action to do, as an index into the actions."""

    __pydantic_config__ = CHECKED

    choice: StrictInt


@dataclass(slots=True)
class Play:
    """An episode. decision: the agent's, in `state`, once it is known. busy: whether a request steps the world."""

    name: str
    env: TextEnv
    memory: EpisodeMemory
    task: str | None
    state: State
    decision: Decision | None = None
    step: int = 0
    reward: float = 0.0
    total: float = 0.0
    stop: StopReason | None = None
    busy: bool = False

    def view(self) -> dict[str, Any]:
        """What the page shows."""
        return {
            "world": self.name,
            "task": self.task,
            "step": self.step,
            "observation": self.state.observation,
            "actions": self.state.actions,
            "reward": self.reward,
            "return": self.total,
            "stop": self.stop,
            "decision": asdict(self.decision) if self.decision else None,
        }


class Worlds:
    """Worlds that people step. Only the event loop calls it; all code of worlds runs in one thread of its own."""

    def __init__(self, agent: Agent, make_env: Callable[[], TextEnv], batcher: Batcher, limits: Limits) -> None:
        self._agent = agent
        self._make_env = make_env
        self._batcher = batcher
        self._limits = limits
        self._thread = Worker("worlds")
        self._open: dict[int, TextEnv] = {}  # by identity; the thread alone reads it
        self._plays = Kept[Play](
            limits.worlds, limits.idle_seconds, lambda play: self._thread.submit(partial(self._shut, play.env))
        )
        self._tasks = tasks_of(agent.world, "test")[:MOST_TASKS]

    def about(self) -> dict[str, Any]:
        """The world and its test tasks."""
        env, world = self._agent.settings.env, self._agent.world
        return {"name": env.name, "task_text": world.task_text, "horizon": world.horizon, "tasks": self._tasks}

    async def begin(self, asked: Begin) -> dict[str, Any]:
        """Begin an episode. Raises HTTPException: 400 (no such task), 503, or as `Batcher.decide`."""
        if asked.task is not None and asked.task not in self._tasks:
            raise HTTPException(400, f"There is no test task {asked.task!r} in this world.")
        begun = self._thread.submit(partial(self._begun, asked))
        try:
            play = await self._result(begun)
            view = await self._view(play)
        except BaseException:  # nobody will know its name: its world is closed, should it still be made
            self._thread.submit(partial(self._forget, begun))
            raise
        self._plays.put(play.name, play)
        return view

    async def show(self, name: str) -> dict[str, Any]:
        """An episode as it is.

        Raises HTTPException: 404 (no such episode, or no longer), 503 (it is being stepped), or as `Batcher.decide`.
        """
        play = self._play(name)
        if play.busy:
            raise HTTPException(503, "The world is still at its step. Ask again.", RETRY)
        return await self._view(play)

    async def _view(self, play: Play) -> dict[str, Any]:
        """What the page shows, once the agent has decided."""
        if play.decision is None and play.stop is None:
            state = play.state
            (decision,) = await self._batcher.decide([state])
            if play.state is state:
                play.decision = decision
        return play.view()

    async def step(self, name: str, asked: Choose) -> dict[str, Any]:
        """Do an action. After 429 or 503, `show` tells whether it was done.

        Raises HTTPException: 400 (no such action), 404, 409 (it has ended, or is being stepped), 503, or as `show`.
        """
        play = self._play(name)
        if play.stop is not None or play.busy or play.decision is None:
            reason = "has ended" if play.stop else "waits for an earlier request"
            raise HTTPException(409, f"The episode {reason}.")
        if not 0 <= asked.choice < len(play.state.actions):
            raise HTTPException(400, f"The choice is {asked.choice}; there are {len(play.state.actions)} actions.")
        play.busy = True
        done = self._thread.submit(partial(_advance, play, asked.choice))
        try:
            await self._result(done)
        finally:
            if done.cancel():  # it was not begun
                play.busy = False
        return await self.show(name)

    def expire(self) -> None:
        """Close the worlds of idle episodes."""
        self._plays.expire()

    def close(self) -> None:
        """Close all worlds, but do not wait for one that hangs."""
        self._thread.submit(self._shut_all)
        self._thread.close()
        self._thread.join(self._limits.leaving_seconds)

    def _play(self, name: str) -> Play:
        play = self._plays.get(name)
        if play is None:
            raise HTTPException(404, "There is no such episode, or no longer. Begin a new one.")
        return play

    def _begun(self, asked: Begin) -> Play:
        env, memory = self._make_env(), self._agent.new_memory()
        self._open[id(env)] = env
        try:
            observation, actions, info = begin(env, asked.seed, {} if asked.task is None else {"task": asked.task})
            state = memory.observe(observation, actions, facts_of(env))
        except BaseException:
            self._shut(env)
            raise
        return Play(secrets.token_urlsafe(16), env, memory, info.get("task", asked.task), state)

    def _forget(self, begun: Future[Play]) -> None:
        if not begun.cancelled() and begun.exception() is None:
            self._shut(begun.result().env)

    def _shut(self, env: TextEnv) -> None:
        del self._open[id(env)]
        env.close()

    def _shut_all(self) -> None:
        for env in list(self._open.values()):
            with suppress(BaseException):  # the others are closed all the same
                self._shut(env)

    async def _result(self, done: Future[Result]) -> Result:
        """What the thread gives. Raises HTTPException (503) if it takes too long; what it has begun, it ends."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(done), self._limits.answer_seconds)
        except TimeoutError:
            raise HTTPException(503, f"The world took over {self._limits.answer_seconds:g} s.", RETRY) from None


def _advance(play: Play, choice: int) -> None:
    try:
        observation, actions, reward, stop = advance(play.env, choice)
        facts = {} if stop else facts_of(play.env)
        play.memory.acted(choice, play.decision and play.decision.reflection)
        play.state = play.memory.observe(observation, actions, facts)
        play.decision, play.step, play.stop = None, play.step + 1, stop
        play.reward, play.total = reward, play.total + reward
    finally:
        play.busy = False
