"""Openings read once: the numbers of whole prompts, the same bits whatever has been read before, and less to read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

import tiny_models
from corridor import Corridor
from reflect_rl.config import parse_settings
from reflect_rl.lm.backbone import Passes
from reflect_rl.lm.prefix_cache import Openings
from reflect_rl.players.load import load_policy
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.records import State
from reflect_rl.settings import PromptSettings

FEW = Passes(tokens=150)
"""So few tokens a pass that openings and prompts are read two or four at a time."""
HEADS = {head: tiny_models.policy(head, value=True, passes=FEW) for head in ("labels", "hedged")}
SEEN = "Item 3 away. Go left. Item 0 away. Go take. "


def prompts(made: Policy) -> list[Prompt]:
    """Two actions or three, five beginnings, several ends."""
    builder = PromptBuilder(
        Corridor.task_text, PromptSettings(), list(made.labels or ()), made.count, hedge=made.gate is not None
    )
    return [
        builder.policy_prompt(State(place * 3 + SEEN + end, ("left", "right", "take")[:actions]), "Go right." * said)
        for place in "abcde"
        for end in ("Go left.", "Item 3 away.")
        for actions, said in ((2, 1), (3, 1), (3, 3))
    ]


def by_gradient_path(made: Policy, chosen: list[Prompt]) -> Tensor:
    """Whole prompts, nothing read before."""
    return made([made.encode(prompt) for prompt in chosen], 3).log_probs_BN.detach()


@pytest.mark.parametrize("head", HEADS)
def test_prompts_read_in_two_parts_say_what_whole_ones_say(head: str) -> None:
    made = HEADS[head]
    chosen = prompts(made)
    rows = [made.encode(prompt) for prompt in chosen]
    assert all(0 < row.cut <= row.read[0] and row.cut % row.step == 0 for row in rows)
    assert 1 < len({(row.prefix, row.opening) for row in rows}) < len(rows)
    torch.testing.assert_close(made.log_probs(chosen), by_gradient_path(made, chosen), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most_bytes", [0, 1 << 14, 1 << 28])
@pytest.mark.parametrize("head", HEADS)
@hypothesis_settings(max_examples=15)
@given(data=st.data())
def test_what_was_read_before_changes_no_bit(head: str, most_bytes: int, data: st.DataObject) -> None:
    made = HEADS[head]
    every = prompts(made)
    alone_BN = made.log_probs(every)
    openings = Openings(made.backbone, most_bytes)
    numbers = st.integers(0, len(every) - 1)
    for chosen in data.draw(st.lists(st.lists(numbers, min_size=1, max_size=20), min_size=1, max_size=4)):
        log_probs_BN, _ = made.evaluate([every[i] for i in chosen], openings)
        for row_N, i in zip(log_probs_BN, chosen, strict=True):
            actions = every[i].actions
            assert torch.equal(row_N[:actions], alone_BN[i, :actions])


def rows_read(made: Policy, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every reading of openings from now on; a prefix is one row."""
    counted, read = [], made.backbone.read

    def counting(ids_BL: Tensor, before: object = ()) -> object:
        counted.append(len(ids_BL))
        return read(ids_BL, before)  # type: ignore[arg-type]

    monkeypatch.setattr(made.backbone, "read", counting)
    return counted


def test_an_opening_is_read_once_while_the_weights_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_models.policy(passes=FEW)
    every = prompts(made)
    counted, openings = rows_read(made, monkeypatch), made.openings()
    for _ in range(3):
        made.evaluate(every, openings)
    shelves = {(row.prefix, row.cut): set() for row in map(made.encode, every)}
    for row in map(made.encode, every):
        shelves[row.prefix, row.cut].add(row.opening)
    chunks = [FEW.rows(cut) for (_, cut), shelf in shelves.items() for _ in range(0, len(shelf), FEW.rows(cut))]
    prefixes = len({prefix for prefix, _ in shelves})
    assert 1 < max(chunks) < max(map(len, shelves.values()))
    assert sorted(counted) == sorted([1] * prefixes + chunks)


def test_openings_without_room_are_read_again_and_no_more_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_models.policy(passes=FEW)
    every = prompts(made)
    openings = Openings(made.backbone, most_bytes=0)
    made.evaluate(every, openings)
    counted = rows_read(made, monkeypatch)
    made.evaluate(every, openings)
    assert counted
    assert len(openings._prefixes) == 1, "of the last bucket alone, however many prefixes there are"
    assert [len(shelf.places) <= shelf.chunk for shelf in openings._shelves.values()] == [True]


@pytest.mark.parametrize("kind", ["lookup", "llama"])
def test_other_models_read_whole_prompts(kind: str) -> None:
    made = tiny_models.policy(model=tiny_models.of_kind(kind))
    assert made.openings() is None
    assert {made.encode(prompt).cut for prompt in prompts(made)} == {0}


@pytest.mark.parametrize("most", [1 << 15, 1 << 17])
def test_many_action_lists_stay_within_the_bound_and_change_no_bit(most: int) -> None:
    """Each list of actions is a prefix of its own, as in a world whose actions are named after its objects."""
    made, free = (tiny_models.policy(passes=FEW) for _ in range(2))
    made.cache_bytes, openings = most, None
    labels = list(made.labels or {})
    needed = 0
    for number in range(60):
        builder = PromptBuilder(f"{Corridor.task_text} Room {number}.", PromptSettings(), labels, made.count)
        some = [builder.policy_prompt(state, "Go left.") for state in tiny_models.states()[number % 7 :: 7]]
        openings = openings or made.openings()
        assert openings is not None
        known = free.openings()
        assert known is not None
        assert torch.equal(made.evaluate(some, openings)[0], free.evaluate(some, known)[0])
        assert openings.bytes <= most
        needed += known.bytes
    assert needed > 3 * most


def test_the_bound_is_a_setting(tmp_path: Path) -> None:
    tiny_models.policy().save(tmp_path / "policy")
    settings = parse_settings({"compute": {"cache_mb": 3, "threads": 1}})
    openings = load_policy(tmp_path / "policy", settings).openings()
    assert openings is not None
    assert openings.most_bytes == 3 * 2**20
