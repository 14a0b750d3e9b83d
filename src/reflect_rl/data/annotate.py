"""Annotate: spend two label budgets on the pool, one of the expert's actions, one of the teacher's reflections.

Both budgets walk through one seeded order of the pool, so the states of the smaller budget are among those of the
larger. With `annotate.distinct` a state is asked about once; otherwise repeats cost a label each, as they do when whole
trajectories are annotated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reflect_rl.data.collect import make_env
from reflect_rl.envs.contract import taught
from reflect_rl.errors import RunFolderError
from reflect_rl.players.prompt import PromptBuilder, state_id
from reflect_rl.progress import Progress
from reflect_rl.records import Episode, Reflection, State
from reflect_rl.run_folder import RunFolder
from reflect_rl.seeding import stream
from reflect_rl.settings import Settings


@dataclass(frozen=True, slots=True)
class Label:
    """One label bought: the state (its id, and where it stands in the pool) and the expert's action there."""

    state: str
    episode: int
    step: int
    action: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Label:
        return cls(**data)


@dataclass(frozen=True, slots=True)
class PoolState:
    """One state of the pool with its place and the expert's action."""

    id: str
    state: State
    episode: int
    step: int
    expert: int | None


def annotate(run: RunFolder, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Write action_labels.jsonl and reflections.jsonl."""
    pool = read_pool(run, settings)
    env = make_env(settings)
    order = [pool[i] for i in stream(settings.seed, "annotate").permutation(len(pool))]
    if settings.annotate.distinct:
        first: dict[str, PoolState] = {}
        for entry in order:
            first.setdefault(entry.id, entry)
        order = list(first.values())
    labelled = [entry for entry in order if entry.expert is not None]
    actions = _within(labelled, settings.annotate.actions, "action", progress)
    wanted = 0 if settings.reflector.kind == "none" else settings.annotate.reflections
    asked = _within(order, wanted, "reflection", progress)
    texts = []
    with progress.bar("annotate", len(asked), "reflections") as bar:
        for entry in asked:
            text = taught(type(env), entry.state.facts, settings.annotate.teacher)
            texts.append((entry, text))
            bar.update()
    run.write_jsonl(
        "action_labels.jsonl",
        (Label(e.id, e.episode, e.step, e.expert).to_json() for e in actions if e.expert is not None),
    )
    style = f"scripted:{settings.annotate.teacher}"
    run.write_jsonl("reflections.jsonl", (Reflection(entry.id, text, style).to_json() for entry, text in texts))
    return {
        "pool": len(pool),
        "pool_distinct": len({entry.id for entry in pool}),
        "actions": len(actions),
        "actions_distinct": len({entry.id for entry in actions}),
        "reflections": len(asked),
        "reflections_distinct": len({entry.id for entry in asked}),
    }


def read_pool(run: RunFolder, settings: Settings) -> list[PoolState]:
    """Every state of episodes.jsonl, in order. Raises RunFolderError if there are none."""
    builder = id_builder(settings)
    pool = [
        PoolState(state_id(builder.reflector_prompt(state)), state, number, place, step.expert)
        for number, episode in enumerate(run.read_jsonl("episodes.jsonl", Episode.from_json))
        for place, (state, step) in enumerate(zip(episode.states(), episode.steps, strict=True))
    ]
    if not pool:
        raise RunFolderError(f"{run / 'episodes.jsonl'} holds no step. Collect at least one episode.")
    return pool


def id_builder(settings: Settings) -> PromptBuilder:
    """The builder whose prompts give a state its id: independent of any model or label."""
    return PromptBuilder("", settings.prompt, labels=None)


def _within(order: list[PoolState], budget: int, what: str, progress: Progress) -> list[PoolState]:
    if budget > len(order):
        kind = "states with an expert's action" if what == "action" else "states"
        progress.warn(
            f"The budget of {budget} {what} labels is more than the pool's {len(order)} {kind}: all are used."
        )
    return order[:budget]
