"""Records passed between stages and stored in files: states, steps, episodes, reflections.

Every record is a frozen dataclass that converts to a JSON object (`to_json`) and back (`from_json`). Invalid data
raises a ValueError that names the field.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from itertools import chain
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, SkipValidation, StrictBool, StrictFloat, TypeAdapter, ValidationError

Record = TypeVar("Record")
Item = TypeVar("Item")
CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Validation of records: unknown fields and non-finite numbers are refused."""
Index = Annotated[int, SkipValidation]
"""An index, validated by the record itself."""
WORDS = {"tuple": "list", "dicti": "JSON object"}
"""JSON's names for Python types."""
SHOWN = 60
"""Maximum characters of a wrong value in a message."""


def read_record(kind: type[Record], data: Any) -> Record:
    """Build a record from parsed JSON. Raises ValueError, which names the first invalid field."""
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    about = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    about = re.sub(r"tuple|dictionary( or an instance of \w+)?", lambda m: WORDS[m[0][:5]], about)
    if first["type"] == "missing":
        raise ValueError(f"the field '{field}' is missing")
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        raise ValueError(f"the field '{field}' is not known")
    if first["type"] == "value_error":
        raise ValueError(f"'{field}' {about}")
    value = repr(first["input"])
    value = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
    raise ValueError(f"'{field}' is {value}: it {about}" if field else f"it should be a JSON object, not {value}")


def finite_number(text: str) -> float:
    """A number of a JSON file, for `parse_float` and `parse_constant`. Raises ValueError if it is infinite or none."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class StopReason(StrEnum):
    """Why an episode ended. LOST is said by players alone, never by a world: the world hung or died again and again."""

    SUCCESS = "success"
    FAILURE = "failure"
    DANGEROUS = "dangerous"
    HORIZON = "horizon"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class State:
    """What a player can see before it acts.

    observation: the environment's current text. actions: the admissible actions, in the environment's order. history:
    past (observation, action) pairs, oldest first. facts: the result of `TextEnv.describe()`, read only by scripted
    teachers and for `prompt.notes`. reflections: the reflections on past steps, oldest first.
    """

    observation: str
    actions: tuple[str, ...]
    history: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    reflections: tuple[str, ...] = ()


class EpisodeMemory:
    """A player's memory of the current episode: call `observe` on each state, then `acted` with the action taken.

    history, reflections: maximum number of past steps and past reflections in a state; None keeps all.
    """

    def __init__(self, history: int | None = None, reflections: int | None = None) -> None:
        self._most = history, reflections
        self._past: tuple[tuple[str, str], ...] = ()
        self._reflections: tuple[str, ...] = ()
        self._now: tuple[str, tuple[str, ...]] | None = None  # without the facts, which may be large

    def observe(self, observation: str, actions: tuple[str, ...], facts: Mapping[str, Any] | None = None) -> State:
        """The state in which the player acts next."""
        self._now = observation, actions
        return State(observation, actions, self._past, {} if facts is None else facts, self._reflections)

    def acted(self, choice: int, reflection: str | None = None) -> None:
        """Record the action taken in the last observed state, and the reflection read there."""
        assert self._now is not None, "observe first"
        (observation, actions), self._now = self._now, None
        history, reflections = self._most
        self._past = _last((*self._past, (observation, actions[choice])), history)
        if reflection is not None:
            self._reflections = _last((*self._reflections, reflection), reflections)

    def size(self) -> int:
        """The bytes of the texts of past steps."""
        return sum(map(sys.getsizeof, (*chain.from_iterable(self._past), *self._reflections)))


def _last(items: tuple[Item, ...], most: int | None) -> tuple[Item, ...]:
    return items if most is None else items[-most:] if most else ()


@dataclass(frozen=True, slots=True)
class Step:
    """One decision. `choice` is the executed action, `expert` the expert's choice (None if unknown).

    Both are indices into `actions`. `experts` lists all actions that the expert considers equally good; without
    `expert`, its first is taken. `perturbed` marks a negative example: `choice` was drawn at random. `reward` is the
    reward of the step.
    """

    __pydantic_config__ = CHECKED

    observation: str
    actions: tuple[str, ...]
    choice: Index
    reward: StrictFloat
    expert: Index | None = None
    perturbed: StrictBool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    experts: tuple[Index, ...] = ()

    def __post_init__(self) -> None:
        # Steps repeat the same few texts; sharing them saves 0.1 GB in a pool of 43,000.
        object.__setattr__(self, "actions", tuple(map(sys.intern, self.actions)))
        named = [("choice", self.choice), ("expert", self.expert), *(("experts", place) for place in self.experts)]
        for name, place in named:
            if place is not None and (type(place) is not int or not 0 <= place < len(self.actions)):
                raise ValueError(f"has {name} {place!r}, which is no index into the {len(self.actions)} actions there")
        if self.experts and self.expert is None:
            object.__setattr__(self, "expert", self.experts[0])
        if self.experts and self.expert not in self.experts:
            raise ValueError(f"has the expert {self.expert}, which is not among its experts {list(self.experts)}")


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode, from reset to its end (see StopReason)."""

    __pydantic_config__ = CHECKED

    task: str
    steps: tuple[Step, ...]
    stop: StopReason

    @property
    def success(self) -> bool:
        return self.stop is StopReason.SUCCESS

    def states(
        self, reflections: int = 0, reflect: Callable[[State], str | None] = lambda state: None
    ) -> Iterator[State]:
        """The state before each step, with all earlier steps as history.

        reflections: maximum number of past reflections in a state. reflect: writes a reflection on a state.
        """
        memory = EpisodeMemory(reflections=reflections)
        for step in self.steps:
            yield (state := memory.observe(step.observation, step.actions, step.facts))
            memory.acted(step.choice, reflect(state) if reflections else None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Episode:
        return read_record(cls, data)


@dataclass(frozen=True, slots=True)
class Reflection:
    """A teacher's text for one state, stripped of white space. `state`: the state's id (players.prompt.state_id)."""

    __pydantic_config__ = CHECKED

    state: str
    text: str
    teacher: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.text.strip())  # players and `envs.checked.taught` strip theirs too

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reflection:
        return read_record(cls, data)
