"""Wrap a Gymnasium environment with discrete actions: render its observation as text, and name its actions.

    FrozenLake = from_gymnasium(
        "FrozenLake-v1",
        render=lambda observation, env: f"You are on cell {observation} of 16.",
        actions=("left", "down", "right", "up"),
        horizon=40,
    )

`my_module:FrozenLake` is then a world like any other. A subclass can add `expert`, `describe` and `teach`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np

from reflect_rl.envs.bridges.base import Bridged, Success, check_names, check_tasks, rewarded_end
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

Render = Callable[[Any, gymnasium.Env[Any, Any]], str]
"""(the wrapped environment's observation, the wrapped environment) -> what the players read."""


class GymnasiumTextEnv(Bridged):
    """A Gymnasium environment as text. Made by `from_gymnasium`.

    Tasks are seeds of the wrapped environment's reset, "seed-0" upwards, split in the order train, valid, test. A task
    fixes the start only: chance after it comes from the episode's own seed.
    """

    make_wrapped: ClassVar[Callable[..., gymnasium.Env[Any, Any]]]
    render_text: ClassVar[Render]
    is_success: ClassVar[Success]

    def __init__(self, horizon: int | None = None) -> None:
        super().__init__(horizon)
        self.wrapped = type(self).make_wrapped()
        space = self.wrapped.action_space
        if not isinstance(space, gymnasium.spaces.Discrete) or int(space.n) != len(self.actions):
            raise EnvironmentContractError(
                f"{type(self).__name__} names {len(self.actions)} actions ({', '.join(self.actions)}), but the wrapped "
                f"environment's action space is {space}. Give one name for each of its discrete actions, in its order."
            )
        limit = _time_limit(self.wrapped)
        if limit is not None and limit < self.horizon:
            raise EnvironmentContractError(
                f"{type(self).__name__} would stop after {limit} steps, its TimeLimit, and results would name a "
                f"horizon of {self.horizon}. Set env.horizon to {limit} or less, or make the wrapped environment "
                f"without the limit (max_episode_steps=-1)."
            )
        self._first_action = int(space.start)
        self._observation: Any = None

    def begin(self, task: str, stage: str | None) -> None:
        self._observation, _ = self.wrapped.reset(seed=self.number(task))
        self.wrapped.unwrapped.np_random = self.np_random

    def observe(self) -> str:
        return type(self).render_text(self._observation, self.wrapped)

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        self._observation, reward, terminated, truncated, _ = self.wrapped.step(self._first_action + choice)
        reward = float(reward)
        if terminated or truncated:
            if type(self).is_success(self._observation, reward, terminated):
                return reward, StopReason.SUCCESS
            return reward, StopReason.FAILURE if terminated else StopReason.HORIZON
        return reward, None

    def close(self) -> None:
        self.wrapped.close()


def from_gymnasium(
    env: str | Callable[[], gymnasium.Env[Any, Any]],
    *,
    render: Render | None = None,
    actions: Sequence[str],
    success: Success | None = None,
    tasks: tuple[int, int, int] = (200, 40, 60),
    horizon: int = 20,
    task_text: str = "",
    name: str = "",
) -> type[GymnasiumTextEnv]:
    """The class of a TextEnv that wraps a Gymnasium environment with discrete actions.

    Args:
        env: a Gymnasium id, whose own time limit (`max_episode_steps`) gives way to `horizon`; or a function that
            makes the environment.
        render: `render(observation, env)` writes the text that the players read; by default `str(observation)`.
        actions: a name for each discrete action, in order.
        success: `success(observation, reward, terminated)` judges the last step; by default, success is a terminated
            episode whose last reward is above 0.
        tasks: the number of start seeds for train, valid and test.
        horizon: the default horizon.
        task_text: the rules, told to the players once.
        name: the name of the class.

    Raises:
        EnvironmentContractError: action names are empty or not distinct, or a split has no task. Making the world
            raises it if the action space is not discrete with as many actions, or if the environment that a function
            made has a time limit below the horizon.
    """
    check_names(actions)
    check_tasks(tasks)
    make = (lambda: gymnasium.make(env, max_episode_steps=-1)) if isinstance(env, str) else env
    title = name or (env.split("/")[-1].split("-v")[0] if isinstance(env, str) else "AdaptedEnv")
    body = {
        "__doc__": f"{title}, a Gymnasium environment as text.",
        "make_wrapped": staticmethod(make),
        "render_text": staticmethod(render or _shown),
        "is_success": staticmethod(success or rewarded_end),
        "split_sizes": tasks,
        "usual_horizon": horizon,
        "actions": tuple(actions),
        "task_text": task_text,
    }
    return type(title, (GymnasiumTextEnv,), body)


def _time_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """The fewest steps after which a wrapper truncates an episode; None if none does."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    return min(limits, default=None)


def _shown(observation: Any, env: gymnasium.Env[Any, Any]) -> str:
    with np.printoptions(threshold=sys.maxsize):  # numpy leaves out the middle of long arrays
        return str(observation)
