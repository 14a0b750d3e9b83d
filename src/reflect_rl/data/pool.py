"""The pool: every state that was collected, and the labels bought for some of them, as they lie in a run folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import StrictInt

from reflect_rl.envs.checked import taught
from reflect_rl.envs.registry import load
from reflect_rl.errors import RunFolderError
from reflect_rl.players.prompt import PromptBuilder, state_id
from reflect_rl.records import CHECKED, Episode, Reflection, State, read_record
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream
from reflect_rl.settings import Settings


@dataclass(frozen=True, slots=True)
class Label:
    """One label bought: the state (its id, and where it stands in the pool) and the expert's action there.

    experts: all actions that it thinks as good.
    """

    __pydantic_config__ = CHECKED

    state: str
    episode: StrictInt
    step: StrictInt
    action: StrictInt
    experts: tuple[StrictInt, ...] = ()

    @property
    def wanted(self) -> tuple[int, ...]:
        """Every action that is right."""
        return self.experts or (self.action,)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Label:
        return read_record(cls, data)


@dataclass(frozen=True, slots=True)
class PoolState:
    """One state of the pool with its place, the expert's action, and all that it thinks as good."""

    id: str
    state: State
    episode: int
    step: int
    expert: int | None
    experts: tuple[int, ...] = ()


def read_pool(run: RunFolder, settings: Settings, facts: bool = True) -> list[PoolState]:
    """Every state of episodes.jsonl, in order. Raises RunFolderError if there are none.

    facts: whether the states keep what the world told of them, which may take more memory than all the rest.
    """
    builder = id_builder(settings)
    pool = []
    for number, episode in enumerate(run.each_of_jsonl("episodes.jsonl", Episode.from_json)):
        for place, (state, step) in enumerate(zip(_states(episode, settings), episode.steps, strict=True)):
            kept = state if facts else replace(state, facts={})
            pool.append(PoolState(_id(builder, state, settings), kept, number, place, step.expert, step.experts))
    if not pool:
        raise RunFolderError(f"{run / 'episodes.jsonl'} holds no step. Collect at least one episode.")
    return pool


def read_labels(run: RunFolder, pool: Sequence[PoolState]) -> list[Label]:
    """The action labels, of states of this pool. Raises RunFolderError, naming the line, for any other."""
    at = {(entry.episode, entry.step): len(entry.state.actions) for entry in pool}

    def parse(data: Mapping[str, Any]) -> Label:
        label = Label.from_json(data)
        if (label.episode, label.step) not in at:
            raise ValueError(f"'episode' {label.episode} has no 'step' {label.step} in episodes.jsonl")
        for action in (label.action, *label.experts):
            if not 0 <= action < at[label.episode, label.step]:
                raise ValueError(f"'action' or 'experts' has {action}, which is no index into the state's actions")
        return label

    return run.read_jsonl("action_labels.jsonl", parse)


def read_reflections(run: RunFolder, pool: Sequence[PoolState]) -> list[Reflection]:
    """The reflections, on states of this pool. Raises RunFolderError, naming the line, for any other."""
    known = {entry.id for entry in pool}

    def parse(data: Mapping[str, Any]) -> Reflection:
        reflection = Reflection.from_json(data)
        if reflection.state not in known:
            raise ValueError(f"'state' {reflection.state!r} is not one of episodes.jsonl")
        return reflection

    return run.read_jsonl("reflections.jsonl", parse)


def agreement_of(figures: Any) -> float | None:
    """The agreement in reflector.json; None if it was not measured. Raises ValueError if it is no share."""
    agreement = figures.get("agreement")
    if agreement is not None and not 0 <= agreement <= 1:
        raise ValueError(f"'agreement' is {agreement}, which is no share")
    return agreement


def distinct(order: list[PoolState]) -> list[PoolState]:
    """Each state once, where it comes first."""
    first: dict[str, PoolState] = {}
    for entry in order:
        first.setdefault(entry.id, entry)
    return list(first.values())


def in_order(pool: list[PoolState], settings: Settings) -> list[PoolState]:
    """The order in which labels are bought: of states; of whole episodes where past reflections are read."""
    random = stream(settings.seed, "annotate")
    if not reads_reflections(settings):
        return [pool[i] for i in random.permutation(len(pool))]
    episodes: dict[int, list[PoolState]] = defaultdict(list)
    for entry in pool:
        episodes[entry.episode].append(entry)
    return [entry for number in random.permutation(len(episodes)) for entry in episodes[int(number)]]


def reads_reflections(settings: Settings) -> bool:
    """Whether past reflections are shown."""
    return settings.prompt.reflections > 0 and settings.reflector.kind != "none"


def reads_facts(settings: Settings) -> bool:
    """Whether a player reads what the world tells a scripted teacher."""
    return settings.prompt.notes or settings.reflector.kind == "scripted"


def id_builder(settings: Settings) -> PromptBuilder:
    """The builder whose prompts give a state its id: independent of any model or label."""
    return PromptBuilder("", settings.prompt, labels=None)


def state_texts(pool: Iterable[PoolState], settings: Settings) -> Iterable[tuple[str, str]]:
    """(id, what a reflector would read) of each state."""
    builder = id_builder(settings)
    return ((entry.id, builder.reflector_prompt(entry.state).text) for entry in pool)


def _id(builder: PromptBuilder, state: State, settings: Settings) -> str:
    """With labels the reflector reads the actions too: states that differ in these alone are then two."""
    return state_id(builder.reflector_prompt(state), state.actions if settings.policy.head == "labels" else ())


def _states(episode: Episode, settings: Settings) -> Iterator[State]:
    """The states of an episode; where past reflections are shown, with the teacher's texts on those before."""
    if not reads_reflections(settings):
        return episode.states()
    world = load(settings.env.name)
    return episode.states(
        settings.prompt.reflections, lambda state: taught(world, state.facts, settings.annotate.teacher)
    )
