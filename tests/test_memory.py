"""Memory: rows of tokens, pools and what is remembered take a few bytes each, whatever their number."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from reflect_rl.config import load_settings
from reflect_rl.data.collect import collect
from reflect_rl.data.pool import read_pool
from reflect_rl.lm import backbone
from reflect_rl.lm.backbone import Passes
from reflect_rl.lm.remembered import Remembered
from reflect_rl.lm.scratch import train_tokenizer
from reflect_rl.lm.text import encode, most_tokens
from reflect_rl.memo import Memo
from reflect_rl.memory import peak_memory_mb
from reflect_rl.players.context import Context
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.progress import Progress
from reflect_rl.records import State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ModelSettings, PromptSettings, ReflectorSettings
from reflect_rl.training.sft import _reflection_row

WORDS = [f"w{a}{b}" for a in "bcdfghjklmnp" for b in "aeiouyrst"]
"""As tokens they have ids above 256, which Python makes anew each time."""


@contextmanager
def grown() -> Iterator[list[int]]:
    """Bytes that Python objects take more after the block than before."""
    sizes: list[int] = []
    gc.collect()
    tracemalloc.start()
    try:
        yield sizes
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


def texts(number: int, words: int) -> list[str]:
    return [" ".join(WORDS[(start * place + place) % len(WORDS)] for place in range(words)) for start in range(number)]


def tokenizer() -> Any:
    return train_tokenizer([" ".join(WORDS), f" {' '.join(WORDS)}", *tiny_models.tokenizer().get_vocab()])


def model(known: Any) -> Any:
    from reflect_rl.lm.scratch import scratch_model

    part = ModelSettings(architecture="lookup", width=16, heads=2)
    return scratch_model(part, len(known), 1024, 0, known.eos_token_id)


def test_an_encoded_prompt_takes_some_ten_bytes_a_token() -> None:
    known = tokenizer()
    policy = Policy(model(known), known, labels=None)
    prompts = [Prompt(text, 0, 1, (len(text),)) for text in texts(100, 300)]
    with grown() as bytes_grown:
        rows = [policy.encode(prompt) for prompt in prompts]
    tokens = sum(len(row.rest) for row in rows)
    assert tokens >= 100 * 300
    assert bytes_grown[0] / tokens < 12


def test_a_labelled_reflection_takes_some_ten_bytes_a_token() -> None:
    known = tokenizer()
    builder = PromptBuilder("", PromptSettings(max_tokens=1024), None)
    reflector = LocalReflector(model(known), known, builder, ReflectorSettings(), Memo(None, ""))
    states = [State(text, ("go",)) for text in texts(100, 300)]
    for state in states:
        builder.reflector_prompt(state)  # the prompts themselves are not what is measured
    with grown() as bytes_grown:
        rows = [_reflection_row(reflector, state, " ".join(WORDS[:40])) for state in states]
    tokens = sum(len(row.prefix) + len(row.rest) + len(said) for row, said in rows)
    assert tokens > 100 * 380
    assert bytes_grown[0] / tokens < 12


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Generated games with the settings of ALFWorld's recipe."""
    run = RunFolder(tmp_path_factory.mktemp("episodes"))
    collect(run, Context(SETTINGS), Progress())
    return run


SETTINGS = load_settings("alfworld", {"env.options": {"data": "generated"}, "collect.episodes": 40})


def test_a_pool_without_what_only_the_teacher_reads_takes_little_more_than_its_texts(episodes: RunFolder) -> None:
    with grown() as bytes_grown:
        pool = read_pool(episodes, SETTINGS, facts=False)
    shown = sum(len(entry.state.observation) for entry in pool)
    assert bytes_grown[0] < shown + 1400 * len(pool)


def test_a_pool_is_the_same_with_facts_and_without(episodes: RunFolder) -> None:
    whole, lean = (read_pool(episodes, SETTINGS, facts) for facts in (True, False))
    assert [(entry.id, entry.experts) for entry in whole] == [(entry.id, entry.experts) for entry in lean]
    assert [entry.state.reflections for entry in whole] == [entry.state.reflections for entry in lean]
    assert all(entry.state.facts for entry in whole)
    assert not any(entry.state.facts for entry in lean)


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(1, 8))
def test_the_longest_text_is_found_in_parts(texts: list[str], together: int) -> None:
    tokenizer = train_tokenizer(WORDS, 300)
    assert most_tokens(tokenizer, texts, together) == max((len(encode(tokenizer, text)) for text in texts), default=0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 7)), max_size=60), st.integers(5, 40))
def test_what_is_remembered_stays_within_its_bound(kept: list[tuple[int, int]], most: int) -> None:
    memory, size_of = Remembered[int, str](most), dict[int, int]()
    for key, size in kept:
        size = size_of.setdefault(key, size)
        memory.keep(key, str(key), size)
        assert memory[key] == str(key)
        assert sum(size_of[each] for each in memory) <= max(most, size)


def test_prompts_that_were_forgotten_are_written_again_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflect_rl.players.prompt.MOST_CHARACTERS", 100)
    forgetful, states = PromptBuilder("Go.", PromptSettings(), None), tiny_models.states()
    first = [forgetful.policy_prompt(state, "Left.") for state in states]
    assert [forgetful.policy_prompt(state, "Left.") for state in states] == first


@pytest.mark.parametrize("kind", ["gpt2", "lookup"])
@pytest.mark.parametrize("rows", [1, 2, 37])
def test_an_update_reads_fewer_long_prompts_at_a_time(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_models.policy(model=tiny_models.of_kind(kind))
    encoded = [made.encode(prompt) for prompt in tiny_models.prompts(made)]
    longest = max(len(row.prefix) + row.length for row in encoded)
    by_default, layers, bytes_each = made.backbone.learning_tokens, 2, 4
    assert by_default == backbone.GRAPH_BYTES // (12 * layers * 16 * bytes_each)
    monkeypatch.setattr(backbone, "GRAPH_BYTES", rows * longest * backbone.GRAPH_BYTES // by_default)
    assert {len(part) for part in made.through.parts(encoded)[:-1]} <= {rows}
    assert [i for part in made.through.parts(encoded) for i in part] == list(range(len(encoded)))
    told = tiny_models.policy(passes=Passes(learning=7 * longest), model=made.model)
    assert len(told.through.parts(encoded)[0]) == 7


def test_the_peak_of_memory_is_told_in_megabytes() -> None:
    block = bytearray(b"1") * 300_000_000
    assert 300 < peak_memory_mb() < 20_000
    assert len(block) == 300_000_000
