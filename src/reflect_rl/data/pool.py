"""The pool: all collected states and the labels bought for some of them, as stored in a run folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import StrictInt

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import taught
from reflect_rl.envs.promises import BrokenPromiseError
from reflect_rl.envs.registry import load
from reflect_rl.errors import RunFolderError
from reflect_rl.players.prompt import PromptBuilder, state_id
from reflect_rl.records import CHECKED, Episode, Reflection, State, read_record
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream
from reflect_rl.settings import Settings


@dataclass(frozen=True, slots=True)
class Label:
    """One action label: the state (its id and position in the pool) and the expert's action there.

    experts: all actions that the expert considers equally good.
    """

    __pydantic_config__ = CHECKED

    state: str
    episode: StrictInt
    step: StrictInt
    action: StrictInt
    experts: tuple[StrictInt, ...] = ()

    def __post_init__(self) -> None:
        if self.experts and self.action not in self.experts:
            raise ValueError(f"has the action {self.action}, which is not among its experts {list(self.experts)}")

    @property
    def wanted(self) -> tuple[int, ...]:
        """All correct actions."""
        return self.experts or (self.action,)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Label:
        return read_record(cls, data)


@dataclass(frozen=True, slots=True)
class PoolState:
    """A state of the pool with its position, the expert's action, and all actions considered equally good.

    mistake: the action before, if it was drawn at random and the expert would have taken another.
    """

    id: str
    state: State
    episode: int
    step: int
    expert: int | None
    experts: tuple[int, ...] = ()
    mistake: str | None = None

    @property
    def wanted(self) -> tuple[int, ...]:
        """All correct actions; empty if unknown."""
        return self.experts or (() if self.expert is None else (self.expert,))


def read_pool(
    run: RunFolder, settings: Settings, facts: bool = True, texts: Mapping[str, str] | None = None
) -> list[PoolState]:
    """All states of episodes.jsonl, in order. Raises RunFolderError if there are none.

    facts: whether states keep their `facts`, which may take more memory than everything else. texts: the served
    teacher's reflections by state, for states that show past ones; by default those of reflections.jsonl.
    """
    builder = id_builder(settings)
    if texts is None and reads_reflections(settings) and settings.served_teacher:
        texts = {row.state: row.text for row in run.read_jsonl("reflections.jsonl", Reflection.from_json)}
    reflect = _teacher(settings, texts or {})
    pool = []
    for number, episode in enumerate(run.each_of_jsonl("episodes.jsonl", parse_episode)):
        mistake = None
        states = episode.states(settings.prompt.reflections, reflect) if reflect else episode.states()
        for place, (state, step) in enumerate(zip(states, episode.steps, strict=True)):
            kept = state if facts else replace(state, facts={})
            name = state_name(builder, state, settings)
            pool.append(PoolState(name, kept, number, place, step.expert, step.experts, mistake))
            wrong = step.perturbed and pool[-1].wanted and step.choice not in pool[-1].wanted
            mistake = step.actions[step.choice] if wrong else None
    if not pool:
        raise RunFolderError(f"{run / 'episodes.jsonl'} holds no step. Collect at least one episode.")
    return pool


def parse_episode(data: Mapping[str, Any]) -> Episode:
    """An episode of a file that may be the user's own. Raises ValueError, which names the first invalid field."""
    episode = Episode.from_json(data)
    for number, step in enumerate(episode.steps):
        if not step.observation:
            raise ValueError(f"'steps.{number}.observation' is empty")
        if not step.actions or not all(step.actions) or len(set(step.actions)) < len(step.actions):
            raise ValueError(f"'steps.{number}.actions' is {list(step.actions)}: texts that differ, none of them empty")
    return episode


def read_labels(run: RunFolder, pool: Sequence[PoolState]) -> list[Label]:
    """The action labels of this pool. Raises RunFolderError, naming the line, for labels of other states."""
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
    """The reflections of this pool. Raises RunFolderError, naming the line, for those of other states."""
    known = {entry.id for entry in pool}

    def parse(data: Mapping[str, Any]) -> Reflection:
        reflection = Reflection.from_json(data)
        if reflection.state not in known:
            raise ValueError(f"'state' {reflection.state!r} is not one of episodes.jsonl")
        return reflection

    return run.read_jsonl("reflections.jsonl", parse)


def agreement_of(figures: Any) -> float | None:
    """The agreement in reflector.json; None if not measured. Raises ValueError if it is not in [0, 1]."""
    agreement = figures.get("agreement")
    if agreement is not None and not 0 <= agreement <= 1:
        raise ValueError(f"'agreement' is {agreement}, which is no share")
    return agreement


def distinct(order: list[PoolState]) -> list[PoolState]:
    """The distinct states, each at its first occurrence."""
    first: dict[str, PoolState] = {}
    for entry in order:
        first.setdefault(entry.id, entry)
    return list(first.values())


def in_order(pool: list[PoolState], settings: Settings) -> list[PoolState]:
    """The pool in the order in which labels are bought: shuffled states, or shuffled episodes (`annotate.order`)."""
    random = stream(settings.seed, "annotate")
    if not settings.labels_episodes:
        return [pool[i] for i in random.permutation(len(pool))]
    episodes: dict[int, list[PoolState]] = defaultdict(list)
    for entry in pool:
        episodes[entry.episode].append(entry)
    return [entry for number in random.permutation(list(episodes)) for entry in episodes[int(number)]]


def reads_reflections(settings: Settings) -> bool:
    """Whether past reflections are shown."""
    return settings.prompt.reflections > 0 and settings.reflector.kind != "none"


def reads_facts(settings: Settings) -> bool:
    """Whether a player reads the facts that the world provides for scripted teachers."""
    return settings.prompt.notes or settings.reflector.kind == "scripted"


def id_builder(settings: Settings) -> PromptBuilder:
    """The builder of the prompts that define state ids, independent of models and labels."""
    return PromptBuilder("", settings.prompt, labels=None)


def state_texts(pool: Iterable[PoolState], settings: Settings) -> Iterable[tuple[str, str]]:
    """(id, the reflector's prompt) of each state."""
    builder = id_builder(settings)
    return ((entry.id, builder.reflector_prompt(entry.state).text) for entry in pool)


def state_name(builder: PromptBuilder, state: State, settings: Settings) -> str:
    """The state's id. With the labels head, the reflector also reads the actions, so they are part of the id."""
    return state_id(builder.reflector_prompt(state), state.actions if settings.policy.head == "labels" else ())


def _teacher(settings: Settings, texts: Mapping[str, str]) -> Callable[[State], str | None] | None:
    """Writes the teacher's texts on earlier steps, if past reflections are shown. A prompted reflector has none."""
    if not reads_reflections(settings) or settings.reflector.kind == "prompted":
        return None
    if settings.served_teacher:
        builder = id_builder(settings)
        return lambda state: texts.get(state_name(builder, state, settings))
    world = load(settings.env.name)
    return lambda state: scripted(world, state, settings.annotate.teacher)


def scripted(world: type[TextEnv], state: State, style: str) -> str:
    """The text of a world's scripted teacher on a state of the pool. Raises RunFolderError if that has no facts."""
    try:
        return taught(world, state.facts, style)
    except BrokenPromiseError as error:
        if state.facts:
            raise
        raise RunFolderError(
            f"A state of episodes.jsonl has no 'facts', from which the teacher '{style}' of {world.__name__} writes: "
            f"{error}"
        ) from error
