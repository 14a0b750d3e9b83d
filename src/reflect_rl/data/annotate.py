"""Annotate: spend two label budgets on the pool, one for expert actions and one for the teacher's reflections.

Both budgets follow the same seeded order of the pool, so the smaller set of labelled states is a subset of the larger.
With `annotate.distinct`, each state is labelled once; otherwise repeated states cost a label each, as when whole
trajectories are annotated. With `prompt.reflections`, players also learn from the teacher's texts on earlier steps, so
labels are bought for whole episodes.
"""

from __future__ import annotations

from typing import Any

from reflect_rl.data.pool import Label, PoolState, distinct, in_order, read_pool
from reflect_rl.envs.checked import taught
from reflect_rl.envs.promises import same_folder
from reflect_rl.envs.registry import load
from reflect_rl.errors import RunFolderError
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.records import Reflection
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream
from reflect_rl.settings import Settings


def annotate(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Write action_labels.jsonl and reflections.jsonl."""
    settings = context.settings
    pool = read_pool(run, settings)
    world = load(settings.env.name)
    order = in_order(pool, settings)
    if settings.annotate.distinct:
        order = distinct(order)
    labelled = [entry for entry in order if entry.expert is not None]
    actions = _within(labelled, settings.annotate.actions, "action", progress)
    untaught = settings.reflector.kind in ("none", "prompted")
    wanted = 0 if untaught else settings.annotate.reflections
    asked = _selected(run, order, settings) if settings.selects else _within(order, wanted, "reflection", progress)
    texts = []
    with same_folder(), progress.bar("annotate", len(asked), "reflections") as bar:
        for entry in asked:
            text = taught(world, entry.state.facts, settings.annotate.teacher)
            texts.append((entry, text))
            bar.update()
    run.write_jsonl(
        "action_labels.jsonl",
        (Label(e.id, e.episode, e.step, e.expert, e.experts).to_json() for e in actions if e.expert is not None),
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


def _selected(run: RunFolder, order: list[PoolState], settings: Settings) -> list[PoolState]:
    """The selected states in random order, so that the held-out ones are a random sample."""
    at = {entry.id: entry for entry in distinct(order)}
    try:
        chosen = [at[name] for name in run.read_jsonl("selection.jsonl", lambda row: str(row["id"]))]
    except KeyError as error:
        raise RunFolderError(
            f"{run / 'selection.jsonl'} names a state that is not in episodes.jsonl: {error}. Select again."
        ) from None
    return [chosen[i] for i in stream(settings.seed, "annotate selected").permutation(len(chosen))]


def _within(order: list[PoolState], budget: int, what: str, progress: Progress) -> list[PoolState]:
    if budget > len(order):
        kind = "states with an expert's action" if what == "action" else "states"
        progress.warn(
            f"The budget of {budget} {what} labels is more than the pool's {len(order)} {kind}: all are used."
        )
    return order[:budget]
