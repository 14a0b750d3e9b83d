"""What is passed between the stages and written to files: states, steps, episodes, reflections.

Every record is a plain frozen dataclass that turns into one JSON object (`to_json`) and back (`from_json`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class StopReason(StrEnum):
    """Why an episode ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    DANGEROUS = "dangerous"
    HORIZON = "horizon"


@dataclass(frozen=True, slots=True)
class State:
    """What a player may look at before it acts.

    observation: the environment's text now. actions: the admissible actions now, in the environment's order.
    history: (observation, action) of the steps before, oldest first. facts: what `TextEnv.describe()` said, for
    scripted teachers only; no learned player reads it. reflections: those on the steps before, oldest first.
    """

    observation: str
    actions: tuple[str, ...]
    history: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    reflections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One decision. `choice` was executed, `expert` is what the expert would have done (None: not known).

    Both are indices into `actions`. `experts`: every action that the expert thinks equally good. `perturbed` marks a
    negative example: `choice` was drawn at random. `reward` is what the step earned.
    """

    observation: str
    actions: tuple[str, ...]
    choice: int
    reward: float
    expert: int | None = None
    perturbed: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    experts: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Step:
        actions = tuple(map(sys.intern, data["actions"]))  # the same few in every step: 0.1 GB in a pool of 43,000
        step = cls(**{**data, "actions": actions, "experts": tuple(data.get("experts", ()))})
        for place in (step.choice, *step.experts, *([] if step.expert is None else [step.expert])):
            if not isinstance(place, int) or not 0 <= place < len(step.actions):
                raise ValueError(f"{place!r} is no index into the {len(step.actions)} actions of a step")
        return step


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode from reset to its end (see StopReason)."""

    task: str
    steps: tuple[Step, ...]
    stop: StopReason

    @property
    def success(self) -> bool:
        return self.stop is StopReason.SUCCESS

    def states(self) -> Iterator[State]:
        """The state before each step, with everything that happened before it as history."""
        history: list[tuple[str, str]] = []
        for step in self.steps:
            yield State(step.observation, step.actions, tuple(history), step.facts)
            history.append((step.observation, step.actions[step.choice]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Episode:
        steps = tuple(Step.from_json(step) for step in data["steps"])
        return cls(task=data["task"], steps=steps, stop=StopReason(data["stop"]))


@dataclass(frozen=True, slots=True)
class Reflection:
    """A teacher's text for one state. `state` is the state's id (see players.prompt.state_id)."""

    state: str
    text: str
    teacher: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reflection:
        return cls(**data)
