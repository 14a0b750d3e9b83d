"""What an environment of one's own still breaks of the TextEnv contract, and how to mend it.

Every probe plays the environment a little. Whatever the environment's code raises becomes a finding: this is the
boundary to code that is not ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reflect_rl.envs.base import SPLITS, TextEnv
from reflect_rl.envs.check_walk import (
    STEP_LIMIT,
    WALKS,
    BrokenPromiseError,
    MakeEnv,
    difference,
    require,
    short,
    some_tasks,
    walk,
)
from reflect_rl.envs.contract import MOST_REWARD
from reflect_rl.envs.registry import where
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

EXPERT_TASKS = 25
"""Tasks a split that the expert is asked to solve."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise of the contract. ok: whether it is kept. detail: what was seen. mend: what to do if it is not."""

    ok: bool
    promise: str
    detail: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}" + (f" {self.mend}" if not self.ok else "")


def check(make_env: MakeEnv) -> list[Finding]:
    """Probe an environment: a finding for each promise, kept or broken. Raises nothing that the environment raises.

    make_env: makes a new instance at each call.
    """
    if not (first := _probe(make_env, "it can be made and reset", _made, "Mend the constructor or reset().")).ok:
        return [first]
    return [first, *(_probe(make_env, promise, probe, mend) for promise, probe, mend in PROBES)]


def _probe(make_env: MakeEnv, promise: str, probe: Callable[[MakeEnv], str], mend: str) -> Finding:
    try:
        return Finding(True, promise, probe(make_env), mend)
    except BrokenPromiseError as broken:
        return Finding(False, promise, str(broken), mend)
    except Exception as error:  # noqa: BLE001  the environment's own code, which may raise anything
        return Finding(False, promise, f"It raised {where(error)}.", mend)


def _made(make_env: MakeEnv) -> str:
    env = make_env()
    require(isinstance(env, TextEnv), f"{type(env).__name__} does not derive from TextEnv.")
    result = env.reset(seed=0)
    require(isinstance(result, tuple) and len(result) == 2, f"reset() gave {short(result)}, not (observation, info).")
    return f"{type(env).__name__} begins an episode."


def _observations(make_env: MakeEnv) -> str:
    shown = 0
    for env, task in some_tasks(make_env):
        for moment in walk(env, task, 0):
            text = moment.observation
            require(isinstance(text, str) and bool(text), f"An observation in task {task} is {short(text)}.")
            space = getattr(env, "observation_space", None)
            require(
                space is None or space.contains(text),
                f"{short(text)} in task {task} does not lie in the declared observation_space {space}.",
            )
            shown += 1
    return f"{shown} observations are non-empty strings."


def _actions(make_env: MakeEnv) -> str:
    most = 0
    for env, task in some_tasks(make_env):
        for moment in walk(env, task, 0):
            require("actions" in moment.info, f'info has no "actions" after {moment.what} in task {task}.')
            actions = moment.info["actions"]
            is_tuple = isinstance(actions, tuple) and all(isinstance(action, str) and action for action in actions)
            require(is_tuple and bool(actions), f'info["actions"] is {short(actions)} after {moment.what}.')
            require(len(set(actions)) == len(actions), f'info["actions"] repeats itself: {short(actions)}.')
            space_n = getattr(getattr(env, "action_space", None), "n", None)
            require(
                space_n is None or int(space_n) >= len(actions),
                f"{len(actions)} actions are admissible, but the declared action_space has {space_n}.",
            )
            most = max(most, len(actions))
    return f"at most {most} actions, each time a tuple of distinct strings."


def _wrong_indices(make_env: MakeEnv) -> str:
    for kind in ("too large", "negative", "a float", "a string", "a bool"):
        env = make_env()
        _, info = env.reset(seed=0)
        count = len(info["actions"])
        wrong: Any = {"too large": count, "negative": -1, "a float": 0.0, "a string": "0", "a bool": True}[kind]
        try:
            env.step(wrong)
        except EnvironmentContractError:
            continue
        except Exception as error:
            raise BrokenPromiseError(f"step({wrong!r}) raised {where(error)}, not EnvironmentContractError.") from error
        raise BrokenPromiseError(f"step({wrong!r}), {kind}, was accepted with {count} actions.")
    return "too large, negative, float, string and bool are refused."


def _deterministic(make_env: MakeEnv) -> str:
    episodes = 0
    for env, task in some_tasks(make_env):
        for seed in (0, 1):
            one = [moment.key() for moment in walk(env, task, seed)]
            other = [moment.key() for moment in walk(make_env(), task, seed)]
            require(one == other, f"Task {task}, seed {seed}: {difference(one, other)}")
            episodes += 1
    return f"{episodes} episodes were the same in two instances."


def _independent(make_env: MakeEnv) -> str:
    alone = {task: [moment.key() for moment in walk(env, task, 0)] for env, task in some_tasks(make_env)}
    together = {task: (walk(make_env(), task, 0), []) for task in alone}
    running = dict(together)
    while running:  # a step of each in turn
        for task in list(running):
            moments, seen = running[task]
            if (moment := next(moments, None)) is None:
                del running[task]
            else:
                seen.append(moment.key())
    for task, (_, seen) in together.items():
        require(seen == alone[task], f"Task {task} beside others: {difference(alone[task], seen)}")
    return f"{len(alone)} instances played in turn did not disturb each other."


def _ends(make_env: MakeEnv) -> str:
    stops: dict[str, int] = {}
    for env, task in some_tasks(make_env):
        moments = list(walk(env, task, 0))
        for moment in moments[1:]:
            flags = (moment.terminated, moment.truncated)
            require(all(isinstance(flag, bool) for flag in flags), f"terminated, truncated are {flags!r}, not bools.")
        last = moments[-1]
        require(
            last.terminated or last.truncated,
            f"Task {task} goes on after {len(moments) - 1} steps; its horizon is {env.horizon}.",
        )
        stop = last.info.get("stop")
        require(isinstance(last.info.get("success"), bool), f'info["success"] is {last.info.get("success")!r}.')
        require(isinstance(stop, StopReason), f'info["stop"] is {stop!r}, not a StopReason.')
        flags = f"stop {stop}, terminated {last.terminated}, truncated {last.truncated}, success {last.info['success']}"
        require(last.info["success"] == (stop is StopReason.SUCCESS), f"They contradict each other: {flags}.")
        require(last.truncated == (stop is StopReason.HORIZON), f"They contradict each other: {flags}.")
        require(last.terminated != last.truncated, f"They contradict each other: {flags}.")
        stops[str(stop)] = stops.get(str(stop), 0) + 1
    return "walks ended by " + ", ".join(f"{stop} ({count})" for stop, count in sorted(stops.items())) + "."


def _after_the_end(make_env: MakeEnv) -> str:
    env, task = next(some_tasks(make_env))
    for _ in walk(env, task, 0):
        pass
    try:
        env.step(0)
    except EnvironmentContractError:
        return "step() is refused until the next reset()."
    raise BrokenPromiseError(f"step(0) was accepted after the end of task {task}.")


def _rewards(make_env: MakeEnv) -> str:
    low, high = math.inf, -math.inf
    for env, task in some_tasks(make_env):
        for moment in list(walk(env, task, 0))[1:]:
            reward = moment.reward
            is_number = hasattr(reward, "__float__") and not isinstance(reward, str | bool)
            require(is_number and abs(float(reward)) <= MOST_REWARD, f"A reward in task {task} is {short(reward)}.")
            low, high = min(low, float(reward)), max(high, float(reward))
    return f"seen from {low:g} to {high:g}."


def _tasks(make_env: MakeEnv) -> str:
    env = make_env()
    found: dict[str, str] = {}
    counts = []
    for split in SPLITS:
        tasks = env.tasks(split)
        require(len(tasks) > 0, f"The split {split} has no tasks.")
        for task in tasks:
            require(isinstance(task, str), f"A task of {split} is {short(task)}, not a string.")
            require(task not in found, f"The task {task} is in {found.get(task)} and again in {split}.")
            found[task] = split
        require(list(make_env().tasks(split)) == list(tasks), f"Two instances name different tasks for {split}.")
        counts.append(f"{len(tasks)} {split}")
    return ", ".join(counts) + "."


def _task_made(make_env: MakeEnv) -> str:
    env, count = make_env(), 0
    for split in SPLITS:
        for task in env.tasks(split)[:WALKS]:
            first, info = env.reset(seed=3, options={"task": task})
            again, _ = make_env().reset(seed=3, options={"task": task})
            require(first == again, f"Task {task} began as {short(first)} and as {short(again)}.")
            require(info.get("task", task) == task, f"Asked for {task}, info says {info.get('task')!r}.")
            count += 1
    for options in ({"task": "no such task"}, {"no such option": 1}, {"stage": "no such stage"}):
        try:
            env.reset(seed=0, options=options)
        except EnvironmentContractError:
            continue
        raise BrokenPromiseError(f"reset(options={options}) was accepted.")
    return f"{count} tasks begin the same every time; unknown ones are refused."


def _stages(make_env: MakeEnv) -> str:
    env = make_env()
    for stage in env.stages:
        for task in env.tasks("train")[:WALKS]:
            last = list(walk(env, task, 0, stage))[-1]
            require(last.terminated or last.truncated, f"Task {task} in stage {stage} does not end.")
    return f"{', '.join(env.stages)}: each can be reset and ends." if env.stages else "it has none."


def _expert(make_env: MakeEnv) -> str:
    env, solved, count = make_env(), 0, 0
    for split in SPLITS:
        for task in env.tasks(split)[:EXPERT_TASKS]:
            _, info = env.reset(seed=0, options={"task": task})
            ended, steps = False, 0
            while not ended and steps < STEP_LIMIT:
                choice = env.expert()
                if choice is None:
                    return "it has none: episodes to learn from must be brought along."
                try:
                    env.check_choice(choice, info["actions"])
                except EnvironmentContractError as error:
                    raise BrokenPromiseError(
                        f"expert() gave {choice!r} for {len(info['actions'])} actions in {task}."
                    ) from error
                _, _, terminated, truncated, info = env.step(choice)
                ended, steps = terminated or truncated, steps + 1
            solved, count = solved + bool(info.get("success")), count + 1
    require(solved > 0, f"expert() solves none of {count} tasks within the horizon of {env.horizon}.")
    return f"it solves {solved} of {count} tasks ({solved / count:.0%}) within the horizon of {env.horizon}."


def _described(make_env: MakeEnv) -> str:
    written = 0
    for env, task in some_tasks(make_env):
        for moment in walk(env, task, 0):
            if moment.terminated or moment.truncated:
                break
            facts = env.describe()
            require(isinstance(facts, Mapping), f"describe() gave {short(facts)}, not a mapping.")
            try:
                again = json.loads(json.dumps(dict(facts), allow_nan=False))
            except (TypeError, ValueError) as error:
                raise BrokenPromiseError(f"describe() gave {short(facts)}, which is no JSON: {error}.") from error
            for style in env.teachers:
                text = type(env).teach(again, style)
                require(isinstance(text, str) and bool(text), f"teach(facts, {style!r}) gave {short(text)}.")
                written += 1
    teachers = make_env().teachers
    return f"{', '.join(teachers)}: {written} reflections written." if teachers else "it has no scripted teacher."


PROBES: tuple[tuple[str, Callable[[MakeEnv], str], str], ...] = (
    ("tasks", _tasks, "tasks(split) must name tasks for train, valid and test, always the same, none of them twice."),
    ("observations", _observations, "Return text from reset() and step(), and declare a Text space that it lies in."),
    ("actions", _actions, 'Put a non-empty tuple of distinct strings into info["actions"], at the end too.'),
    ("wrong choices", _wrong_indices, "Begin step() with choice = self.check_choice(action, actions)."),
    ("same seed, same bytes", _deterministic, "Draw from self.np_random alone, after super().reset(seed=seed)."),
    ("instances are independent", _independent, "Keep the state in self, not in the class or the module."),
    (
        "endings",
        _ends,
        'At the end set info["success"] and info["stop"]; truncate at the horizon (StopReason.HORIZON).',
    ),
    ("after the end", _after_the_end, "Raise EnvironmentContractError from step() until reset() is called."),
    ("rewards", _rewards, f"Return a finite number, up to {MOST_REWARD:g}."),
    ("reset options", _task_made, 'options={"task": name} must make that task; refuse what you do not know.'),
    ("stages", _stages, 'options={"stage": name} must make each of `stages`.'),
    ("expert", _expert, "expert() must give an index into the admissible actions that leads to success, or None."),
    ("facts and teacher", _described, "describe() must be JSON-able, and teach() must write text in every style."),
)
