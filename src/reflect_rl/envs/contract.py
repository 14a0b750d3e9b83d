"""An environment played with every answer checked, so that a broken promise is one clear message where it happens.

`reflect-rl check` looks for broken promises beforehand and says more; this is what holds while a run goes on. It costs
a few type checks a step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from reflect_rl.envs.base import SPLITS, TextEnv
from reflect_rl.envs.registry import where
from reflect_rl.errors import EnvironmentContractError, ReflectRLError
from reflect_rl.records import StopReason

MOST_REWARD = 1e100
"""Sums of rewards up to this, either way, and of their squares, are finite."""


def check_tasks(env: TextEnv) -> None:
    """Every split names at least one task. Raises EnvironmentContractError."""
    for split in SPLITS:
        try:
            tasks = env.tasks(split)
        except Exception as error:  # noqa: BLE001  the environment's own code, which may raise anything
            _raised(env, f"tasks({split!r})", error)
        is_names = isinstance(tasks, tuple | list) and all(isinstance(task, str) for task in tasks)
        if not is_names or not tasks:
            _broken(env, f"tasks({split!r}) gave {_short(tasks)}, not at least one task name")


def begin(env: TextEnv, seed: int, options: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """`env.reset`: the observation and the admissible actions. Raises EnvironmentContractError."""
    what = f"reset(options={options})"
    try:
        result = env.reset(seed=seed, options=options)
    except Exception as error:  # noqa: BLE001
        _raised(env, what, error)
    if not isinstance(result, tuple) or len(result) != 2:
        _broken(env, f"{what} gave {_short(result)}, not (observation, info)")
    observation, info = result
    return _text(env, what, observation), _actions(env, what, info)


def advance(env: TextEnv, choice: int) -> tuple[str, tuple[str, ...], float, StopReason | None]:
    """`env.step`: observation, admissible actions, reward, and why the episode ended (None: it goes on).

    Raises EnvironmentContractError.
    """
    what = f"step({choice})"
    try:
        result = env.step(choice)
    except Exception as error:  # noqa: BLE001
        _raised(env, what, error)
    if not isinstance(result, tuple) or len(result) != 5:
        _broken(env, f"{what} gave {_short(result)}, not (observation, reward, terminated, truncated, info)")
    observation, given, terminated, truncated, info = result
    try:
        reward = float(given)
    except (TypeError, ValueError, OverflowError):
        reward = float("nan")
    if not abs(reward) <= MOST_REWARD:
        _broken(env, f"{what} gave the reward {_short(given)}, not a finite number up to {MOST_REWARD:g}")
    actions = _actions(env, what, info)
    if not (terminated or truncated):
        return _text(env, what, observation), actions, reward, None
    stop, success = info.get("stop"), info.get("success")
    if not isinstance(stop, StopReason) or not isinstance(success, bool) or success != (stop is StopReason.SUCCESS):
        _broken(
            env,
            f'{what} ended the episode with info["stop"] {stop!r} and info["success"] {success!r}, not with a '
            f"StopReason and whether it is a success",
        )
    return _text(env, what, observation), actions, reward, stop


def expert_choice(env: TextEnv, actions: tuple[str, ...]) -> int | None:
    """`env.expert`: an index into `actions`, or None. Raises EnvironmentContractError."""
    try:
        choice = env.expert()
    except Exception as error:  # noqa: BLE001
        _raised(env, "expert()", error)
    if choice is None:
        return None
    try:
        return env.check_choice(choice, actions)
    except EnvironmentContractError:
        _broken(env, f"expert() gave {_short(choice)}, not an index from 0 to {len(actions) - 1}")


def expert_choices(env: TextEnv, actions: tuple[str, ...]) -> tuple[int, ...]:
    """`env.expert_set`: indices into `actions`, sorted; empty if the expert knows none.

    A world that does not define it is asked for `expert`, so that a complaint names the method that its author wrote.
    Raises EnvironmentContractError.
    """
    if type(env).expert_set is TextEnv.expert_set:
        choice = expert_choice(env, actions)
        return () if choice is None else (choice,)
    try:
        choices = env.expert_set()
    except Exception as error:  # noqa: BLE001
        _raised(env, "expert_set()", error)
    try:
        return tuple(sorted({env.check_choice(choice, actions) for choice in choices}))
    except (EnvironmentContractError, TypeError):
        _broken(env, f"expert_set() gave {_short(choices)}, not a set of indices from 0 to {len(actions) - 1}")


def facts_of(env: TextEnv) -> dict[str, Any]:
    """`env.describe`, as a dict that is JSON. Raises EnvironmentContractError."""
    try:
        facts = env.describe()
    except Exception as error:  # noqa: BLE001
        _raised(env, "describe()", error)
    if not isinstance(facts, Mapping):
        _broken(env, f"describe() gave {_short(facts)}, not a mapping")
    try:
        json.dumps(dict(facts), allow_nan=False)
    except (TypeError, ValueError) as error:
        _broken(env, f"describe() gave {_short(facts)}, which is no JSON ({error})", error)
    return dict(facts)


def taught(world: type[TextEnv], facts: Mapping[str, Any], style: str) -> str:
    """`world.teach`: the teacher's text. Raises EnvironmentContractError, or TeacherError for an unknown style."""
    try:
        text = world.teach(facts, style)
    except Exception as error:  # noqa: BLE001
        _raised(world, f"teach({_short(facts)}, {style!r})", error)
    if not isinstance(text, str):
        _broken(world, f"teach({_short(facts)}, {style!r}) gave {_short(text)}, not text")
    return text


def check_horizon(env: TextEnv, steps: int, task: str) -> None:
    """An episode that goes on has not reached its horizon. Raises EnvironmentContractError."""
    if steps >= env.horizon:
        raise EnvironmentContractError(
            f"{type(env).__name__} went on after its horizon of {env.horizon} steps in task {task}. Its step() has to "
            f"return truncated=True there; see reflect-rl check."
        )


_FINE: list[tuple[str, ...] | None] = [None]
"""The actions checked last: many worlds give the very same tuple at every step."""


def _text(env: TextEnv, what: str, observation: object) -> str:
    if not isinstance(observation, str):
        _broken(env, f"{what} gave the observation {_short(observation)}, not text")
    return observation


def _actions(env: TextEnv, what: str, info: object) -> tuple[str, ...]:
    actions = info.get("actions") if isinstance(info, Mapping) else None
    if actions is not None and actions is _FINE[0]:
        return actions
    if not isinstance(actions, tuple) or not actions or not all(isinstance(action, str) for action in actions):
        shown = f'info["actions"] as {_short(actions)}' if actions is not None else 'no info["actions"]'
        _broken(env, f"{what} gave {shown}, not a non-empty tuple of strings")
    _FINE[0] = actions
    return actions


def _raised(env: TextEnv | type[TextEnv], what: str, error: Exception) -> NoReturn:
    if isinstance(error, ReflectRLError):
        raise error
    _broken(env, f"{what} raised {where(error)}", error)


def _broken(env: TextEnv | type[TextEnv], seen: str, error: Exception | None = None) -> NoReturn:
    world = env if isinstance(env, type) else type(env)
    name = f"{world.__module__}:{world.__qualname__}"
    raise EnvironmentContractError(
        f"{name} breaks the TextEnv contract: {seen}. `reflect-rl check {name}` says what to mend."
    ) from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
