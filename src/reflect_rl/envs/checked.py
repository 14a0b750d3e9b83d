"""An environment played with every answer checked, so that a broken promise is one clear message where it happens.

Runs and `check` call a world by these functions alone: what one refuses, the other does. They cost a few type checks a
step. What only shows over several episodes, such as the same seed giving the same bytes, `check` looks for beforehand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from reflect_rl.envs.base import SPLITS, TextEnv, as_index
from reflect_rl.envs.promises import (
    ACTIONS,
    CLOSES,
    DECLARED,
    ENDINGS,
    EXPERT,
    HORIZON,
    MADE,
    MOST_REWARD,
    OBSERVATIONS,
    OPTIONS,
    PANELS,
    REWARDS,
    STAGES,
    STEPS,
    TASKS,
    TEACHER,
    broken,
    names_of,
    raised,
    same_folder,
    short,
    text_of,
    world_code,
)
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason
from reflect_rl.seeding import world_seed

TRUTHS = (bool, np.bool_)
_JSON = json.JSONEncoder(allow_nan=False)


@contextmanager
def opened(make_env: Callable[..., TextEnv]) -> Iterator[Callable[..., TextEnv]]:
    """A `make_env` that remembers: all environments it made are closed in the end, whatever is raised meanwhile.

    Raises BrokenPromiseError if one cannot be closed, unless there is an error already.
    """
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
            with world_code(env, CLOSES, "close()"):
                env.close()
        except EnvironmentContractError as error:
            first = first or error
    if first is not None:
        raise first


def check_declared(env: TextEnv, horizon: int | None = None) -> None:
    """What a world says of itself. horizon: what it was made with. Raises BrokenPromiseError."""
    with world_code(env, DECLARED, "reading horizon, task_text, stages and teachers"):
        declared, task_text, lists = env.horizon, env.task_text, {"stages": env.stages, "teachers": env.teachers}
    if as_index(declared) < 1:
        broken(env, DECLARED, f"horizon is {short(declared)}, not a number of steps")
    if horizon is not None and declared != horizon:
        broken(env, HORIZON, f"it was made with horizon={horizon}, but its horizon is {declared}")
    text_of(env, DECLARED, "task_text is", task_text)
    for name, values in lists.items():
        names_of(env, DECLARED, f"{name} is", values)


def tasks_of(env: TextEnv, split: str) -> tuple[str, ...]:
    """`env.tasks`: at least one name. Raises BrokenPromiseError."""
    what = f"tasks({split!r})"
    with world_code(env, TASKS, what):
        tasks = env.tasks(split)
    return names_of(env, TASKS, f"{what} gave", tasks, least=1)


def all_tasks(env: TextEnv) -> dict[str, tuple[str, ...]]:
    """The tasks of every split, none of them in two. Raises BrokenPromiseError."""
    splits = {split: tasks_of(env, split) for split in SPLITS}
    found: dict[str, str] = {}
    for split, tasks in splits.items():
        for task in tasks:
            if found.setdefault(task, split) != split:
                broken(env, TASKS, f"the task {short(task)} is in {found[task]} and again in {split}")
    return splits


def panels_of(env: TextEnv) -> dict[str, tuple[str, ...]]:
    """`env.panels`: tasks by name, the main panel first. Raises BrokenPromiseError."""
    all_tasks(env)
    with world_code(env, PANELS, "panels()"):
        panels = env.panels()
        given = dict(panels) if isinstance(panels, Mapping) else {}
    for name in ("test", "valid"):
        if name not in given:
            broken(env, PANELS, f'panels() gave {short(panels)}, which has no panel "{name}"')
    return {
        text_of(env, PANELS, "panels() gave the name", name, least=1): names_of(
            env, PANELS, f"panels() gave {short(name)} as", tasks, least=1
        )
        for name, tasks in given.items()
    }


def kind_of(env: TextEnv, task: str) -> str:
    """`env.kind`. Raises BrokenPromiseError."""
    with world_code(env, PANELS, f"kind({task!r})"):
        kind = env.kind(task)
    return text_of(env, PANELS, f"kind({task!r}) gave", kind)


def begin(env: TextEnv, seed: int, options: dict[str, Any]) -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
    """`env.reset`: the observation, the admissible actions, and the info. Raises BrokenPromiseError.

    seed: any; the world is given one of 31 bits.
    """
    what = f"reset(options={options})"
    promise = STAGES if "stage" in options else OPTIONS if "task" in options else MADE
    try:
        result = env.reset(seed=world_seed(seed), options=options)
    except BaseException as error:  # noqa: BLE001  not by world_code: see advance
        raised(env, promise, what, error)
    if not isinstance(result, tuple) or len(result) != 2:
        broken(env, promise, f"{what} gave {short(result)}, not (observation, info)")
    observation, info = result
    text, actions = _observation(env, what, observation), _actions(env, what, info)
    if "task" in options and info.get("task", options["task"]) != options["task"]:
        broken(env, OPTIONS, f"asked for {options['task']}, reset() says {short(info['task'])}")
    return text, actions, info


def advance(env: TextEnv, choice: int) -> tuple[str, tuple[str, ...], float, StopReason | None]:
    """`env.step`: observation, admissible actions, reward, and why the episode ended (None: it goes on).

    Raises BrokenPromiseError.
    """
    what = f"step({choice})"
    try:
        result = env.step(choice)
    except BaseException as error:  # noqa: BLE001  not by world_code, which takes longer than a quick step
        raised(env, STEPS, what, error)
    if not isinstance(result, tuple) or len(result) != 5:
        broken(env, STEPS, f"{what} gave {short(result)}, not (observation, reward, terminated, truncated, info)")
    observation, given, terminated, truncated, info = result
    text, reward, actions = _observation(env, what, observation), _reward(env, what, given), _actions(env, what, info)
    if terminated is False and truncated is False:
        return text, actions, reward, None
    if not isinstance(terminated, TRUTHS) or not isinstance(truncated, TRUTHS):
        broken(
            env, ENDINGS, f"{what} gave terminated {short(terminated)} and truncated {short(truncated)}, not two bools"
        )
    stop = _stop(env, what, bool(terminated), bool(truncated), info) if terminated or truncated else None
    return text, actions, reward, stop


def check_horizon(env: TextEnv, steps: int, horizon: int, task: str) -> None:
    """An episode that goes on has not reached the horizon it began with. Raises BrokenPromiseError."""
    if env.horizon != horizon:
        broken(env, HORIZON, f"its horizon of {horizon} became {short(env.horizon)} within task {task}")
    if steps >= horizon:
        broken(env, ENDINGS, f"{type(env).__name__} went on after its horizon of {horizon} steps in task {task}")


def expert_choice(env: TextEnv, actions: tuple[str, ...]) -> int | None:
    """`env.expert`: an index into `actions`, or None. Raises BrokenPromiseError."""
    try:
        choice = env.expert()
    except BaseException as error:  # noqa: BLE001
        raised(env, EXPERT, "expert()", error)
    if choice is None:
        return None
    index = as_index(choice)
    if not 0 <= index < len(actions):
        broken(env, EXPERT, f"expert() gave {short(choice)}, not an index from 0 to {len(actions) - 1}")
    return index


def expert_choices(env: TextEnv, actions: tuple[str, ...]) -> tuple[int, ...]:
    """`env.expert_set`: indices into `actions`, sorted; empty if the expert knows none.

    A world that does not define it is asked for `expert`, so that a complaint names the method that its author wrote.
    Raises BrokenPromiseError.
    """
    if type(env).expert_set is TextEnv.expert_set:
        choice = expert_choice(env, actions)
        return () if choice is None else (choice,)
    try:
        given = env.expert_set()
        choices = {as_index(choice) for choice in given} if hasattr(given, "__iter__") else {-1}
    except BaseException as error:  # noqa: BLE001
        raised(env, EXPERT, "expert_set()", error)
    if not all(0 <= choice < len(actions) for choice in choices):
        broken(env, EXPERT, f"expert_set() gave {short(given)}, not a set of indices from 0 to {len(actions) - 1}")
    return tuple(sorted(choices))


def facts_of(env: TextEnv) -> dict[str, Any]:
    """`env.describe`, as it is read back from a file: a teacher sees the same facts wherever it is asked.

    So tuples are lists, and keys are texts. Raises BrokenPromiseError.
    """
    try:
        facts = env.describe()
        given = dict(facts) if isinstance(facts, Mapping) else None
    except BaseException as error:  # noqa: BLE001
        raised(env, TEACHER, "describe()", error)
    if given is None:
        broken(env, TEACHER, f"describe() gave {short(facts)}, not a mapping")
    try:
        text = _JSON.encode(given)
        if "\\ud" in text:  # half of an escaped pair, or a lone surrogate
            json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        broken(env, TEACHER, f"describe() gave {short(facts)}, which is no JSON ({error})", error)


def taught(world: type[TextEnv], facts: Mapping[str, Any], style: str) -> str:
    """`world.teach`: the teacher's text, without white space around it, as players write theirs.

    Raises BrokenPromiseError, or TeacherError for an unknown style.
    """
    try:
        text = world.teach(facts, style)
    except BaseException as error:  # noqa: BLE001
        raised(world, TEACHER, f"teach({short(facts)}, {style!r})", error)
    if type(text) is str and text.isascii() and (said := text.strip()):
        return said
    what = f"teach({short(facts)}, {style!r}) gave"
    said = text_of(world, TEACHER, what, text).strip()
    if not said:
        broken(world, TEACHER, f"{what} {short(text)}, which says nothing")
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
        broken(env, ACTIONS, f"{what} gave {shown}, not a non-empty tuple of strings, none of them empty")
    if len(set(actions)) < len(actions):
        broken(env, ACTIONS, f'{what} gave info["actions"] as {short(actions)}, which repeats itself')
    seen = f"{what} gave the action"
    taken = tuple([text_of(env, ACTIONS, seen, action) for action in actions])
    _FINE[0] = actions, taken
    return taken


def _observation(env: TextEnv, what: str, observation: object) -> str:
    if type(observation) is str and observation and observation.isascii():
        return observation
    return text_of(env, OBSERVATIONS, f"{what} gave the observation", observation, least=1)


def _reward(env: TextEnv, what: str, given: object) -> float:
    """Whatever is one number: not text, and no array of one, which numpy itself will soon not take for a number."""
    if type(given) is float and abs(given) <= MOST_REWARD:
        return given
    try:
        is_number = not isinstance(given, str | bytes) and getattr(given, "ndim", 0) == 0
        reward = float(given) if is_number else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        reward = math.nan
    if not abs(reward) <= MOST_REWARD:
        broken(env, REWARDS, f"{what} gave the reward {short(given)}, not a finite number up to {MOST_REWARD:g}")
    return reward


def _stop(env: TextEnv, what: str, terminated: bool, truncated: bool, info: Mapping[str, Any]) -> StopReason:
    stop, success = info.get("stop"), info.get("success")
    if not isinstance(stop, StopReason) or not isinstance(success, TRUTHS):
        broken(
            env,
            ENDINGS,
            f'{what} ended the episode with info["stop"] {short(stop)} and info["success"] {short(success)}, not with '
            f"a StopReason and a bool",
        )
    is_horizon, is_success = stop is StopReason.HORIZON, stop is StopReason.SUCCESS
    if (terminated, truncated, bool(success)) != (not is_horizon, is_horizon, is_success):
        broken(
            env,
            ENDINGS,
            f"{what} contradicts itself: {stop}, success {success}, terminated {terminated}, truncated {truncated}",
        )
    return stop
