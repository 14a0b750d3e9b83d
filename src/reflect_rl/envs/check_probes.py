"""The probes of `check`: each plays an environment a little, in short seeded episodes, and looks at one promise.

A probe returns what it saw. It raises SeenError if that breaks its promise, and whatever `checked` raises.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from reflect_rl.envs import checked
from reflect_rl.envs import promises as p
from reflect_rl.envs.base import SPLITS, TextEnv
from reflect_rl.envs.promises import short, where
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason
from reflect_rl.seeding import LARGEST_WORLD_SEED, stream

MakeEnv = Callable[..., TextEnv]
WALKS = 4
"""Tasks a split that are walked."""
EXPERT_TASKS = 25
"""Tasks a split that the expert is asked to solve."""
EXPERT_SHARE = 0.7
"""Share of a walk's steps that the expert takes, so that walks come further than pure chance would."""
STEP_LIMIT = 10_000
"""Steps after which a walk is left, if the horizon is longer still."""
LACKS = "it has no"
"""How the detail begins where something optional is missing."""


class SeenError(Exception):
    """The promise that a probe is about was seen broken. The message says what was seen."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What the environment gave at one step. stop: why the episode ended there, if it did."""

    observation: str
    actions: tuple[str, ...]
    reward: float = 0.0
    stop: StopReason | None = None


def _walk(env: TextEnv, task: str, seed: int = 0, stage: str | None = None) -> Iterator[Moment]:
    """One episode to its end, most steps as the expert would. Raises BrokenPromiseError, as a run does."""
    random = stream(seed, f"check {task}")
    observation, actions, _ = checked.begin(env, seed, {"task": task} | ({"stage": stage} if stage else {}))
    yield Moment(observation, actions)
    horizon = env.horizon
    for steps in range(STEP_LIMIT):
        checked.check_horizon(env, steps, horizon, task)
        choice = int(random.integers(len(actions)))
        if random.random() < EXPERT_SHARE:
            choice = _expert_choice(env, actions, otherwise=choice)
        moment = Moment(*checked.advance(env, choice))
        yield moment
        actions = moment.actions
        if moment.stop is not None:
            return


def _expert_choice(env: TextEnv, actions: tuple[str, ...], otherwise: int) -> int:
    """What the expert would do; a broken or missing expert is for its own probe to find."""
    try:
        choice = checked.expert_choice(env, actions)
    except EnvironmentContractError:
        return otherwise
    return otherwise if choice is None else choice


def _some_tasks(make_env: MakeEnv, splits: tuple[str, ...] = SPLITS) -> Iterator[tuple[TextEnv, str]]:
    """A few tasks of each split, each with an instance of its own."""
    env = make_env()
    for split in splits:
        for task in checked.tasks_of(env, split)[:WALKS]:
            yield make_env(), task


def _moments(make_env: MakeEnv) -> Iterator[tuple[TextEnv, str, Moment]]:
    """Every moment of a walk through each of some tasks."""
    for env, task in _some_tasks(make_env):
        for moment in _walk(env, task):
            yield env, task, moment


def _difference(one: list[Moment], other: list[Moment]) -> str:
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return f"step {step} gave {short(a)} and then {short(b)}"
    return f"{len(one)} steps and then {len(other)}"


def _require(kept: bool, seen: str) -> None:
    if not kept:
        raise SeenError(seen)


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


def _made(make_env: MakeEnv) -> str:
    env = make_env()
    _require(isinstance(env, TextEnv), f"{type(env).__name__} does not derive from TextEnv.")
    checked.check_declared(env)
    checked.all_tasks(env)
    checked.begin(env, 0, {})
    return f"{type(env).__name__} begins an episode."


def _horizon(make_env: MakeEnv) -> str:
    env = make_env(horizon=1)
    checked.check_declared(env, 1)
    for task in checked.tasks_of(env, "train")[:WALKS]:
        list(_walk(env, task))
    return "made with horizon=1, it ends after one step."


def _tasks(make_env: MakeEnv) -> str:
    splits, again = checked.all_tasks(make_env()), checked.all_tasks(make_env())
    for split in SPLITS:
        _require(splits[split] == again[split], f"Two instances name different tasks for {split}.")
    return ", ".join(f"{len(tasks)} {split}" for split, tasks in splits.items()) + "."


def _panels(make_env: MakeEnv) -> str:
    env = make_env()
    panels = checked.panels_of(env)
    for tasks in panels.values():
        for task in tasks[:WALKS]:
            checked.begin(env, 0, {"task": task})
            checked.kind_of(env, task)
    return ", ".join(f"{len(tasks)} in {name}" for name, tasks in panels.items()) + "."


def _steps(make_env: MakeEnv) -> str:
    steps = sum(len(list(_walk(env, task))) - 1 for env, task in _some_tasks(make_env))
    return f"{steps} were taken."


def _observations(make_env: MakeEnv) -> str:
    shown = 0
    for env, task, moment in _moments(make_env):
        text, space = moment.observation, getattr(env, "observation_space", None)
        missing = "".join(sorted({*text}.difference(getattr(space, "character_set", text))))
        hint = f", whose charset lacks {short(missing)}" if missing else ""
        _require(
            space is None or space.contains(text),
            f"{short(text)} in task {task} does not lie in the declared observation_space {space}{hint}.",
        )
        shown += 1
    return f"{shown} observations are non-empty strings."


def _actions(make_env: MakeEnv) -> str:
    most = 0
    for env, _, moment in _moments(make_env):
        size = getattr(getattr(env, "action_space", None), "n", None)
        most = max(most, len(moment.actions))
        _require(
            size is None or int(size) >= most,
            f"{most} actions are admissible, but the declared action_space has {size}. A SimpleTextEnv declares "
            f"that of its `actions`: list them all there, or set `actions = None`.",
        )
    return f"at most {most} actions, each time a tuple of distinct strings."


def _wrong_choices(make_env: MakeEnv) -> str:
    for kind in ("too large", "negative", "a float", "a string", "a bool"):
        env = make_env()
        _, actions, _ = checked.begin(env, 0, {})
        wrong: Any = {"too large": len(actions), "negative": -1, "a float": 0.0, "a string": "0", "a bool": True}[kind]
        _refused(lambda env=env, wrong=wrong: env.step(wrong), f"step({wrong!r}), {kind},")
    return "too large, negative, float, string and bool are refused."


def _same_seed(make_env: MakeEnv) -> str:
    episodes = 0
    for env, task in _some_tasks(make_env):
        for seed in (0, LARGEST_WORLD_SEED):
            one, other = list(_walk(env, task, seed)), list(_walk(make_env(), task, seed))
            _require(one == other, f"Task {task}, seed {seed}: {_difference(one, other)}.")
            episodes += 1
    return f"{episodes} episodes were the same in two instances."


def _independent(make_env: MakeEnv) -> str:
    alone = {task: list(_walk(env, task)) for env, task in _some_tasks(make_env)}
    running = {task: _walk(make_env(), task) for task in alone}
    together: dict[str, list[Moment]] = {task: [] for task in alone}
    while running:  # a step of each in turn
        for task in list(running):
            if (moment := next(running[task], None)) is None:
                del running[task]
            else:
                together[task].append(moment)
    for task, seen in together.items():
        _require(seen == alone[task], f"Task {task} beside others: {_difference(alone[task], seen)}.")
    return f"{len(alone)} instances played in turn did not disturb each other."


def _endings(make_env: MakeEnv) -> str:
    stops = Counter(str(list(_walk(env, task))[-1].stop) for env, task in _some_tasks(make_env))
    return "walks ended by " + ", ".join(f"{stop} ({count})" for stop, count in sorted(stops.items())) + "."


def _after_the_end(make_env: MakeEnv) -> str:
    env, task = next(_some_tasks(make_env))
    if list(_walk(env, task))[-1].stop is None:
        return f"none was reached in {STEP_LIMIT} steps."
    _refused(lambda: env.step(0), f"step(0) after the end of task {task}")
    return "step() is refused until the next reset()."


def _rewards(make_env: MakeEnv) -> str:
    low, high = math.inf, -math.inf
    for env, task in _some_tasks(make_env):
        for moment in list(_walk(env, task))[1:]:
            low, high = min(low, moment.reward), max(high, moment.reward)
    return f"seen from {low:g} to {high:g}."


def _options(make_env: MakeEnv) -> str:
    env, count = make_env(), 0
    for other, task in _some_tasks(make_env):
        first, _, _ = checked.begin(env, 3, {"task": task})
        again, _, _ = checked.begin(other, 3, {"task": task})
        _require(first == again, f"Task {task} began as {short(first)} and as {short(again)}.")
        count += 1
    for options in ({"task": "no such task"}, {"no such option": 1}, {"stage": "no such stage"}):
        _refused(lambda options=options: env.reset(seed=0, options=options), f"reset(options={options})")
    return f"{count} tasks begin the same every time; unknown ones are refused."


def _stages(make_env: MakeEnv) -> str:
    stages = make_env().stages
    for stage in stages:
        for env, task in _some_tasks(make_env, ("train",)):
            list(_walk(env, task, stage=stage))
    return f"{', '.join(stages)}: each can be reset and ends." if stages else "there are none."


def _expert(make_env: MakeEnv) -> str:
    env, solved, count, helpless = make_env(), 0, 0, []
    for split in SPLITS:
        for task in checked.tasks_of(env, split)[:EXPERT_TASKS]:
            won, steps = _follow(env, task, seed=count)
            solved, count = solved + won, count + 1
            if split == "train" and not steps:
                helpless.append(task)
    if len(helpless) == min(EXPERT_TASKS, len(checked.tasks_of(env, "train"))):
        return f"{LACKS} expert: `run` cannot collect episodes, they must be brought along (collect.file)."
    _require(
        not helpless, f"expert() gives nothing at the start of {len(helpless)} train tasks, such as {helpless[:1]}."
    )
    _require(solved > 0, f"expert() solves none of {count} tasks within the horizon of {env.horizon}.")
    return f"it solves {solved} of {count} tasks ({solved / count:.0%}) within the horizon of {env.horizon}."


def _follow(env: TextEnv, task: str, seed: int) -> tuple[bool, int]:
    """Do what the expert says for as long as it knows a way: whether that succeeds, and after how many steps."""
    _, actions, _ = checked.begin(env, seed, {"task": task})
    horizon = env.horizon
    for steps in range(STEP_LIMIT):
        checked.check_horizon(env, steps, horizon, task)
        checked.expert_choice(env, actions)
        choices = checked.expert_choices(env, actions)
        if not choices:
            return False, steps
        _, actions, _, stop = checked.advance(env, choices[0])
        if stop is not None:
            return stop is StopReason.SUCCESS, steps + 1
    return False, STEP_LIMIT


def _teacher(make_env: MakeEnv) -> str:
    written = 0
    for env, _, moment in _moments(make_env):
        if moment.stop is None:
            facts = checked.facts_of(env)
            for style in env.teachers:
                checked.taught(type(env), facts, style)
                written += 1
    teachers = make_env().teachers
    return f"{', '.join(teachers)}: {written} reflections written." if teachers else f"{LACKS} scripted teacher."


def _closes(make_env: MakeEnv) -> str:
    make_env()  # and it is closed, as every other one is that is made here
    return "every instance could be closed."


PROBES: dict[str, Callable[[MakeEnv], str]] = {
    p.MADE: _made,
    p.TASKS: _tasks,
    p.PANELS: _panels,
    p.OBSERVATIONS: _observations,
    p.ACTIONS: _actions,
    p.STEPS: _steps,
    p.CHOICES: _wrong_choices,
    p.SAME_SEED: _same_seed,
    p.INDEPENDENT: _independent,
    p.ENDINGS: _endings,
    p.AFTER_THE_END: _after_the_end,
    p.HORIZON: _horizon,
    p.REWARDS: _rewards,
    p.OPTIONS: _options,
    p.STAGES: _stages,
    p.EXPERT: _expert,
    p.TEACHER: _teacher,
    p.CLOSES: _closes,
}
"""A probe for each promise, in the order of MENDS; what is declared is looked at when the world is made."""
