"""An environment played with every answer checked: a broken promise is one clear message where it happens.

Runs and `check` call a world through these functions alone, so that both refuse the same answers with the same message.
Every function raises BrokenPromiseError. What shows only over several episodes, `check` looks for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from reflect_rl.envs import promises as p
from reflect_rl.envs.base import SPLITS, TextEnv, as_index
from reflect_rl.envs.promises import broken, names_of, raised, same_folder, short, text_of, world_code
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason
from reflect_rl.seeding import world_seed

TRUTHS = (bool, np.bool_)


def _plain(value: Any) -> Any:
    """A number, bool or array of numpy's as Python has it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"it holds a {type(value).__name__}")


_JSON = json.JSONEncoder(allow_nan=False, default=_plain)


@contextmanager
def opened(make_env: Callable[..., TextEnv]) -> Iterator[Callable[..., TextEnv]]:
    """A `make_env` whose environments are all closed in the end. An earlier error comes before one in closing."""
    envs: list[TextEnv] = []

    def make(**options: Any) -> TextEnv:
        envs.append(make_env(**options))
        return envs[-1]

    first: BaseException | None = None
    try:
        with same_folder():
            yield make
    except BaseException as error:  # noqa: BLE001  raised again below
        first = error
    for env in envs:
        try:
            with world_code(env, p.CLOSES, "close()"):
                env.close()
        except EnvironmentContractError as error:
            first = first or error
    if first is not None:
        raise first


def _answer(
    world: TextEnv | type[TextEnv], promise: str, what: str, method: Callable[..., Any], *given: Any, **more: Any
) -> Any:
    """What a world's method returns; see `raised` for what it raises. Faster than `world_code`, for every step."""
    try:
        return method(*given, **more)
    except BaseException as error:  # noqa: BLE001  the world's own code, which may raise anything
        raised(world, promise, what, error)


def check_declared(env: TextEnv, horizon: int | None = None) -> None:
    """What a world says of itself. horizon: what it was made with."""
    with world_code(env, p.DECLARED, "reading horizon, task_text, stages and teachers"):
        declared, task_text, lists = env.horizon, env.task_text, {"stages": env.stages, "teachers": env.teachers}
    if as_index(declared) < 1:
        broken(env, p.DECLARED, f"horizon is {short(declared)}, not a number of steps")
    if horizon is not None and declared != horizon:
        broken(env, p.HORIZON, f"it was made with horizon={horizon}, but its horizon is {declared}")
    text_of(env, p.DECLARED, "task_text is", task_text)
    for name, values in lists.items():
        names_of(env, p.DECLARED, f"{name} is", values)


def tasks_of(env: TextEnv, split: str) -> tuple[str, ...]:
    """`env.tasks`: at least one name."""
    what = f"tasks({split!r})"
    with world_code(env, p.TASKS, what):
        tasks = env.tasks(split)
    return names_of(env, p.TASKS, f"{what} gave", tasks, least=1)


def all_tasks(env: TextEnv) -> dict[str, tuple[str, ...]]:
    """The tasks of every split, none of them in two."""
    splits = {split: tasks_of(env, split) for split in SPLITS}
    found: dict[str, str] = {}
    for split, tasks in splits.items():
        for task in tasks:
            if found.setdefault(task, split) != split:
                broken(env, p.TASKS, f"the task {short(task)} is in {found[task]} and again in {split}")
    return splits


def panels_of(env: TextEnv) -> dict[str, tuple[str, ...]]:
    """`env.panels`: tasks by name, the main panel first."""
    all_tasks(env)
    with world_code(env, p.PANELS, "panels()"):
        panels = env.panels()
        given = dict(panels) if isinstance(panels, Mapping) else {}
    for name in ("test", "valid"):
        if name not in given:
            broken(env, p.PANELS, f'panels() gave {short(panels)}, which has no panel "{name}"')
    return {
        text_of(env, p.PANELS, "panels() gave the name", name, least=1): names_of(
            env, p.PANELS, f"panels() gave {short(name)} as", tasks, least=1
        )
        for name, tasks in given.items()
    }


def kind_of(env: TextEnv, task: str) -> str:
    """`env.kind`."""
    with world_code(env, p.PANELS, f"kind({task!r})"):
        kind = env.kind(task)
    return text_of(env, p.PANELS, f"kind({task!r}) gave", kind)


def begin(env: TextEnv, seed: int | None, options: dict[str, Any]) -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
    """`env.reset`: the observation, the admissible actions, and the info.

    seed: any; the world is given one of 31 bits. None: it goes on with the generator it has.
    """
    what = f"reset(options={options})"
    promise = p.STAGES if "stage" in options else p.OPTIONS if "task" in options else p.MADE
    given = None if seed is None else world_seed(seed)
    result = _answer(env, promise, what, env.reset, seed=given, options=options)
    if not isinstance(result, tuple) or len(result) != 2:
        broken(env, promise, f"{what} gave {short(result)}, not (observation, info)")
    observation, info = result
    text, actions = _observation(env, what, observation), _actions(env, what, info)
    if "task" in options and info.get("task", options["task"]) != options["task"]:
        broken(env, p.OPTIONS, f"asked for {options['task']}, reset() says {short(info['task'])}")
    return text, actions, info


def advance(env: TextEnv, choice: int) -> tuple[str, tuple[str, ...], float, StopReason | None]:
    """`env.step`: observation, admissible actions, reward, and why the episode ended (None: it goes on)."""
    what = f"step({choice})"
    result = _answer(env, p.STEPS, what, env.step, choice)
    if not isinstance(result, tuple) or len(result) != 5:
        broken(env, p.STEPS, f"{what} gave {short(result)}, not (observation, reward, terminated, truncated, info)")
    observation, given, terminated, truncated, info = result
    text, reward, actions = _observation(env, what, observation), _reward(env, what, given), _actions(env, what, info)
    if terminated is False and truncated is False:
        return text, actions, reward, None
    if not isinstance(terminated, TRUTHS) or not isinstance(truncated, TRUTHS):
        flags = f"terminated {short(terminated)} and truncated {short(truncated)}"
        broken(env, p.ENDINGS, f"{what} gave {flags}, not two bools")
    stop = _stop(env, what, bool(terminated), bool(truncated), info) if terminated or truncated else None
    return text, actions, reward, stop


def check_horizon(env: TextEnv, steps: int, horizon: int, task: str) -> None:
    """An episode that goes on has not reached the horizon it began with."""
    if env.horizon != horizon:
        broken(env, p.HORIZON, f"its horizon of {horizon} became {short(env.horizon)} within task {task}")
    if steps >= horizon:
        broken(env, p.ENDINGS, f"{type(env).__name__} went on after its horizon of {horizon} steps in task {task}")


def expert_choice(env: TextEnv, actions: tuple[str, ...]) -> int | None:
    """`env.expert`: an index into `actions`, or None."""
    choice = _answer(env, p.EXPERT, "expert()", env.expert)
    if choice is None:
        return None
    index = as_index(choice)
    if not 0 <= index < len(actions):
        broken(env, p.EXPERT, f"expert() gave {short(choice)}, not an index from 0 to {len(actions) - 1}")
    return index


def expert_choices(env: TextEnv, actions: tuple[str, ...]) -> tuple[int, ...]:
    """`env.expert_set`: indices into `actions`, sorted; empty if the expert knows none.

    A world that does not define it is asked for `expert`, so that a complaint names the method that its author wrote.
    """
    if type(env).expert_set is TextEnv.expert_set:
        choice = expert_choice(env, actions)
        return () if choice is None else (choice,)
    try:
        given = env.expert_set()
        choices = {as_index(choice) for choice in given} if hasattr(given, "__iter__") else {-1}
    except BaseException as error:  # noqa: BLE001  see _answer
        raised(env, p.EXPERT, "expert_set()", error)
    if not all(0 <= choice < len(actions) for choice in choices):
        broken(env, p.EXPERT, f"expert_set() gave {short(given)}, not a set of indices from 0 to {len(actions) - 1}")
    return tuple(sorted(choices))


def facts_of(env: TextEnv) -> dict[str, Any]:
    """`env.describe`, as JSON gives it back, so that a teacher sees the same facts wherever it is asked."""
    try:
        facts = env.describe()
        facts = dict(facts) if isinstance(facts, Mapping) else facts
    except BaseException as error:  # noqa: BLE001  see _answer
        raised(env, p.TEACHER, "describe()", error)
    if not isinstance(facts, dict):
        broken(env, p.TEACHER, f"describe() gave {short(facts)}, not a mapping")
    try:
        text = _JSON.encode(facts)
        if "\\ud" in text:  # half of an escaped pair, or a lone surrogate
            json.dumps(facts, ensure_ascii=False, allow_nan=False, default=_plain).encode()
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        broken(env, p.TEACHER, f"describe() gave {short(facts)}, which is no JSON ({error})", error)


def taught(world: type[TextEnv], facts: Mapping[str, Any], style: str) -> str:
    """`world.teach`: the teacher's text without white space around it. Raises TeacherError for an unknown style."""
    try:
        text = world.teach(facts, style)
    except BaseException as error:  # noqa: BLE001  not by _answer: it takes time to show the facts
        raised(world, p.TEACHER, f"teach({short(facts)}, {style!r})", error)
    if type(text) is str and text.isascii() and (said := text.strip()):
        return said
    what = f"teach({short(facts)}, {style!r}) gave"
    said = text_of(world, p.TEACHER, what, text).strip()
    if not said:
        broken(world, p.TEACHER, f"{what} {short(text)}, which says nothing")
    return said


_FINE: list[tuple[Any, tuple[str, ...]]] = [((), ())]
"""The actions checked last, as given and as taken: many worlds give the very same tuple at every step."""


def _actions(env: TextEnv, what: str, info: object) -> tuple[str, ...]:
    actions = info.get("actions") if isinstance(info, Mapping) else None
    given, taken = _FINE[0]
    if actions is given and taken:
        return taken
    if not isinstance(actions, tuple) or not actions or not all(isinstance(a, str) and a for a in actions):
        shown = f'info["actions"] as {short(actions)}' if actions is not None else 'no info["actions"]'
        broken(env, p.ACTIONS, f"{what} gave {shown}, not a non-empty tuple of strings, none of them empty")
    if len(set(actions)) < len(actions):
        broken(env, p.ACTIONS, f'{what} gave info["actions"] as {short(actions)}, which repeats itself')
    seen = f"{what} gave the action"
    taken = tuple([text_of(env, p.ACTIONS, seen, action) for action in actions])
    _FINE[0] = actions, taken
    return taken


def _observation(env: TextEnv, what: str, observation: object) -> str:
    if type(observation) is str and observation and observation.isascii():
        return observation
    return text_of(env, p.OBSERVATIONS, f"{what} gave the observation", observation, least=1)


def _reward(env: TextEnv, what: str, given: object) -> float:
    """Whatever is one number: not text, and no array of one, which numpy itself will soon not take for a number."""
    if type(given) is float and abs(given) <= p.MOST_REWARD:
        return given
    try:
        is_number = not isinstance(given, str | bytes) and getattr(given, "ndim", 0) == 0
        reward = float(given) if is_number else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        reward = math.nan
    if not abs(reward) <= p.MOST_REWARD:
        broken(env, p.REWARDS, f"{what} gave the reward {short(given)}, not a finite number up to {p.MOST_REWARD:g}")
    return reward


def _stop(env: TextEnv, what: str, terminated: bool, truncated: bool, info: Mapping[str, Any]) -> StopReason:
    stop, success = info.get("stop"), info.get("success")
    if not isinstance(stop, StopReason) or stop is StopReason.LOST or not isinstance(success, TRUTHS):
        given = f'info["stop"] {short(stop)} and info["success"] {short(success)}'
        broken(env, p.ENDINGS, f"{what} ended the episode with {given}, not with a StopReason and a bool")
    is_horizon, is_success = stop is StopReason.HORIZON, stop is StopReason.SUCCESS
    if (terminated, truncated, bool(success)) != (not is_horizon, is_horizon, is_success):
        given = f"{stop}, success {success}, terminated {terminated}, truncated {truncated}"
        broken(env, p.ENDINGS, f"{what} contradicts itself: {given}")
    return stop
