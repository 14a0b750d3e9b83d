"""How `check` plays an environment: short seeded episodes, by the functions that runs play with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reflect_rl.envs.base import SPLITS, TextEnv
from reflect_rl.envs.checked import advance, begin, check_horizon, expert_choice, tasks_of
from reflect_rl.envs.promises import short
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason
from reflect_rl.seeding import stream

MakeEnv = Callable[..., TextEnv]
WALKS = 4
"""Tasks a split that are walked."""
EXPERT_SHARE = 0.7
"""Share of a walk's steps that the expert takes, so that walks come further than pure chance would."""
STEP_LIMIT = 10_000
"""Steps after which a walk is left, if the horizon is longer still."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What the environment gave at one step. stop: why the episode ended there, if it did."""

    observation: str
    actions: tuple[str, ...]
    reward: float = 0.0
    stop: StopReason | None = None


def some_tasks(make_env: MakeEnv) -> Iterator[tuple[TextEnv, str]]:
    """A few tasks of each split, each with an instance of its own."""
    env = make_env()
    for split in SPLITS:
        for task in tasks_of(env, split)[:WALKS]:
            yield make_env(), task


def walk(env: TextEnv, task: str, seed: int, stage: str | None = None) -> Iterator[Moment]:
    """One episode to its end, most steps as the expert would. Raises BrokenPromiseError, as a run does."""
    random = stream(seed, f"check {task}")
    observation, actions, _ = begin(env, seed, {"task": task} | ({"stage": stage} if stage else {}))
    yield Moment(observation, actions)
    horizon = env.horizon
    for steps in range(STEP_LIMIT):
        check_horizon(env, steps, horizon, task)
        choice = int(random.integers(len(actions)))
        if random.random() < EXPERT_SHARE:
            choice = _expert_choice(env, actions, otherwise=choice)
        observation, actions, reward, stop = advance(env, choice)
        yield Moment(observation, actions, reward, stop)
        if stop is not None:
            return


def _expert_choice(env: TextEnv, actions: tuple[str, ...], otherwise: int) -> int:
    """What the expert would do; a broken or missing expert is not what the other probes are about."""
    try:
        choice = expert_choice(env, actions)
    except EnvironmentContractError:
        return otherwise
    return otherwise if choice is None else choice


def difference(one: list[Moment], other: list[Moment]) -> str:
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return f"step {step} gave {short(a)} and then {short(b)}"
    return f"{len(one)} steps and then {len(other)}"
