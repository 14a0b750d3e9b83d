"""The probes of `check`: each plays an environment a little, and looks at one promise.

A probe returns what it saw; it raises SeenError if that breaks its promise, and whatever the contract raises.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from reflect_rl.envs.base import SPLITS, TextEnv
from reflect_rl.envs.check_walk import STEP_LIMIT, WALKS, MakeEnv, difference, some_tasks, walk
from reflect_rl.envs.checked import (
    advance,
    all_tasks,
    begin,
    check_declared,
    check_horizon,
    expert_choice,
    expert_choices,
    facts_of,
    kind_of,
    panels_of,
    tasks_of,
    taught,
)
from reflect_rl.envs.promises import (
    ACTIONS,
    AFTER_THE_END,
    CHOICES,
    CLOSES,
    ENDINGS,
    EXPERT,
    HORIZON,
    INDEPENDENT,
    MADE,
    OBSERVATIONS,
    OPTIONS,
    PANELS,
    REWARDS,
    SAME_SEED,
    STAGES,
    STEPS,
    TASKS,
    TEACHER,
    short,
    where,
)
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason
from reflect_rl.seeding import LARGEST_WORLD_SEED

EXPERT_TASKS = 25
"""Tasks a split that the expert is asked to solve."""


LACKS = "it has no"
"""How the detail begins where something optional is missing."""


class SeenError(Exception):
    """The promise that a probe is about was seen broken. The message says what was seen."""


def _require(kept: bool, seen: str) -> None:
    if not kept:
        raise SeenError(seen)


def _made(make_env: MakeEnv) -> str:
    env = make_env()
    _require(isinstance(env, TextEnv), f"{type(env).__name__} does not derive from TextEnv.")
    check_declared(env)
    all_tasks(env)
    begin(env, 0, {})
    return f"{type(env).__name__} begins an episode."


def _horizon(make_env: MakeEnv) -> str:
    env = make_env(horizon=1)
    check_declared(env, 1)
    for task in tasks_of(env, "train")[:WALKS]:
        list(walk(env, task, 0))
    return "made with horizon=1, it ends after one step."


def _tasks(make_env: MakeEnv) -> str:
    splits, again = all_tasks(make_env()), all_tasks(make_env())
    for split in SPLITS:
        _require(splits[split] == again[split], f"Two instances name different tasks for {split}.")
    return ", ".join(f"{len(tasks)} {split}" for split, tasks in splits.items()) + "."


def _panels(make_env: MakeEnv) -> str:
    env = make_env()
    panels = panels_of(env)
    for tasks in panels.values():
        for task in tasks[:WALKS]:
            begin(env, 0, {"task": task})
            kind_of(env, task)
    return ", ".join(f"{len(tasks)} in {name}" for name, tasks in panels.items()) + "."


def _steps(make_env: MakeEnv) -> str:
    steps = sum(len(list(walk(env, task, 0))) - 1 for env, task in some_tasks(make_env))
    return f"{steps} were taken."


def _observations(make_env: MakeEnv) -> str:
    shown = 0
    for env, task in some_tasks(make_env):
        for moment in walk(env, task, 0):
            text, space = moment.observation, getattr(env, "observation_space", None)
            _require(
                space is None or space.contains(text),
                f"{short(text)} in task {task} does not lie in the declared observation_space {space}.",
            )
            shown += 1
    return f"{shown} observations are non-empty strings."


def _actions(make_env: MakeEnv) -> str:
    most = 0
    for env, task in some_tasks(make_env):
        for moment in walk(env, task, 0):
            space_n = getattr(getattr(env, "action_space", None), "n", None)
            most = max(most, len(moment.actions))
            _require(
                space_n is None or int(space_n) >= most,
                f"{most} actions are admissible, but the declared action_space has {space_n}.",
            )
    return f"at most {most} actions, each time a tuple of distinct strings."


def _wrong_choices(make_env: MakeEnv) -> str:
    for kind in ("too large", "negative", "a float", "a string", "a bool"):
        env = make_env()
        _, actions, _ = begin(env, 0, {})
        wrong: Any = {"too large": len(actions), "negative": -1, "a float": 0.0, "a string": "0", "a bool": True}[kind]
        _refused(lambda env=env, wrong=wrong: env.step(wrong), f"step({wrong!r}), {kind},")
    return "too large, negative, float, string and bool are refused."


def _refused(call: Callable[[], object], what: str) -> None:
    """What must raise EnvironmentContractError does."""
    try:
        call()
    except EnvironmentContractError:
        return
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise SeenError(f"{what} raised {where(error)}, not EnvironmentContractError.") from error
    raise SeenError(f"{what} was accepted.")


def _same_seed(make_env: MakeEnv) -> str:
    episodes = 0
    for env, task in some_tasks(make_env):
        for seed in (0, LARGEST_WORLD_SEED):
            one, other = list(walk(env, task, seed)), list(walk(make_env(), task, seed))
            _require(one == other, f"Task {task}, seed {seed}: {difference(one, other)}.")
            episodes += 1
    return f"{episodes} episodes were the same in two instances."


def _independent(make_env: MakeEnv) -> str:
    alone = {task: list(walk(env, task, 0)) for env, task in some_tasks(make_env)}
    together = {task: (walk(make_env(), task, 0), []) for task in alone}
    running = dict(together)
    while running:  # a step of each in turn
        for task in list(running):
            moments, seen = running[task]
            if (moment := next(moments, None)) is None:
                del running[task]
            else:
                seen.append(moment)
    for task, (_, seen) in together.items():
        _require(seen == alone[task], f"Task {task} beside others: {difference(alone[task], seen)}.")
    return f"{len(alone)} instances played in turn did not disturb each other."


def _endings(make_env: MakeEnv) -> str:
    stops = Counter(str(list(walk(env, task, 0))[-1].stop) for env, task in some_tasks(make_env))
    return "walks ended by " + ", ".join(f"{stop} ({count})" for stop, count in sorted(stops.items())) + "."


def _after_the_end(make_env: MakeEnv) -> str:
    env, task = next(some_tasks(make_env))
    if list(walk(env, task, 0))[-1].stop is None:
        return f"none was reached in {STEP_LIMIT} steps."
    _refused(lambda: env.step(0), f"step(0) after the end of task {task}")
    return "step() is refused until the next reset()."


def _rewards(make_env: MakeEnv) -> str:
    low, high = math.inf, -math.inf
    for env, task in some_tasks(make_env):
        for moment in list(walk(env, task, 0))[1:]:
            low, high = min(low, moment.reward), max(high, moment.reward)
    return f"seen from {low:g} to {high:g}."


def _options(make_env: MakeEnv) -> str:
    env, count = make_env(), 0
    for split in SPLITS:
        for task in tasks_of(env, split)[:WALKS]:
            first, _, _ = begin(env, 3, {"task": task})
            again, _, _ = begin(make_env(), 3, {"task": task})
            _require(first == again, f"Task {task} began as {short(first)} and as {short(again)}.")
            count += 1
    for options in ({"task": "no such task"}, {"no such option": 1}, {"stage": "no such stage"}):
        _refused(lambda options=options: env.reset(seed=0, options=options), f"reset(options={options})")
    return f"{count} tasks begin the same every time; unknown ones are refused."


def _stages(make_env: MakeEnv) -> str:
    env = make_env()
    for stage in env.stages:
        for task in tasks_of(env, "train")[:WALKS]:
            list(walk(env, task, 0, stage))
    return f"{', '.join(env.stages)}: each can be reset and ends." if env.stages else "there are none."


def _expert(make_env: MakeEnv) -> str:
    env, solved, count, helpless = make_env(), 0, 0, []
    for split in SPLITS:
        for task in tasks_of(env, split)[:EXPERT_TASKS]:
            won, steps = _follow(env, task)
            solved, count = solved + won, count + 1
            if split == "train" and not steps:
                helpless.append(task)
    started = min(EXPERT_TASKS, len(tasks_of(env, "train"))) - len(helpless)
    if not started:
        return f"{LACKS} expert: `run` cannot collect episodes, they must be brought along (episodes.jsonl)."
    _require(
        not helpless, f"expert() gives nothing at the start of {len(helpless)} train tasks, such as {helpless[:1]}."
    )
    _require(solved > 0, f"expert() solves none of {count} tasks within the horizon of {env.horizon}.")
    return f"it solves {solved} of {count} tasks ({solved / count:.0%}) within the horizon of {env.horizon}."


def _follow(env: TextEnv, task: str) -> tuple[bool, int]:
    """Do what the expert says for as long as it knows a way: whether that succeeds, and after how many steps."""
    _, actions, _ = begin(env, 0, {"task": task})
    horizon = env.horizon
    for steps in range(STEP_LIMIT):
        check_horizon(env, steps, horizon, task)
        expert_choice(env, actions)
        choices = expert_choices(env, actions)
        if not choices:
            return False, steps
        _, actions, _, stop = advance(env, choices[0])
        if stop is not None:
            return stop is StopReason.SUCCESS, steps + 1
    return False, STEP_LIMIT


def _teacher(make_env: MakeEnv) -> str:
    written = 0
    for env, task in some_tasks(make_env):
        for moment in walk(env, task, 0):
            if moment.stop is not None:
                break
            facts = facts_of(env)
            for style in env.teachers:
                taught(type(env), facts, style)
                written += 1
    teachers = make_env().teachers
    return f"{', '.join(teachers)}: {written} reflections written." if teachers else f"{LACKS} scripted teacher."


def _closes(make_env: MakeEnv) -> str:
    make_env()  # and it is closed, as every other one is that is made here
    return "every instance could be closed."


PROBES: dict[str, Callable[[MakeEnv], str]] = {
    MADE: _made,
    TASKS: _tasks,
    PANELS: _panels,
    OBSERVATIONS: _observations,
    ACTIONS: _actions,
    STEPS: _steps,
    CHOICES: _wrong_choices,
    SAME_SEED: _same_seed,
    INDEPENDENT: _independent,
    ENDINGS: _endings,
    AFTER_THE_END: _after_the_end,
    HORIZON: _horizon,
    REWARDS: _rewards,
    OPTIONS: _options,
    STAGES: _stages,
    EXPERT: _expert,
    TEACHER: _teacher,
    CLOSES: _closes,
}
"""A probe for each promise, in the order of MENDS; what is declared is looked at when the world is made."""
