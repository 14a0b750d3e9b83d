"""What training is given: room for every prompt, and of the teacher's texts those that were bought."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest

import tiny_models
from conftest import Heard
from corridor import Corridor
from reflect_rl.data.annotate import annotate
from reflect_rl.data.collect import collect
from reflect_rl.data.past_reflections import hide_reflections, with_notes
from reflect_rl.data.pool import PoolState, read_pool
from reflect_rl.errors import PromptError
from reflect_rl.lm.text import decode, encode
from reflect_rl.players.context import Context
from reflect_rl.players.load import local_reflector, policy_prompts, reflector_prompts
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.progress import Progress
from reflect_rl.records import Reflection, State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training import sft, warm_start
from reflect_rl.training.warm_start import start_model

Tiny = Callable[..., Settings]
HEADS = pytest.mark.parametrize("head", ["labels", "pointer"])


def started(run: RunFolder, settings: Settings, who: str) -> tuple[Any, Any, list[PoolState]]:
    pool = read_pool(run, settings)
    texts = [label.text for label in run.read_jsonl("reflections.jsonl", Reflection.from_json)]
    part = settings.policy.model if who == "policy" else settings.reflector.model
    return *start_model(part, Context(settings), pool, texts, who), pool


def policy_of(model: Any, tokenizer: Any, head: str) -> Policy:
    return Policy(model, tokenizer, sft.find_labels(tokenizer, 6) if head == "labels" else None)


@HEADS
@pytest.mark.parametrize("longest", [4, 100, 300])
def test_a_fresh_reflector_has_room_for_every_prompt_and_what_it_writes(
    pooled: RunFolder, tiny: Tiny, head: str, longest: int
) -> None:
    settings = tiny({"policy.head": head, "reflector.max_new_tokens": longest, "prompt.history": 3})
    model, tokenizer, pool = started(pooled, settings, "reflector")
    reflector = local_reflector(pooled, Context(settings), model, tokenizer)
    roomy = PromptBuilder(Corridor.task_text, settings.prompt, reflector.prompts.labels)
    for entry in pool:
        prompt = reflector.prompts.reflector_prompt(entry.state)
        assert prompt.text == roomy.reflector_prompt(entry.state).text
        assert len(encode(tokenizer, prompt.text)) + longest <= reflector.backbone.context
        sft._reflection_row(reflector, entry.state, "Item 3 away. Go right.")


@HEADS
@pytest.mark.parametrize("longest", [4, 60])
def test_a_fresh_policy_has_room_for_all_that_a_weak_reflector_can_write(
    pooled: RunFolder, tiny: Tiny, head: str, longest: int
) -> None:
    settings = tiny({"policy.head": head, "reflector.max_new_tokens": longest, "prompt.max_tokens": 2000})
    model, tokenizer, pool = started(pooled, settings, "policy")
    policy = policy_of(model, tokenizer, head)
    prompts = policy_prompts(policy, Context(settings))
    roomy = PromptBuilder(Corridor.task_text, settings.prompt, prompts.labels)
    draw = np.random.default_rng(0)
    stray = next(token for token in range(len(tokenizer)) if decode(tokenizer, [token]) == "\ufffd")
    junk = [[stray] * longest, *(draw.integers(len(tokenizer), size=longest).tolist() for _ in range(20))]
    for ids in junk:
        text = decode(tokenizer, ids).strip()
        for entry in pool[:20]:
            prompt = prompts.policy_prompt(entry.state, text)
            assert prompt.text == roomy.policy_prompt(entry.state, text).text
            policy.encode(prompt)


@HEADS
def test_what_is_longer_than_all_of_the_pool_loses_its_history_and_then_names_the_setting(
    pooled: RunFolder, tiny: Tiny, head: str
) -> None:
    part = {"policy.head": head, "prompt.max_tokens": 4000, "prompt.history": 30, "prompt.history_shows": "steps"}
    settings = tiny(part)
    walked = State("P....i", ("left", "take"), (("..Pi..", "left"),) * 30)
    endless = State("P....i" * 200, ("left", "take"))

    def builders(settings: Settings) -> list[Callable[[State], Any]]:
        model, tokenizer, _ = started(pooled, settings, "policy")
        told = policy_prompts(policy_of(model, tokenizer, head), Context(settings))
        model, tokenizer, _ = started(pooled, settings, "reflector")
        writes = reflector_prompts(Context(settings), model, tokenizer)
        return [writes.reflector_prompt, lambda state: told.policy_prompt(state, "Go left.")]

    roomy = tiny({**part, "policy.model.context": 2500, "reflector.model.context": 2500})
    for who, narrow, wide in zip(("reflector", "policy"), builders(settings), builders(roomy), strict=True):
        assert 0 < narrow(walked).text.count("Done: left") < 30
        with pytest.raises(PromptError, match=rf"without any history.*Raise {who}\.model\.context, or have"):
            narrow(endless)
        assert wide(walked).text.count("Done: left") == 30
        assert endless.observation in wide(endless).text
    pretrained = settings.model_copy(update={"policy": tiny({**part, "policy.model.source": "x"}).policy})
    told = policy_prompts(policy_of(tiny_models.gpt2(), tiny_models.tokenizer(), head), Context(pretrained))
    with pytest.raises(PromptError, match=r"Use a model that reads more"):
        told.policy_prompt(endless, None)


def test_a_teachers_text_with_the_name_of_the_end_token_is_learned_and_written_whole(
    pooled: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    reflector = local_reflector(pooled, Context(tiny()), tiny_models.gpt2(), tiny_models.tokenizer())
    place, end = read_pool(pooled, tiny())[0], tiny_models.tokenizer().eos_token_id
    text = "Say <eos>, then <pad>, go <eos>"
    row, said = sft._reflection_row(reflector, place.state, text)
    assert said.index(end) == len(said) - 1
    assert end not in row.prefix + row.rest
    monkeypatch.setattr(reflector, "_decode", lambda ids, seeds: [said[:-1]])
    assert reflector.reflect([place.state]) == [text]


class Writer:
    """Stands for a reflector: writes what no teacher says."""

    def __init__(self) -> None:
        self.asked: list[State] = []

    def reflect(self, states: Sequence[State], sample: int = 0) -> list[str]:
        self.asked += states
        return [f"own {state.observation}" for state in states]


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("bought", [6, 40])
def test_no_text_that_was_not_bought_reaches_training(
    tmp_path: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, heard: Heard, most: int, distinct: bool, bought: int
) -> None:
    settings = tiny(
        {
            "env.name": "corridor:Telling",
            "collect.perturb": 0.6,
            "annotate.actions": 60,
            "annotate.reflections": bought,
            "annotate.distinct": distinct,
            "annotate.holdout": 0.0,
            "prompt.reflections": most,
            "reflector_sft.steps": 1,
            "policy_sft.steps": 1,
        }
    )
    run, writer, seen = RunFolder(tmp_path), Writer(), {"reflector": [], "policy": []}
    for stage in (collect, annotate):
        stage(run, Context(settings), Progress())
    row, encode_, train = sft._reflection_row, Policy.encode, warm_start.train_tokenizer
    who = "reflector"

    def see(texts: Sequence[str]) -> None:
        seen[who] += texts  # type: ignore[operator]

    monkeypatch.setattr(
        sft,
        "_reflection_row",
        lambda r, state, text: see([r.prompts.reflector_prompt(state).text, text]) or row(r, state, text),
    )
    monkeypatch.setattr(Policy, "encode", lambda self, prompt: see([prompt.text]) or encode_(self, prompt))
    monkeypatch.setattr(warm_start, "train_tokenizer", lambda texts: see(texts) or train(texts))
    sft.sft_reflector(run, Context(settings), heard)
    who = "policy"
    monkeypatch.setattr(sft, "load_reflector", lambda *args: writer)
    sft.sft_policy(run, Context(settings), heard)
    paid = {label.text for label in run.read_jsonl("reflections.jsonl", Reflection.from_json)}
    shown = {name: set(re.findall(r"At \d-\d: go \w+\.", "\n".join(texts))) for name, texts in seen.items()}
    assert shown == {"reflector": paid, "policy": paid}
    assert all("own" not in text for text in seen["reflector"])
    notes = [text for text in seen["policy"] if re.search(r"^- own ", text, re.MULTILINE)]
    assert notes
    assert re.search(r"^- At \d", "\n".join(seen["policy"]), re.MULTILINE)
    assert any("past states have no teacher's text" in text for text in heard.warned)
    assert {note for state in writer.asked for note in state.reflections} <= paid | {
        f"own {entry.state.observation}" for entry in read_pool(run, settings)
    }


def test_where_all_was_bought_the_pool_stays_as_it_is(pooled: RunFolder, tiny: Tiny) -> None:
    settings = tiny({"prompt.reflections": 3, "annotate.reflections": 10_000})
    annotate(pooled, Context(settings), Progress())
    pool = read_pool(pooled, settings)
    bought = pooled.read_jsonl("reflections.jsonl", Reflection.from_json)
    assert with_notes(pool, bought, 3) == pool
    bare = [replace(entry, state=replace(entry.state, reflections=())) for entry in pool]
    assert with_notes(pool, [], 3) == bare
    assert max(chain(len(entry.state.reflections) for entry in pool)) == 3


def test_states_without_any_text_before_them_get_the_reflectors_own(pooled: RunFolder, tiny: Tiny) -> None:
    """A served teacher gives no text on states that were not bought, or for which it failed."""
    pool = read_pool(pooled, tiny({"prompt.reflections": 0}))
    noted = with_notes(pool, [], 2, lambda states: [f"own {state.observation}" for state in states])
    before = {(entry.episode, entry.step): entry.state.observation for entry in pool}
    for entry in noted:
        steps = range(max(0, entry.step - 2), entry.step)
        assert entry.state.reflections == tuple(f"own {before[entry.episode, step]}" for step in steps)
    assert with_notes(pool, [Reflection(entry.id, "bought", "t") for entry in pool], 2)[-1].state.reflections[-1] == (
        "bought"
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_past_reflections_are_hidden_in_the_given_share_of_examples(share: float) -> None:
    states = [State(f"at {i}", ("go",), (("at -1", "go"),), {"i": i}, ("a note", f"note {i}")) for i in range(2000)]
    shown = hide_reflections(states, share, np.random.default_rng(0))
    hidden = [state.reflections == () for state in shown]
    assert np.mean(hidden) == pytest.approx(share, abs=0.03)
    for state, other, hides in zip(states, shown, hidden, strict=True):
        assert other == (replace(state, reflections=()) if hides else state)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_reflector_is_trained_without_the_past_reflections_that_are_hidden(
    share: float, pooled: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny({"prompt.reflections": 2, "reflector_sft.steps": 1, "reflector_sft.hide_reflections": share})
    annotate(pooled, Context(settings), Progress())
    row, seen = sft._reflection_row, list[State]()
    monkeypatch.setattr(sft, "_reflection_row", lambda r, state, text: seen.append(state) or row(r, state, text))
    sft.sft_reflector(pooled, Context(settings), Progress())
    assert any(state.history for state in seen)
    assert any(state.reflections for state in seen) == (share == 0)
