"""IsolatedEnv: a world in a process of its own, with a time-out. If it hangs, dies or leaks, only that process does."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from reflect_rl import errors
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.promises import BrokenPromiseError
from reflect_rl.envs.registry import make, path_of
from reflect_rl.envs.worker_process import ProcessLostError, WorkerProcess
from reflect_rl.errors import EnvironmentContractError, TeacherError, WorldLostError
from reflect_rl.records import StopReason
from reflect_rl.settings import EnvSettings

WORKER = "reflect_rl.envs.isolated_worker"
MAKING, MAKING_SECONDS = "making it", 60.0
IN_EPISODE = ("step", "expert", "expert_set", "describe")
"""What goes on failing after the process of an episode was lost, until `reset`."""
PLACE = re.compile(r'^  File "(?:.*/)?(.+)", line (\d+)', re.MULTILINE)
"""A line of a stack that faulthandler writes, innermost first."""
SHOWN = 200
"""Characters of a process's last words in a message."""


class World(WorkerProcess):
    """A process with one world in it, which at first is still being made.

    declared: what the world says of itself, once it is made. grown: megabytes since the first reset.
    """

    def __init__(self, path: str, options: Mapping[str, Any], timeout: float) -> None:
        super().__init__(WORKER, timeout=timeout)
        self.declared: dict[str, Any] | None = None
        self.grown = 0.0
        self.first_memory: float | None = None
        self.send(do="make", world=path, options=options)

    def began(self, horizon: int, memory: float) -> None:
        """An episode has begun. memory: megabytes of the process."""
        self.declared = (self.declared or {}) | {"horizon": horizon}
        if self.first_memory is None:
            self.first_memory = memory
        self.grown = memory - self.first_memory
        self.forget_words()


class IsolatedEnv(TextEnv):
    """A world in a process of its own: a `TextEnv` like any other, but that each method may raise WorldLostError.

    It does so if the process dies, or gives no answer in time. The process is then killed, together with all processes
    that it started, and the next `reset` begins in a new one. What the world prints is not shown. Of its info,
    `actions`, `task`, `stop` and `success` are passed on. The process checks answers against the contract.

    The process starts at once. The first use waits for it, and raises whatever kept the world from being made.

    Args:
        name: A registered world, or "module:Class".
        options: The arguments of its constructor, as JSON has them.
        timeout: Seconds for a single call. Making the world may take a minute, or as long if that is more.
        memory: Megabytes by which the process may grow before a new one takes its place, between episodes.
        idle: Where `close` leaves the process to other instances with the same arguments; None: it is ended.

    Raises:
        EnvironmentContractError: The world has no such name, or an option is nothing that JSON has.

    Example:
        >>> env = IsolatedEnv("taxi", timeout=30)
        >>> observation, info = env.reset(seed=0, options={"task": env.tasks("test")[0]})
        >>> len(info["actions"])
        6
        >>> env.close()
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        memory: float = 1000.0,
        idle: list[World] | None = None,
    ) -> None:
        self.name, self.timeout, self.memory = name, timeout, memory
        self._path, self._options, self._idle = path_of(name), dict(options or {}), idle
        try:
            json.dumps(self._options, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise EnvironmentContractError(
                f"{name} cannot be made in another process with {self._options}: {error}. Give its constructor text, "
                f"numbers, lists and the like, as JSON has them."
            ) from error
        self._lock = threading.Lock()
        self._closed = False
        self._actions: tuple[str, ...] = ()
        self._about: dict[str, Any] = {}
        self._lost: WorldLostError | None = None
        self._world: World | None = idle.pop() if idle else self._started()

    @property
    def task_text(self) -> str:  # type: ignore[override]
        return self._declared("task_text")

    @property
    def horizon(self) -> int:  # type: ignore[override]
        return self._declared("horizon")

    @property
    def stages(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._declared("stages"))

    @property
    def teachers(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._declared("teachers"))

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `TextEnv.reset`. A process that died, or has grown too much, is replaced."""
        world, self._lost = self._world, None
        if world is not None and world.grown > self.memory:
            self._world = None
            world.end()
        observation, actions, self._about, horizon, memory = self._ask("reset", seed=seed, options=dict(options or {}))
        self._actions = tuple(actions)
        if self._world is not None:
            self._world.began(horizon, memory)
        return observation, {"actions": self._actions, **self._about}

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """See `TextEnv.step`."""
        choice = self.check_choice(action, self._actions) if self._actions else 0
        observation, actions, reward, stop = self._ask("step", choice=choice)
        self._actions = self._actions if actions is None else tuple(actions)
        info = {"actions": self._actions, **self._about}
        if stop is None:
            return observation, reward, False, False, info
        info |= {"stop": StopReason(stop), "success": stop == StopReason.SUCCESS}
        return observation, reward, stop != StopReason.HORIZON, stop == StopReason.HORIZON, info

    def tasks(self, split: str) -> tuple[str, ...]:
        return tuple(self._ask("tasks", split=split))

    def panels(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(tasks) for name, tasks in self._ask("panels").items()}

    def kind(self, task: str) -> str:
        return self._ask("kind", task=task)

    def expert(self) -> int | None:
        return self._ask("expert")

    def expert_set(self) -> frozenset[int]:
        return frozenset(self._ask("expert_set"))

    def describe(self) -> dict[str, Any]:
        return self._ask("describe")

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """Not here: a teacher needs no world. Ask `registry.load(name).teach`."""
        raise TeacherError("A world in another process teaches nothing. Ask its class: registry.load(name).teach.")

    def close(self) -> None:
        """End the process, or leave it to others. Safe to call twice, and while a thread waits for an answer."""
        self._closed = True
        world = self._world
        if world is None:
            return
        if not self._lock.acquire(blocking=False):
            world.kill()  # the waiting thread sees it, and lets go
            return
        try:
            self._world = None
            if self._idle is not None and world.declared is not None:
                self._idle.append(world)
                return
            try:
                if world.declared is not None:
                    _read(world.ask(do="close"))
            finally:
                world.end()
        except ProcessLostError as lost:
            raise self._loss("close()", lost) from lost
        finally:
            self._lock.release()

    def _started(self) -> World:
        return World(self._path, self._options, self.timeout)

    def _declared(self, name: str) -> Any:
        world = self._world
        if world is None or world.declared is None:
            return self._ask("declare")[name]
        return world.declared[name]

    def _ask(self, do: str, **given: Any) -> Any:
        """The world's answer, and what it raised; starts a process if there is none."""
        with self._lock:
            if self._closed:
                raise EnvironmentContractError(f"{self.name} was closed. Make another one.")
            if self._lost is not None and do in IN_EPISODE:
                raise self._lost
            world = self._world = self._world or self._started()
            doing = MAKING
            try:
                if world.declared is None:
                    world.declared = _read(world.receive(max(self.timeout, MAKING_SECONDS)))
                doing = f"{do}()"
                return world.declared if do == "declare" else _read(world.ask(do=do, **given))
            except ProcessLostError as lost:
                self._lost = self._loss(doing, lost)
                raise self._lost from lost
            finally:
                if world.declared is None or world.ended:
                    world.kill()
                    self._world = None

    def _loss(self, doing: str, lost: ProcessLostError) -> WorldLostError:
        if lost.code is None:
            seconds = max(self.timeout, MAKING_SECONDS) if doing == MAKING else self.timeout
            what = f"{doing} took longer than {seconds:g} seconds, so that its process was killed"
        else:
            what = f"its process ended (exit code {lost.code}) while it was at {doing}"
        return WorldLostError(f"{self.name}: {what}{_place(lost.words)}.")


def _place(words: str) -> str:
    """The line at which a process ended or hung, if it told; else its last line."""
    _, told, stack = words.rpartition("(most recent call first):")
    if told and (place := PLACE.search(stack)):
        return f" ({place[1]}, line {place[2]})"
    last = words.rpartition("\n")[2][:SHOWN]
    return f" (its last words: {last})" if last else ""


def _read(reply: dict[str, Any]) -> Any:
    """The value of a reply; raises the error that it tells of."""
    if "error" not in reply:
        return reply["value"]
    kind = getattr(errors, reply["error"], EnvironmentContractError)
    error = BrokenPromiseError(reply["message"]) if "promise" in reply else kind(reply["message"])
    if isinstance(error, BrokenPromiseError):
        error.promise, error.seen = reply["promise"], reply["seen"]
    raise error


def open_world(settings: EnvSettings, idle: list[World] | None = None) -> TextEnv:
    """The world of a run: in this process, or with `env.processes` in one of its own. idle: see IsolatedEnv."""
    if not settings.processes:
        return make(settings.name, **settings.arguments)
    return IsolatedEnv(settings.name, settings.arguments, timeout=settings.timeout, memory=settings.memory, idle=idle)


@contextmanager
def side_by_side(processes: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`; with several processes, one that calls their worlds at the same time. Results keep their order."""
    if processes < 2:
        yield map
        return
    threads = ThreadPoolExecutor(processes, "worlds")
    try:
        yield threads.map
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # a call that hangs ends when its world is closed
