"""The process of an IsolatedEnv: one world, called through the functions that check its answers.

Requests: {"do": "make", "world", "options"} first, then {"do": "reset", "seed", "options"}, {"do": "step", "choice"},
or another method of `TextEnv` with its arguments. A reply is {"value": ...}, or {"error": class, "message": text}, with
"promise" and "seen" for a broken promise.
"""

from __future__ import annotations

from typing import Any

from reflect_rl.envs import checked
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.promises import CLOSES, BrokenPromiseError, world_code
from reflect_rl.envs.registry import make
from reflect_rl.envs.worker_process import serve
from reflect_rl.errors import ReflectRLError
from reflect_rl.memory import memory_mb


class WorldSession:
    """A world and the episode under way. Its methods are the requests."""

    def __init__(self) -> None:
        self.env: TextEnv | None = None
        self.task: str | None = None
        self.actions: tuple[str, ...] = ()
        self.steps = self.horizon = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request."""
        try:
            return {"value": self.done(**request)}
        except BrokenPromiseError as error:
            promise = {"promise": error.promise, "seen": error.seen}
            return {"error": type(error).__name__, "message": str(error), **promise}
        except ReflectRLError as error:
            return {"error": type(error).__name__, "message": str(error)}

    def done(self, do: str, **given: Any) -> Any:
        """What the world answers."""
        if do == "make":
            self.env = make(given["world"], **given["options"])
            told = {name: getattr(self.env, name) for name in ("task_text", "stages", "teachers")}
            return {**told, "horizon": int(self.env.horizon)}
        assert self.env is not None, "the world could not be made"
        match do:
            case "reset":
                return self.reset(self.env, **given)
            case "step":
                return self.step(self.env, given["choice"])
            case "expert":
                return checked.expert_choice(self.env, self.actions)
            case "expert_set":
                return checked.expert_choices(self.env, self.actions)
            case "describe":
                return checked.facts_of(self.env)
            case "tasks":
                return checked.tasks_of(self.env, given["split"])
            case "panels":
                return checked.panels_of(self.env)
            case "kind":
                return checked.kind_of(self.env, given["task"])
        return self.close()

    def reset(self, env: TextEnv, seed: int | None, options: dict[str, Any]) -> Any:
        """Observation, actions, what else is told of the episode, its horizon, and the memory of this process."""
        observation, self.actions, info = checked.begin(env, seed, options)
        self.steps, self.horizon, self.task = 0, int(env.horizon), info.get("task", options.get("task"))
        about = {"task": info["task"]} if isinstance(info.get("task"), str) else {}
        return observation, self.actions, about, self.horizon, memory_mb()

    def step(self, env: TextEnv, choice: int) -> Any:
        """Observation, actions (None: the same as before), reward, and why the episode ended (None: it goes on)."""
        observation, actions, reward, stop = checked.advance(env, choice)
        self.steps += 1
        if stop is None:
            checked.check_horizon(env, self.steps, self.horizon, str(self.task))
        same, self.actions = actions == self.actions, actions
        return observation, None if same else actions, reward, stop

    def close(self) -> None:
        """Close the world, once."""
        env, self.env = self.env, None
        if env is not None:
            with world_code(env, CLOSES, "close()"):
                env.close()


def main() -> None:
    """Answer until the requests end."""
    serve(WorldSession)
