"""Annotate: spend two label budgets on the pool, one for expert actions and one for the teacher's reflections.

Both budgets follow the same seeded order of the pool, so the smaller set of labelled states is a subset of the larger.
With `annotate.distinct`, each state is labelled once; otherwise repeated states cost a label each, as when whole
trajectories are annotated. With `prompt.reflections`, players also learn from the teacher's texts on earlier steps, so
labels are bought for whole episodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reflect_rl.data.pool import (
    Label,
    PoolState,
    distinct,
    id_builder,
    in_order,
    read_pool,
    reads_reflections,
    scripted,
    state_name,
)
from reflect_rl.data.teacher import ANSWERS, ServedTeacher
from reflect_rl.envs.promises import same_folder
from reflect_rl.envs.registry import load
from reflect_rl.errors import RunFolderError, TeacherError
from reflect_rl.model_servers.records import Estimate
from reflect_rl.players.context import Context
from reflect_rl.players.labels import MOST_LABELS
from reflect_rl.players.prompt import too_many_actions
from reflect_rl.progress import Progress
from reflect_rl.records import Reflection
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream
from reflect_rl.settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """The states of the pool that get labels: their actions, and reflections on them."""

    pool: list[PoolState]
    actions: list[PoolState]
    reflections: list[PoolState]


def annotate(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Write action_labels.jsonl and reflections.jsonl.

    Raises ServerError: the served teacher stays away, or its budget is used up; its answers are kept. Raises
    TeacherError: it gave no usable label.
    """
    settings = context.settings
    plan = _plan(run, settings, progress)
    style, counts = f"scripted:{settings.annotate.teacher}", {}
    if settings.served_teacher:
        plan, texts, counts = _ask_server(run, context, plan, progress)
        style = f"openai:{settings.teacher.model}"
    else:
        texts = _ask_world(settings, plan.reflections, progress)
    run.write_jsonl(
        "action_labels.jsonl",
        (Label(e.id, e.episode, e.step, e.expert, e.experts).to_json() for e in plan.actions if e.expert is not None),
    )
    run.write_jsonl("reflections.jsonl", (Reflection(entry.id, text, style).to_json() for entry, text in texts))
    return {
        "pool": len(plan.pool),
        "pool_distinct": len({entry.id for entry in plan.pool}),
        "actions": len(plan.actions),
        "actions_distinct": len({entry.id for entry in plan.actions}),
        "reflections": len(texts),
        "reflections_distinct": len({entry.id for entry, _ in texts}),
        **counts,
    }


def estimate(run: RunFolder, context: Context, progress: Progress) -> Estimate:
    """What the served teacher would be asked, without what is stored. Nothing is sent or written.

    With past reflections in its prompts (`prompt.reflections`), they are not counted. Raises TeacherError for a
    scripted teacher.
    """
    settings = context.settings
    if not settings.served_teacher:
        raise TeacherError(f"The teacher '{settings.annotate.teacher}' is a script of the world, which costs nothing.")
    plan = _plan(run, settings, progress)
    with ServedTeacher(run, context, progress, store=(run / ANSWERS).exists()) as teacher:
        acted = plan.actions if settings.annotate.actions_by == "teacher" else []
        return teacher.estimate([*teacher.asks("act", acted), *teacher.asks("reflect", plan.reflections)])


def _plan(run: RunFolder, settings: Settings, progress: Progress) -> Plan:
    pool = read_pool(run, settings, texts={})
    _check_labels(pool, settings)
    order = in_order(pool, settings)
    by_expert = settings.annotate.actions_by == "expert"
    kind = "states with an expert's action" if by_expert else "states"
    labelled = [entry for entry in order if entry.expert is not None or not by_expert]
    if settings.annotate.distinct:  # each alone: own episodes may tell an expert's action on a later visit only
        order, labelled = distinct(order), distinct(labelled)
    if settings.served_teacher and not labelled:  # before anything is paid for
        raise RunFolderError(
            f"{run / 'episodes.jsonl'} has no state with an expert's action, so there is no action to learn from. "
            f"Collect with an expert, or let the teacher label actions: annotate.actions_by: teacher."
        )
    actions = _within(labelled, settings.annotate.actions, "action", kind, progress)
    if settings.selects:
        return Plan(pool, actions, _selected(run, order, settings))
    untaught = settings.reflector.kind in ("none", "prompted")
    wanted = 0 if untaught else settings.annotate.reflections
    return Plan(pool, actions, _within(order, wanted, "reflection", "states", progress))


def _check_labels(pool: Sequence[PoolState], settings: Settings) -> None:
    """Raise PromptError if no tokenizer could have a label for each action: before anything is paid for."""
    most = max((len(entry.state.actions) for entry in pool), default=0)
    if settings.policy.head == "labels" and most > MOST_LABELS:
        raise too_many_actions(most, f"and there are at most {MOST_LABELS}")


def _ask_world(settings: Settings, asked: Sequence[PoolState], progress: Progress) -> list[tuple[PoolState, str]]:
    """The texts of the world's scripted teacher."""
    world, texts = load(settings.env.name), []
    with same_folder(), progress.bar("annotate", len(asked), "reflections") as bar:
        for entry in asked:
            texts.append((entry, scripted(world, entry.state, settings.annotate.teacher)))
            bar.update()
    return texts


def _ask_server(
    run: RunFolder, context: Context, plan: Plan, progress: Progress
) -> tuple[Plan, list[tuple[PoolState, str]], dict[str, Any]]:
    """(the plan with the actions that could be labelled, the reflections that could be used, counts)."""
    settings, actions = context.settings, plan.actions
    acts = settings.annotate.actions_by == "teacher"
    total = len(plan.reflections) + len(actions) * acts
    with ServedTeacher(run, context, progress) as teacher, progress.bar("annotate", total, "labels") as bar:
        if acts:
            choices = zip(actions, teacher.act(actions, bar), strict=True)
            actions = [replace(entry, expert=choice, experts=()) for entry, choice in choices if choice is not None]
        texts = _reflections(settings, plan.reflections, lambda entries: teacher.reflect(entries, bar))
    _announce(teacher, total, progress)
    if not actions or (plan.reflections and not texts):
        what = "reflection" if actions else "action"
        raise TeacherError(
            f"The teacher {settings.teacher.model} gave no usable {what} ({_reasons(teacher)}). Look at its prompt "
            f"(teacher.reflect, teacher.act), raise teacher.max_words or teacher.max_tokens, or take another model."
        )
    if reads_reflections(settings):  # the ids of states depend on the texts before them
        pool = read_pool(run, settings, texts={entry.id: text for entry, text in texts})
        names = {(entry.episode, entry.step): entry.id for entry in pool}
        actions = [replace(entry, id=names[entry.episode, entry.step]) for entry in actions]
        plan = replace(plan, pool=pool)
    return replace(plan, actions=actions), texts, teacher.counts()


def _reflections(
    settings: Settings, asked: Sequence[PoolState], reflect: Callable[[Sequence[PoolState]], Sequence[str | None]]
) -> list[tuple[PoolState, str]]:
    """The texts that could be used. If past reflections are shown, step by step: a text is read on later steps."""
    if not reads_reflections(settings):
        return [(entry, text) for entry, text in zip(asked, reflect(asked), strict=True) if text is not None]
    builder, most = id_builder(settings), settings.prompt.reflections
    notes: dict[int, list[str]] = defaultdict(list)
    known: dict[str, str | None] = {}
    found: dict[tuple[int, int], tuple[PoolState, str]] = {}
    for step in sorted({entry.step for entry in asked}):
        entries = []
        for entry in (entry for entry in asked if entry.step == step):
            state = replace(entry.state, reflections=tuple(notes[entry.episode][-most:]))
            entries.append(replace(entry, id=state_name(builder, state, settings), state=state))
        fresh = [entry for entry in distinct(entries) if entry.id not in known]
        known |= zip([entry.id for entry in fresh], reflect(fresh), strict=True)
        for entry in entries:
            if (text := known[entry.id]) is not None:
                notes[entry.episode].append(text)
                found[entry.episode, entry.step] = entry, text
    places = [(entry.episode, entry.step) for entry in asked]
    return [found[place] for place in places if place in found]


def _announce(teacher: ServedTeacher, total: int, progress: Progress) -> None:
    meter = teacher.meter
    cost = "at an unknown price" if meter.usd is None else f"{meter.usd:.4f} USD"
    progress.say(
        f"annotate: {meter.calls:,} calls, {meter.prompt_tokens:,} prompt tokens, {meter.completion_tokens:,} "
        f"completion tokens, {cost}"
    )
    if teacher.failed:
        progress.warn(
            f"{teacher.failed.total()} of {total} labels could not be had ({_reasons(teacher)}): the run goes on "
            f"without them."
        )


def _reasons(teacher: ServedTeacher) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(teacher.failed.items()))


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


def _within(order: list[PoolState], budget: int, what: str, kind: str, progress: Progress) -> list[PoolState]:
    if budget > len(order):
        progress.warn(
            f"The budget of {budget} {what} labels is more than the pool's {len(order)} {kind}: all are used."
        )
    return order[:budget]
