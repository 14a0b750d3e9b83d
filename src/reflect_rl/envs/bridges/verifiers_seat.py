"""The seat of the agent in an environment of verifiers. Import it inside functions only: it imports that library."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]
from verifiers.v1.configs.agent import agent_config_fields  # pyright: ignore[reportMissingImports]
from verifiers.v1.graph import prepare_turn  # pyright: ignore[reportMissingImports]
from verifiers.v1.session import RolloutLimits, call_hook, hook_boundary  # pyright: ignore[reportMissingImports]
from verifiers.v1.state import state_cls  # pyright: ignore[reportMissingImports]
from verifiers.v1.trace import AgentInfo, TraceTask  # pyright: ignore[reportMissingImports]
from verifiers.v1.types import content_text  # pyright: ignore[reportMissingImports]
from verifiers.v1.utils.decorators import discover_decorated  # pyright: ignore[reportMissingImports]

from reflect_rl.errors import EnvironmentContractError

LIMITS = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens")


def check_playable(name: str, environment: Any, task: Any) -> None:
    """Raise EnvironmentContractError if an environment needs more than one agent that answers in words."""
    agents = list(agent_config_fields(environment.config))
    stops = task.hooks("stop")
    toolsets = [*environment.taskset.toolsets(environment.taskset.config), *task.toolsets(task.config)]
    needs = {
        f"{len(agents)} agents ({', '.join(agents)})": len(agents) > 1,
        "tools": bool(toolsets),
        "hooks on a model's requests": any(hook_boundary(hook, allow_trace=True) is not vf.Trace for hook in stops)
        or bool(discover_decorated(task, "intercept")),
        "a sandbox": task.NEEDS_CONTAINER or any(_needs_runtime(hook) for hook in task.hooks("reward")),
    }
    for need, is_needed in needs.items():
        if is_needed:
            raise EnvironmentContractError(
                f"The verifiers environment {name} needs {need}. A world is played by one agent that answers in words."
            )


def _needs_runtime(hook: Any) -> bool:
    runtime = inspect.signature(hook).parameters.get("runtime")
    return runtime is not None and runtime.default is inspect.Parameter.empty


class Episode:
    """An episode that waits for an answer whenever the agent is asked. Everything runs in one event loop."""

    def __init__(self, environment: Any, task: Any) -> None:
        self._environment = environment
        self._task = task
        self._asked: asyncio.Queue[str] = asyncio.Queue()
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._playing: asyncio.Task[None] | None = None
        self.traces: list[Any] = []

    @property
    def reward(self) -> float:
        return float(sum(trace.reward for trace in self.traces))

    async def begin(self) -> str | None:
        """The first question, or None at the end of the episode."""
        self._playing = asyncio.create_task(self._play())
        return await self._next()

    async def answer(self, text: str) -> str | None:
        """Answer the question; the next one, or None at the end of the episode."""
        self._answers.put_nowait(text)
        return await self._next()

    async def cancel(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
            with suppress(asyncio.CancelledError, Exception):  # an episode that nobody plays any more
                await self._playing

    async def ask(self, question: str) -> str:
        """For the seat: what the player answers."""
        self._asked.put_nowait(question)
        return await self._answers.get()

    async def _next(self) -> str | None:
        assert self._playing is not None
        asked = asyncio.create_task(self._asked.get())
        await asyncio.wait({asked, self._playing}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        asked.cancel()
        self._playing.result()  # raises what the environment raised
        return None

    async def _play(self) -> None:
        environment, task = self._environment, self._task
        agents = vf.Agents(environment.config, lambda name, config: Seat(name, config, self))
        await environment.setup(agents)
        await environment.run(task, agents)
        record = vf.EnvInfo(id=environment.config.env_id)
        await environment.finalize(task, vf.Episode(env=record, task=_described(task), traces=self.traces))


class Seat:
    """What an environment takes for its agent (`vf.Agent`)."""

    def __init__(self, name: str, config: Any, episode: Episode) -> None:
        self.trainable = True
        self._name, self._config, self._episode = name, config, episode

    async def run(self, task: Any, **_: Any) -> Any:
        """One question and its answer, as an agent without tools."""
        async with self.interaction(task) as interaction:
            await interaction.turn()
        return interaction.trace

    @asynccontextmanager
    async def interaction(self, task: Any, **_: Any) -> AsyncIterator[Interaction]:
        trace = vf.Trace(
            task=_described(task), state=state_cls(type(task))(), agent=AgentInfo(config=self._config, name=self._name)
        )
        await _invoke(task.setup, trace)
        yield Interaction(task, trace, self._config, self._episode)
        trace.stop("user_closed")
        await _invoke(task.finalize, trace)
        await task.score(trace)
        trace.is_completed = trace.ok = True
        self._episode.traces.append(trace)


class Interaction:
    """A conversation of the environment with its agent (`vf.Interaction`)."""

    def __init__(self, task: Any, trace: Any, config: Any, episode: Episode) -> None:
        self.trace = trace
        self._episode = episode
        self._limits = RolloutLimits(**{name: getattr(config, name) for name in LIMITS})
        self._stops = task.hooks("stop")
        prompt = task.data.prompt or []
        self._new = [vf.SystemMessage(content=task.data.system_prompt)] if task.data.system_prompt else []
        self._new += [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else prompt
        self._said: list[Any] = []

    async def turn(self, message: Any = None) -> Any:
        """Say something to the agent; what it answers."""
        if message is not None:
            self._new += [vf.UserMessage(content=message)] if isinstance(message, str) else map(_typed, message)
        if await self._is_over():
            return vf.Segment(messages=[], terminated=True)
        new, self._new = self._new, []
        answer = await self._episode.ask("\n\n".join(filter(None, (content_text(each.content) for each in new))))
        reply = vf.AssistantMessage(content=answer)
        prepare_turn(self.trace, [*self._said, *new]).commit(
            vf.Response(id="", created=0, model="reflect-rl", message=reply, finish_reason="stop")
        )
        self._said += [*new, reply]
        return vf.Segment(messages=[reply])

    async def _is_over(self) -> bool:
        stop = self._limits.reached(self.trace)
        for hook in self._stops:
            stop = stop or (hook.__name__ if await call_hook(hook, {vf.Trace: self.trace}) else None)
        if stop:
            self.trace.stop(stop)
        return bool(stop)


def _described(task: Any) -> Any:
    return TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)


def _typed(message: Any) -> Any:
    from verifiers.v1.dialects import parse_message  # pyright: ignore[reportMissingImports]

    return parse_message(message) if isinstance(message, dict) else message


async def _invoke(hook: Any, trace: Any) -> None:
    """A hook of a task, with what it declares. There is no sandbox."""
    known = {"trace": trace, "runtime": None}
    await hook(**{name: known[name] for name in inspect.signature(hook).parameters if name in known})
