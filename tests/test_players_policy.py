"""The policy: one function, the same numbers whatever the company, equal to the full softmax cut down to the labels."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_models
from reflect_rl.errors import ModelError, PromptError
from reflect_rl.lm.backbone import Passes, TokenBatch
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt

HEADS = pytest.mark.parametrize("head", ["labels", "pointer", "hedged"])


@cache
def acting(head: str, tokens: int = 1024) -> Policy:
    return tiny_models.policy(head, value=True, passes=Passes(tokens=tokens))


@cache
def alone(head: str, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every prompt evaluated by itself."""
    made = acting(head, tokens)
    return [made.evaluate([prompt]) for prompt in tiny_models.prompts(made)]


@HEADS
@pytest.mark.parametrize("tokens", [1, 200, 1024])
@hypothesis_settings(max_examples=8)
@given(data=st.data())
def test_a_prompt_has_the_same_bits_in_any_company_and_order(head: str, tokens: int, data: st.DataObject) -> None:
    made = acting(head, tokens)
    prompts = tiny_models.prompts(made)
    chosen = data.draw(st.lists(st.integers(0, len(prompts) - 1), min_size=1, max_size=40))
    log_probs_BN, value_B = made.evaluate([prompts[i] for i in chosen])
    assert log_probs_BN.dtype == torch.float32
    assert log_probs_BN.shape[1] == max(prompts[i].actions for i in chosen)
    for place, i in enumerate(chosen):
        single_1N, value_1 = alone(head, tokens)[i]
        actions = prompts[i].actions
        assert torch.equal(log_probs_BN[place, :actions], single_1N[0, :actions])
        assert torch.equal(value_B[place], value_1[0])
        assert bool(log_probs_BN[place, actions:].isneginf().all())


def test_the_bits_are_the_same_in_any_place_with_two_threads_too() -> None:
    made = acting("labels")
    prompts = tiny_models.prompts(made)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together_BN, value_B = made.evaluate(prompts)
        for place in range(0, len(prompts), 5):
            single_1N, value_1 = made.evaluate(prompts[place : place + 1])
            actions = prompts[place].actions
            assert torch.equal(together_BN[place, :actions], single_1N[0, :actions])
            assert torch.equal(value_B[place], value_1[0])
    finally:
        torch.set_num_threads(before)


@HEADS
def test_every_row_is_a_distribution_and_the_prompts_differ(head: str) -> None:
    log_probs_BN = acting(head).log_probs(tiny_models.prompts(acting(head)))
    torch.testing.assert_close(log_probs_BN.exp().sum(1), torch.ones(len(log_probs_BN)))
    assert len({tuple(row) for row in log_probs_BN.tolist()}) > len(log_probs_BN) // 2


@pytest.mark.parametrize("kind", ["gpt2", "lookup", "llama"])
def test_the_choice_is_the_full_softmax_restricted_to_the_labels(kind: str) -> None:
    model = tiny_models.of_kind(kind)
    made = tiny_models.policy(model=model)
    prompts = tiny_models.prompts(made)
    ids = list((made.labels or {}).values())
    log_probs_BN = made.log_probs(prompts)
    for row_N, prompt in zip(log_probs_BN, prompts, strict=True):
        tokens = torch.tensor([made.tokenizer.encode(prompt.text)])
        with torch.no_grad():
            full_V = model(tokens).logits[0, -1].double().softmax(-1)
        labels_N = full_V[ids[: prompt.actions]]
        torch.testing.assert_close(
            row_N[: prompt.actions].exp().double(), labels_N / labels_N.sum(), rtol=1e-5, atol=1e-5
        )


@HEADS
def test_training_and_rollout_are_one_function(head: str) -> None:
    made = acting(head)
    prompts = tiny_models.prompts(made)
    log_probs_BN, value_B, _ = made([made.encode(p) for p in prompts], 3)
    rolled_BN, rolled_B = made.evaluate(prompts)
    finite = torch.isfinite(rolled_BN)
    assert torch.equal(torch.isfinite(log_probs_BN), finite)
    torch.testing.assert_close(log_probs_BN[finite], rolled_BN[finite], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value_B, rolled_B, rtol=1e-4, atol=1e-5)
    assert log_probs_BN.requires_grad
    assert not rolled_BN.requires_grad


@HEADS
@given(extra=st.integers(1, 40), seed=st.integers(0, 5))
def test_padding_never_changes_a_number(head: str, extra: int, seed: int) -> None:
    made = acting(head)
    rows = [made.encode(p) for p in tiny_models.prompts(made)[seed : seed + 1]]
    batch = made.through.batch(rows)
    longer = torch.nn.functional.pad(batch.ids_BL, (0, extra), value=seed + 3)
    with torch.no_grad():
        before = made.choose(made.backbone.hidden(batch), rows, 3).log_probs_BN
        padded = TokenBatch(batch.prefix_P, longer, batch.read_BR)
        after = made.choose(made.backbone.hidden(padded), rows, 3).log_probs_BN
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


@HEADS
def test_save_and_load_is_the_same_policy_to_the_bit(head: str, tmp_path: Path) -> None:
    made = acting(head)
    prompts = tiny_models.prompts(made)
    made.save(tmp_path / "policy")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy", model, tokenizer).eval()
    assert again.labels == made.labels
    for one, other in zip(made.evaluate(prompts), again.evaluate(prompts), strict=True):
        assert torch.equal(one, other)


def test_two_saves_of_one_policy_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        acting("pointer").save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"config.json", "model.safetensors", "reflect_rl.json", "heads.safetensors"} <= set(files)
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_folder_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    made = acting("labels")
    with pytest.raises(ModelError, match="not a policy saved by reflect-rl"):
        Policy.load(tmp_path, made.model, made.tokenizer)


def fitting(made: Policy, tokens: int) -> Prompt:
    """A prompt of exactly so many tokens."""
    prompt = tiny_models.prompts(made)[0]
    head, tail = prompt.text[: prompt.static], prompt.text[prompt.static :]
    missing = tokens - made.count(prompt)
    prompt = Prompt(head + "." * missing + tail, prompt.static, prompt.actions)
    assert made.count(prompt) == tokens
    return prompt


@pytest.mark.parametrize("context", [100, 109, 112])
def test_a_prompt_may_fill_the_context_but_not_overflow_it(context: int) -> None:
    made = tiny_models.policy(model=tiny_models.gpt2(context=context))
    roomy = tiny_models.policy(model=tiny_models.gpt2(context=context + 50))
    with torch.no_grad():
        for weight, same in zip(made.parameters(), roomy.parameters(), strict=True):
            same.copy_(weight) if same.shape == weight.shape else same[: len(weight)].copy_(weight)
    full = fitting(made, context)
    torch.testing.assert_close(made.log_probs([full]), roomy.log_probs([full]), rtol=1e-5, atol=1e-6)
    made([made.encode(full)], 3).log_probs_BN[0, 0].backward()
    with pytest.raises(PromptError, match=f"{context + 1} tokens.*reads {context} at the most"):
        made.log_probs([fitting(made, context + 1)])


def test_a_hedged_policy_acts_by_a_mixture_and_its_first_part_never_reads_the_reflection() -> None:
    made = acting("hedged")
    prompts = tiny_models.prompts(made)
    with torch.no_grad():
        chosen = made([made.encode(p) for p in prompts], 3)
    heads_BHN, log_probs_BN = chosen.heads_BHN.exp(), chosen.log_probs_BN.exp()
    low_BN, high_BN = heads_BHN.min(1).values, heads_BHN.max(1).values
    assert bool(((low_BN - 1e-5 <= log_probs_BN) & (log_probs_BN <= high_BN + 1e-5)).all())
    told: dict[str, torch.Tensor] = {}
    for prompt, row_HN in zip(prompts, heads_BHN, strict=True):
        assert prompt.state_end is not None
        torch.testing.assert_close(row_HN[0], told.setdefault(prompt.text[: prompt.state_end], row_HN[0]))
    assert len(told) < len(prompts)


def test_thousands_of_actions_are_no_matter_for_the_pointer_head() -> None:
    made = tiny_models.policy("pointer", model=tiny_models.gpt2(context=2000))
    text, ends = "task\nChoices:", []
    for number in range(300):
        text += f"\n- {number}"
        ends.append(len(text))
    log_probs_1N = made.log_probs([Prompt(text + "\nAction:", 4, 300, tuple(ends))])
    assert log_probs_1N.shape == (1, 300)
    assert bool(torch.isfinite(log_probs_1N).all())


def test_the_pointer_head_scores_the_line_and_not_its_place() -> None:
    """Its score of an action is read at the end of that action's line: after it, only the cue can matter."""
    made = tiny_models.policy("pointer")
    prompt = tiny_models.prompts(made)[0]
    encoded = made.encode(prompt)
    read = [made.tokenizer.decode(encoded.rest[: place + 1]) for place in encoded.read]
    actions = tiny_models.states()[0].actions
    assert [text.rpartition("\n")[2] for text in read[: prompt.actions]] == list(actions)
    assert set(read[prompt.actions : -1]) <= {read[prompt.actions - 1]}
    assert read[-1].endswith("Action:")
