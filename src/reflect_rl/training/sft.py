"""SFT warm-up of the two players.

The reflector learns the teacher's text given the state, and is then frozen; its agreement with the teacher is measured
on held-out states. The policy learns the expert's choice given state and reflection, with label smoothing, since an
overconfident policy leaves RL nothing to explore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from reflect_rl.data.past_reflections import hide_reflections, with_notes
from reflect_rl.data.pool import (
    Label,
    PoolState,
    agreement_of,
    in_order,
    read_labels,
    read_pool,
    read_reflections,
    reads_facts,
    reads_reflections,
)
from reflect_rl.errors import PromptError
from reflect_rl.intervals import wilson
from reflect_rl.lm.encoded import Encoded, compact
from reflect_rl.lm.models import pad_id, parameter_count
from reflect_rl.lm.pretrained import save_model
from reflect_rl.lm.text import encode_prompt
from reflect_rl.players.context import Context, with_torch
from reflect_rl.players.labels import MOST_LABELS, find_labels
from reflect_rl.players.load import (
    chat_frames,
    forward_passes,
    load_reflector,
    local_reflector,
    policy_prompts,
)
from reflect_rl.players.policy import Policy
from reflect_rl.players.reflector import LocalReflector, Reflector, reflect_together
from reflect_rl.progress import Progress
from reflect_rl.ranks import Ranks
from reflect_rl.records import Reflection, State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream
from reflect_rl.settings import Settings
from reflect_rl.training.fit import fit, last_tenth
from reflect_rl.training.renaming import Copy, Example, rows_of_copies
from reflect_rl.training.sft_losses import ChoiceRow, TextRow, choice_loss, text_loss, weights_of
from reflect_rl.training.warm_start import start_model


@with_torch
def sft_reflector(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Train the reflector on reflections.jsonl; write reflector/, and reflector.json with its agreement.

    sft-reflector.jsonl has the loss of each step.
    """
    settings = context.settings
    if settings.reflector.kind != "local":
        return _untrained(run, context, progress)
    pool, places, labels = _taught(run, settings)
    train, held = split_held_out(labels, settings.annotate.holdout)
    texts = [label.text for label in labels]
    model, tokenizer = start_model(settings.reflector.model, context, pool, texts, "reflector")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    reflector = local_reflector(run, context, model, tokenizer, progress)  # freezes the model
    # A repeated label costs budget but teaches nothing new: distinct pairs are the examples.
    pairs = list(dict.fromkeys((label.state, label.text) for label in train))
    part = settings.reflector_sft
    states = [_shown(places[state].state, settings) for state, _ in pairs]
    states = hide_reflections(states, part.hide_reflections, stream(settings.seed, "hidden reflections"))

    def row(example: Example | Copy) -> TextRow:
        return _reflection_row(reflector, example.state, example.text or "")

    _warn_of_long_texts(reflector, [text for _, text in pairs], progress)
    examples = [Example(state, text, chooses=False) for state, (_, text) in zip(states, pairs, strict=True)]
    rows = [*map(row, examples), *rows_of_copies(examples, part.renamed, settings.seed, "reflector", row, progress)]
    for weight in trained:
        weight.requires_grad_(True)
    backbone, ranks = reflector.backbone, context.ranks
    loss = text_loss(backbone, rows, pad_id(tokenizer))
    losses = fit(loss, len(rows), model, part, run, settings.seed, "reflector", progress, ranks, backbone.halve)
    # The memo is keyed by the weights, which training has changed.
    reflector = local_reflector(run, context, model, tokenizer, progress)
    report = agreement(reflector, [(places[label.state], label.text) for label in held], ranks, progress)
    if not ranks.first:
        return {}
    with run.replacing("reflector") as folder:
        save_model(model, tokenizer, folder)
    _write_losses(run, "reflector", losses)
    figures = {
        "kind": "local",
        "labels": len(train),
        "parameters": parameter_count(model),
        "loss": last_tenth(losses),
        **report,
        "forward": backbone.passes.mode,
    }
    run.write_json("reflector.json", figures)
    _announce(figures, settings, progress)
    return {key: value for key, value in figures.items() if key != "examples"}


def _warn_of_long_texts(reflector: LocalReflector, texts: Sequence[str], progress: Progress) -> None:
    """Warn if the reflector learns texts that it may not write to their end."""
    most = reflector.settings.max_new_tokens
    lengths = [len(reflector.written_as(text)) for text in texts]
    if cut := sum(length > most for length in lengths):
        progress.warn(
            f"{cut} of {len(texts)} reflections to learn from are longer than reflector.max_new_tokens, {most}, and "
            f"will be cut: the longest has {max(lengths)} tokens. Raise it."
        )


def _untrained(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Note the kind of a reflector that is not trained here; of a served one, also its agreement with the teacher."""
    settings = context.settings
    figures: dict[str, Any] = {"kind": settings.reflector.kind}
    if settings.reflector.kind == "served":
        _, places, labels = _taught(run, settings)
        _, held = split_held_out(labels, settings.annotate.holdout)
        reflector = load_reflector(run, context, progress)
        figures |= agreement(reflector, [(places[label.state], label.text) for label in held], context.ranks, progress)
        _announce(figures, settings, progress)
    if context.ranks.first:
        run.write_json("reflector.json", figures)
    return {key: value for key, value in figures.items() if key != "examples"}


def _taught(run: RunFolder, settings: Settings) -> tuple[list[PoolState], dict[str, PoolState], list[Reflection]]:
    """The pool with its past texts, the states by id, and the teacher's labels."""
    collected = read_pool(run, settings, reads_facts(settings))
    labels = read_reflections(run, collected)
    pool = with_notes(collected, labels, settings.prompt.reflections)
    places: dict[str, PoolState] = {}
    for entry in in_order(pool, settings):
        places.setdefault(entry.id, entry)  # the bought one, whose earlier texts were bought too
    return pool, places, labels


def split_held_out(labels: Sequence[Reflection], share: float) -> tuple[list[Reflection], list[Reflection]]:
    """(train, held out): the last-bought share of the labelled states is held out, with all repeats."""
    states = list(dict.fromkeys(label.state for label in labels))
    aside = set(states[len(states) - int(share * len(states)) :])
    held = {label.state: label for label in labels if label.state in aside}
    return [label for label in labels if label.state not in aside], list(held.values())


def agreement(
    reflector: Reflector, held: Sequence[tuple[PoolState, str]], ranks: Ranks, progress: Progress
) -> dict[str, Any]:
    """Share of reflections that match the teacher's word for word, with Wilson's interval and examples."""
    with progress.bar("agreement", len(held), "texts") as bar:
        said = reflect_together(reflector, [entry.state for entry, _ in held], ranks, bar.update)
    pairs = [(entry, teacher, text) for (entry, teacher), text in zip(held, said, strict=True)]
    same = sum(teacher == text for _, teacher, text in pairs)
    shown = sorted(pairs, key=lambda pair: pair[1] == pair[2])[:12]
    return {
        "held_out": len(pairs),
        "agreement": same / len(pairs) if pairs else None,
        "agreement_interval": wilson(same, len(pairs)),
        "examples": [
            {"prompt": entry.state.observation, "teacher": teacher, "text": text, "same": teacher == text}
            for entry, teacher, text in shown
        ],
    }


def _announce(figures: dict[str, Any], settings: Settings, progress: Progress) -> None:
    if figures["agreement"] is None:
        progress.warn("No reflection was held out (annotate.holdout), so the reflector's quality is not measured.")
        return
    text = f"Reflector agrees with the teacher on {figures['agreement']:.0%} of {figures['held_out']} held-out states"
    if figures["agreement"] < settings.reflector.warn_below:
        own = "" if settings.policy_sft.text == "own" else "try policy_sft.text: own, "
        progress.warn(f"{text}: a weak reflector can do harm. Buy more reflections, {own}or compare with --guard.")
    else:
        progress.say(f"{text}.")


@with_torch
def sft_policy(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Train the policy on action_labels.jsonl with the reflections chosen by policy_sft.text; write policy-sft/.

    sft-policy.jsonl has the loss of each step.
    """
    settings = context.settings
    collected = read_pool(run, settings, reads_facts(settings))
    labels = read_labels(run, collected)
    reflections = read_reflections(run, collected)
    pool = with_notes(collected, reflections, settings.prompt.reflections if reads_reflections(settings) else 0)
    texts = [reflection.text for reflection in reflections]
    states = _labelled(run, context, collected, labels, reflections, progress)
    said = _reflections_to_read(run, context, states, reflections, progress)
    read = [text for text in said if text]
    model, tokenizer = start_model(settings.policy.model, context, pool, texts, "policy", read)
    chat = chat_frames(settings, settings.policy.model, tokenizer, progress) is not None
    names = find_labels(tokenizer, MOST_LABELS, chat) if settings.policy.head == "labels" else None
    value_head = settings.rl.learns_value
    trust = _trust(run) if settings.policy.gated_mixture and settings.reflector.kind != "none" else None
    passes = forward_passes(settings.compute, settings.policy.model, model, progress)
    policy = Policy(model, tokenizer, names, value_head, passes, trust).to(settings.compute.device)
    prompts = policy_prompts(policy, context)
    part, ranks, halve = settings.policy_sft, context.ranks, policy.backbone.halve
    pairs = [
        (prompts.policy_prompt(entry.state, text), label.wanted)
        for entry, text, label in zip(states, said, labels, strict=True)
    ]
    examples = {
        pair: Example(_shown(entry.state, settings), text, chooses=True)
        for pair, entry, text in zip(pairs, states, said, strict=True)
    }
    rows = [
        ChoiceRow(policy.encode(prompt), wanted, weight)
        for (prompt, wanted), weight in zip(examples, weights_of(pairs), strict=True)
    ]

    def row(copy: Copy) -> ChoiceRow:
        return rows[copy.example]._replace(prompt=policy.encode(prompts.policy_prompt(copy.state, copy.text)))

    rows += rows_of_copies([*examples.values()], part.renamed, settings.seed, "policy", row, progress)
    if policy.pointer is not None and settings.policy.model.source != "scratch":
        policy.scale_pointer([row.prompt for row in rows[: part.batch]])
    loss = choice_loss(policy, rows, part.label_smoothing)
    losses = fit(loss, len(rows), policy, part, run, settings.seed, "policy", progress, ranks, halve)
    if not ranks.first:
        return {}
    with run.replacing("policy-sft") as folder:
        policy.save(folder)
    _write_losses(run, "policy", losses)
    return {
        "labels": len(labels),
        "parameters": parameter_count(model),
        "loss": last_tenth(losses),
        "forward": policy.backbone.passes.mode,
    }


def _write_losses(run: RunFolder, who: str, losses: Sequence[float]) -> None:
    run.write_jsonl(f"sft-{who}.jsonl", [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)])


def _labelled(
    run: RunFolder,
    context: Context,
    pool: Sequence[PoolState],
    labels: Sequence[Label],
    bought: Sequence[Reflection],
    progress: Progress,
) -> list[PoolState]:
    """The state of each action label. Past reflections that were not bought are written by the reflector."""
    settings = context.settings
    last: dict[int, int] = {}
    for label in labels:
        last[label.episode] = max(label.step, last.get(label.episode, 0))
    played = [entry for entry in pool if entry.step <= last.get(entry.episode, -1)]

    most = settings.prompt.reflections if reads_reflections(settings) else 0
    unbought = 0

    def count(states: Sequence[State]) -> list[None]:
        nonlocal unbought
        unbought += len(states)
        return [None] * len(states)

    noted = with_notes(played, bought, most, count)
    if unbought:
        if settings.reflector.kind != "scripted":  # which writes what the teacher would
            progress.warn(f"{unbought} past states have no teacher's text: the reflector's own is shown.")
        reflector = load_reflector(run, context, progress)
        with progress.bar("past reflections", unbought, "texts") as bar:
            write = partial(reflect_together, reflector, ranks=context.ranks, tick=bar.update)
            noted = with_notes(played, bought, most, write)
    at = {(entry.episode, entry.step): entry for entry in noted}
    return [at[label.episode, label.step] for label in labels]


def _trust(run: RunFolder) -> float:
    """Initial gate of a gated mixture: the reflector's agreement on held-out states, clipped to [0.05, 0.95]."""
    agreed = run.read_json("reflector.json", agreement_of)
    return 0.5 if agreed is None else min(max(agreed, 0.05), 0.95)


def _reflections_to_read(
    run: RunFolder, context: Context, states: Sequence[PoolState], bought: Sequence[Reflection], progress: Progress
) -> list[str | None]:
    """The reflection for each labelled state: the teacher's if requested and bought, else the reflector's."""
    settings = context.settings
    if settings.reflector.kind == "none":
        return [None] * len(states)
    # A scripted reflector writes what the teacher would, from the state's own facts: states that read alike may differ.
    teacher = {} if settings.reflector.kind == "scripted" else {each.state: each.text for each in bought}
    mode = settings.policy_sft.text
    coins = stream(settings.seed, "policy sft text").random(len(states)) < 0.5
    wants_own = [mode == "own" or (mode == "mix" and coin) for coin in coins]
    missing = sum(entry.id not in teacher and not wants for entry, wants in zip(states, wants_own, strict=True))
    if missing and settings.reflector.kind != "scripted":  # which writes what the teacher would
        progress.warn(
            f"{missing} of {len(states)} labelled states have no teacher's text: the reflector's own is read."
        )
    asked = [i for i, entry in enumerate(states) if wants_own[i] or entry.id not in teacher]
    own = _reflected(run, context, [states[i].state for i in asked], progress) if asked else []
    said: dict[int, str | None] = dict(zip(asked, own, strict=True))
    return [said[i] if i in said else teacher[entry.id] for i, entry in enumerate(states)]


def _reflected(run: RunFolder, context: Context, states: Sequence[State], progress: Progress) -> list[str | None]:
    reflector = load_reflector(run, context, progress)
    with progress.bar("reflections", len(states), "texts") as bar:
        return reflect_together(reflector, states, context.ranks, bar.update)


def _shown(state: State, settings: Settings) -> State:
    """The state without the past that no prompt shows."""
    most = max(settings.prompt.history, settings.prompt.reflections)
    return replace(state, history=state.history[-most:] if most else ())


def _reflection_row(reflector: LocalReflector, state: State, text: str) -> TextRow:
    """A reflector prompt followed by the text: the positions to read, and the target token at each."""
    tokenizer = reflector.tokenizer
    prompt = reflector.prompts.reflector_prompt(state)
    controls = [span for span in prompt.controls if span[1] <= prompt.static]
    static = encode_prompt(tokenizer, prompt.text[: prompt.static], controls)
    ids = encode_prompt(tokenizer, prompt.text, prompt.controls)
    said = reflector.written_as(text)
    if len(ids) + len(said) - 1 > reflector.backbone.context:
        raise PromptError(
            f"A prompt of {len(ids)} tokens and its reflection of {len(said)} are more than the "
            f"{reflector.backbone.context} that the reflector reads. Lower prompt.max_tokens, or choose a teacher that "
            f"says less."
        )
    shared = len(static) if ids[: len(static)] == static else 0
    rest = ids[shared:]
    read = range(len(rest) - 1, len(rest) - 1 + len(said))
    return Encoded(compact(ids[:shared]), compact(rest + said[:-1]), compact(read), 0), compact(said)
