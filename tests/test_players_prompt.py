"""Prompts and labels: what is dropped, what never is, and which answers any tokenizer can give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reflect_rl.errors import ModelError, PromptError
from reflect_rl.lm.scratch import train_tokenizer
from reflect_rl.players.labels import find_labels
from reflect_rl.players.prompt import CUE_ACTION, Prompt, PromptBuilder, state_id
from reflect_rl.records import State
from reflect_rl.settings import PromptSettings

WORDS = "Walk to the item and take it. Choices left right Reflection Action Last none".split()
LABELS = [" A", " B", " C", " D"]
TEXTS = [" ".join(WORDS), "\n A) left\n B) right\n C) take", *LABELS]
SCRATCH = train_tokenizer(TEXTS)


def characters(prompt: Prompt) -> int:
    return len(prompt.text)


def builder(labels: list[str] | None = LABELS, count: Any = characters, **settings: Any) -> PromptBuilder:
    return PromptBuilder("TASK", PromptSettings(**{"history": 3, "max_tokens": 200, **settings}), labels, count)


def state(past: int = 0, size: int = 5, actions: tuple[str, ...] = ("left", "right")) -> State:
    history = tuple((f"seen{n}", f"did{n}") for n in range(past))
    return State("o" * size, actions, history)


@pytest.mark.parametrize("labels", [LABELS, None])
def test_an_action_stays_on_its_line(labels: list[str] | None) -> None:
    """What follows a line break in an action would read as an action of its own."""
    written = builder(labels)
    two, three = (written.policy_prompt(state(actions=a), None) for a in (("go\nleft", "stop"), ("go", "left", "stop")))
    assert two.text != three.text
    assert "go left" in two.text
    assert [prompt.actions for prompt in (two, three)] == [2, 3]


@pytest.mark.parametrize("shows", ["actions", "steps"])
@given(past=st.integers(0, 6), budget=st.integers(60, 200), size=st.integers(1, 60))
def test_only_the_oldest_history_is_dropped_and_no_more_than_needed(
    shows: str, past: int, budget: int, size: int
) -> None:
    written = builder(history_shows=shows, max_tokens=budget)
    here = state(past, size)

    def kept(text: str) -> list[int]:
        return [n for n in range(past) if f"did{n}" in text]

    try:
        text = written.policy_prompt(here, "WHY").text
    except PromptError:
        bare = PromptBuilder("TASK", PromptSettings(history=3, history_shows=shows), LABELS)  # type: ignore[arg-type]
        assert len(bare.policy_prompt(State(here.observation, here.actions), "WHY").text) > budget
        return
    assert len(text) <= budget
    for never in ("TASK", " A) left", " B) right", here.observation, "WHY"):
        assert never in text
    shown = kept(text)
    assert shown == list(range(past))[past - len(shown) :]
    if len(shown) < min(past, 3):  # one more step would not have fitted
        wider = builder(history=len(shown) + 1, history_shows=shows, max_tokens=10_000)
        assert len(wider.policy_prompt(here, "WHY").text) > budget


def test_history_is_dropped_until_the_model_can_read_the_prompt() -> None:
    settings = PromptSettings(history=3, history_shows="steps", max_tokens=1000)
    roomy, short = (PromptBuilder("TASK", settings, LABELS, characters, context=context) for context in (2000, 110))
    here = state(past=3)
    assert len(roomy.policy_prompt(here, "WHY").text) > 110 >= len(short.policy_prompt(here, "WHY").text)
    with pytest.raises(PromptError, match=r"budget of 110.*a model that reads more"):
        short.policy_prompt(state(size=300), "WHY")


@pytest.mark.parametrize("labels", [LABELS, None])
def test_a_prompt_that_cannot_fit_is_refused(labels: list[str] | None) -> None:
    with pytest.raises(PromptError, match=r"budget of 200.*prompt\.max_tokens"):
        builder(labels).policy_prompt(state(size=300), None)
    with pytest.raises(PromptError, match="budget of 200"):
        builder(labels).reflector_prompt(state(size=300))


def test_more_actions_than_labels_is_refused_unless_the_head_needs_none() -> None:
    many = state(actions=tuple(f"go {n}" for n in range(5)))
    with pytest.raises(PromptError, match=r"5 actions.*4 single-token labels.*pointer"):
        builder().policy_prompt(many, None)
    assert builder(None).policy_prompt(many, None).actions == 5


def test_no_reflection_and_an_empty_reflection_differ() -> None:
    assert "Reflection" not in builder().policy_prompt(state(), None).text
    assert "Reflection:\nAction" in builder().policy_prompt(state(), "").text
    assert "Reflection: WHY\nAction" in builder().policy_prompt(state(), "WHY").text


def test_the_policy_prompt_continues_the_reflector_prompt() -> None:
    here = state(2)
    asked = builder().reflector_prompt(here).text
    assert builder().policy_prompt(here, "WHY").text == f"{asked} WHY{CUE_ACTION}"


@given(past=st.integers(0, 4), size=st.integers(1, 9))
def test_static_text_is_what_states_with_the_same_actions_share(past: int, size: int) -> None:
    one, other = builder().policy_prompt(state(past, size), "WHY"), builder().policy_prompt(state(), None)
    assert one.text[: one.static] == other.text[: other.static]
    assert one.text[: one.static].endswith(" B) right")


def test_pointer_lines_end_where_the_actions_end() -> None:
    prompt = builder(None).policy_prompt(state(actions=("left", "go right", "x")), "WHY")
    assert [prompt.text[:end].rsplit("\n", 1)[1] for end in prompt.line_ends] == ["left", "go right", "x"]
    assert prompt.text.index("WHY") < prompt.line_ends[0]


def test_equal_states_have_the_same_id_and_others_do_not() -> None:
    def made(here: State) -> str:
        return state_id(builder().reflector_prompt(here))

    assert made(state(2)) == made(State("ooooo", ("left", "right"), state(2).history, {"fact": 1}))
    others = [state(1), state(2, size=6), state(2, actions=("left", "up")), state(2)]
    assert len({made(here) for here in others}) == len(others)


@given(st.text())
def test_any_text_survives_the_scratch_tokenizer(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()  # lone surrogates are no text
    assert SCRATCH.decode(SCRATCH.encode(text)) == text


def test_the_scratch_tokenizer_keeps_columns_and_digits_apart() -> None:
    cells = SCRATCH.encode("|P: |.....i|123")
    assert len(cells) == len("|P: |.....i|123")


def bytes_of_words() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def words_only() -> PreTrainedTokenizerFast:
    vocabulary = {word: n for n, word in enumerate(["<unk>", "<eos>", *dict.fromkeys(WORDS)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<eos>")


@pytest.mark.parametrize("tokenizer", [SCRATCH, bytes_of_words()], ids=["scratch", "byte-level"])
def test_every_label_is_one_token_in_its_line_and_as_the_answer(tokenizer: Any) -> None:
    labels = find_labels(tokenizer)
    assert set(LABELS) <= set(labels)
    assert len(set(labels.values())) == len(labels)
    cue = tokenizer.encode(CUE_ACTION)
    for label, token in labels.items():
        assert tokenizer.encode(CUE_ACTION + label) == [*cue, token]
        assert token in tokenizer.encode(f"task\nChoices:\n{label}) x\n")


def test_no_more_labels_than_asked_for() -> None:
    assert list(find_labels(SCRATCH, most=2)) == [" A", " B"]


def test_a_tokenizer_without_labels_is_refused_with_a_way_out() -> None:
    with pytest.raises(ModelError, match=r"no single-token labels.*policy\.head: pointer"):
        find_labels(words_only())


def test_past_reflections_are_shown_the_oldest_dropped_first() -> None:
    told = replace(state(2), reflections=("ONE", "TWO", "THREE"))
    assert "ONE" not in builder().policy_prompt(told, "NOW").text
    for made in (builder(reflections=2).policy_prompt(told, "NOW"), builder(reflections=2).reflector_prompt(told)):
        assert "\n- TWO\n- THREE" in made.text
        assert "ONE" not in made.text
    whole = builder(reflections=3).policy_prompt(told, "NOW").text
    short = builder(reflections=3, max_tokens=len(whole) - 1).policy_prompt(told, "NOW").text
    assert "ONE" in whole
    assert "ONE" not in short
    assert "THREE" in short


def test_notes_stand_behind_their_actions_and_a_world_without_them_is_refused() -> None:
    noted = replace(state(actions=("left", "go right")), facts={"notes": ["", "unseen"]})
    prompt = builder(None, notes=True).policy_prompt(noted, None)
    assert [prompt.text[:end].rsplit("\n", 1)[1] for end in prompt.line_ends] == ["left", "go right: unseen"]
    with pytest.raises(PromptError, match="notes"):
        builder(None, notes=True).policy_prompt(state(), None)


@pytest.mark.parametrize("asked", [False, True])
def test_the_reflector_reads_the_choices_of_the_pointer_head_if_asked_to(asked: bool) -> None:
    noted = replace(state(actions=("left", "go right")), facts={"notes": ["", "unseen"]})
    written = builder(None, notes=True, reflector_choices=asked)
    text = written.reflector_prompt(noted).text
    assert text.endswith("\nooooo\nChoices:\nleft\ngo right: unseen\nReflection:" if asked else "\nooooo\nReflection:")
    assert written.policy_prompt(noted, "WHY").text == builder(None, notes=True).policy_prompt(noted, "WHY").text


def test_the_reflector_always_reads_the_choices_of_the_label_head_once() -> None:
    without, asked = (builder(reflector_choices=asked).reflector_prompt(state(2)).text for asked in (False, True))
    assert without == asked
    assert asked.count("left") == 1
