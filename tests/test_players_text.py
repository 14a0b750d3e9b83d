"""Text and tokens: foreign text is text, and what is read of a line is all of it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from reflect_rl.errors import ModelError
from reflect_rl.lm.scratch import scratch_model
from reflect_rl.lm.text import decode, encode, encode_all, encode_frame, encode_prompt, encode_with_places, opening_ids
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.records import State
from reflect_rl.settings import ModelSettings, PromptSettings
from tiny_tokenizers import LOSSLESS, MADE_BY, TEXTS, opened, tokenizer_of

NAMES = ("<eos>", "<pad>", "<unk>", "<|endoftext|>", "<|im_end|>", "</s>")
ODD = "向左右旗éè\u0301\u0308😀😁👩\u200d👧🏴☠\ufe0fשלוםمرحباไทย𝔸𐍈\u202eaZ 1)\n\t"
letters = st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"]))
actions = st.lists(st.text(letters, min_size=1, max_size=6), min_size=2, max_size=4)
kinds = pytest.mark.parametrize("kind", MADE_BY)


def control(kind: str) -> set[int]:
    tokenizer = tokenizer_of(kind)
    named = {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    return named - {None} - ({tokenizer.unk_token_id} if kind != "gpt2_style" else set())


@kinds
@given(st.lists(st.one_of(st.sampled_from(NAMES), st.text(letters, max_size=4)), max_size=6).map("".join))
def test_the_names_of_control_tokens_are_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = encode(tokenizer, text)
    assert not control(kind) & set(ids)
    assert encode_with_places(tokenizer, text).ids == ids
    if kind in ("scratch", "gpt2_style"):
        assert decode(tokenizer, ids) == text
        assert decode(tokenizer, [*ids, tokenizer.eos_token_id]) == text
    if kind == "byte_fallback":
        assert decode(tokenizer, ids) == text.replace("▁", " ")


@kinds
def test_other_texts_have_the_tokens_that_they_always_had(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    texts = [*TEXTS, "Go left <now>.\n", "向"]
    assert encode_all(tokenizer, texts) == [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert encode_all(tokenizer, []) == []


@kinds
@given(st.text(letters, max_size=20))
def test_tokens_stand_in_the_order_of_the_text(kind: str, text: str) -> None:
    ids, starts, ends = encode_with_places(tokenizer_of(kind), text)
    assert len(ids) == len(starts) == len(ends)
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    assert all(0 <= start <= end <= len(text) for start, end in zip(starts, ends, strict=True))


def test_a_plain_prompt_begins_as_the_tokenizer_begins_a_text() -> None:
    tokenizer, text = opened(), "go left"
    first = tokenizer.bos_token_id
    assert encode_prompt(tokenizer, text) == tokenizer.encode(text) == [first, *encode(tokenizer, text)]
    told = encode_with_places(tokenizer, text)
    assert told.ids == encode_prompt(tokenizer, text)
    assert (told.starts[:2], told.ends[0], told.ends[-1]) == ([0, 0], 0, len(text))


def test_a_chat_begins_as_its_template_does() -> None:
    tokenizer = opened()
    for ids in (encode_prompt(tokenizer, "<s>go", [(0, 3)]), encode_with_places(tokenizer, "<s>go", [(0, 3)]).ids):
        assert ids == [*encode_frame(tokenizer, "<s>"), *encode(tokenizer, "go")]
        assert ids.count(tokenizer.bos_token_id) == 1


@kinds
def test_most_tokenizers_put_nothing_before_a_text(kind: str) -> None:
    assert opening_ids(tokenizer_of(kind)) == ()


@cache
def pointer(kind: str) -> tuple[Policy, PromptBuilder]:
    tokenizer = tokenizer_of(kind)
    model = scratch_model(ModelSettings(width=16, layers=1, heads=2), len(tokenizer), 512, 0, 0).eval()
    policy = Policy(model, tokenizer, None).eval()
    return policy, PromptBuilder("Walk to the flag.", PromptSettings(history=0), None, policy.count)


@torch.no_grad()
def read_of(kind: str, offered: list[str]) -> Tensor:
    """read_ND: the hidden states that stand for the actions."""
    policy, builder = pointer(kind)
    prompt = builder.policy_prompt(State("You are here.", tuple(offered)), "Go left.")
    return policy.backbone.hidden(policy.through.batch([policy.encode(prompt)]))[0, : len(offered)]


@pytest.mark.parametrize("kind", [kind for kind in MADE_BY if kind != "words"])  # which knows next to none
@given(actions, st.data())
def test_of_every_action_each_character_is_read_and_nothing_of_those_behind_it(
    kind: str, offered: list[str], data: st.DataObject
) -> None:
    changed = data.draw(st.integers(0, len(offered) - 1), "action")
    place = data.draw(st.integers(0, len(offered[changed]) - 1), "character")
    letter = data.draw(letters.filter(lambda each: each != offered[changed][place]), "instead")
    others = [*offered]
    others[changed] = offered[changed][:place] + letter + offered[changed][place + 1 :]
    if kind not in LOSSLESS:  # what a tokenizer makes the same cannot be told apart
        one, other = (encode(tokenizer_of(kind), f"x\n{actions[changed]}\nx") for actions in (offered, others))
        assume(one != other)
    before_ND, after_ND = read_of(kind, offered), read_of(kind, others)
    torch.testing.assert_close(before_ND[:changed], after_ND[:changed], rtol=0, atol=1e-5)
    assert (before_ND[changed] - after_ND[changed]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("one", "other"), [("向左", "向右"), ("go 😀", "go 😁"), ("café", "cafè"), ("👩\u200d👧", "👩\u200d👦"), ("𝔸", "𝔹")]
)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_the_last_character_of_the_last_action_counts(kind: str, one: str, other: str) -> None:
    read = [read_of(kind, ["stay", action])[1] for action in (one, other)]
    assert (read[0] - read[1]).abs().max() > 1e-3


@given(st.text(letters, min_size=1, max_size=8), st.text(letters, min_size=1, max_size=8))
def test_before_the_reflection_is_read_a_hedged_policy_knows_nothing_of_it(one: str, other: str) -> None:
    tokenizer = tokenizer_of("scratch")
    builder = PromptBuilder("向", PromptSettings(history=0), [" a", " b"], gated=True)
    read = []
    for reflection in (one, other):
        prompt = builder.policy_prompt(State("左", ("left", "right")), reflection)
        assert prompt.state_end is not None
        model = scratch_model(ModelSettings(width=8, layers=1, heads=2), len(tokenizer), 256, 0, 0)
        row = Policy(model, tokenizer, {" a": 5, " b": 6}, trust=0.5).encode(prompt)
        told = (row.prefix + row.rest)[: len(row.prefix) + row.read[0] + 1]
        read.append(told)
        assert decode(tokenizer, told) == prompt.text[: prompt.state_end]
        assert decode(tokenizer, row.prefix) == prompt.text[: prompt.static]
    assert read[0] == read[1]


def test_a_tokenizer_that_does_not_tell_where_its_tokens_stand_is_refused() -> None:
    class Slow:
        is_fast = False
        name_or_path = "an-old-model"

    with pytest.raises(ModelError, match=r"tokenizer of an-old-model.*Choose a model with a fast tokenizer"):
        encode_with_places(Slow(), "text")  # type: ignore[arg-type]
