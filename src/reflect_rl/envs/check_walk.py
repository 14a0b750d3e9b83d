"""How `check` plays an environment: short seeded episodes, of which every moment is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reflect_rl.envs.base import SPLITS, TextEnv
from reflect_rl.seeding import stream

MakeEnv = Callable[[], TextEnv]
WALKS = 4
"""Tasks a split that are walked."""
EXPERT_SHARE = 0.7
"""Share of a walk's steps that the expert takes, so that walks come further than pure chance would."""
STEP_LIMIT = 10_000
"""Steps after which an episode counts as endless, if the horizon is longer still."""


class BrokenPromiseError(Exception):
    """A promise was seen broken. The message says what was seen."""


def require(kept: bool, seen: str) -> None:
    if not kept:
        raise BrokenPromiseError(seen)


@dataclass(slots=True)
class Moment:
    """What the environment gave at one step; `what` led there."""

    what: str
    observation: Any
    info: Mapping[str, Any]
    reward: Any = 0.0
    terminated: Any = False
    truncated: Any = False

    def key(self) -> tuple[Any, ...]:
        """What two equal episodes have in common (the reward as text: a NaN is not even equal to itself)."""
        actions, stop = self.info.get("actions"), self.info.get("stop")
        return (self.observation, actions, repr(self.reward), self.terminated, self.truncated, stop)


def some_tasks(make_env: MakeEnv) -> Iterator[tuple[TextEnv, str]]:
    """A few tasks of each split, each with an instance of its own."""
    env = make_env()
    for split in SPLITS:
        for task in env.tasks(split)[:WALKS]:
            yield make_env(), task


def walk(env: TextEnv, task: str, seed: int, stage: str | None = None) -> Iterator[Moment]:
    """One episode, most steps as the expert would; it stops at the horizon, ended by the environment or not."""
    random = stream(seed, f"check {task}")
    observation, info = env.reset(seed=seed, options={"task": task} | ({"stage": stage} if stage else {}))
    yield Moment("reset()", observation, info)
    for _ in range(min(env.horizon, STEP_LIMIT)):
        choice = int(random.integers(len(info["actions"])))
        if random.random() < EXPERT_SHARE:
            choice = _expert_choice(env, info["actions"], otherwise=choice)
        result = env.step(choice)
        require(isinstance(result, tuple) and len(result) == 5, f"step() gave {short(result)}, not five things.")
        observation, reward, terminated, truncated, info = result
        yield Moment(f"step({choice})", observation, info, reward, terminated, truncated)
        if terminated or truncated:
            return


def _expert_choice(env: TextEnv, actions: tuple[str, ...], otherwise: int) -> int:
    """What the expert would do; a broken or missing expert is not what the other probes are about."""
    try:
        choice = TextEnv.check_choice(env, env.expert(), actions)
    except Exception:  # noqa: BLE001  the environment's own code; the probe "expert" reports it
        return otherwise
    return choice


def difference(one: list[Any], other: list[Any]) -> str:
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return f"step {step} gave {short(a)} and then {short(b)}."
    return f"{len(one)} steps and then {len(other)}."


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
