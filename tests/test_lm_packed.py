"""Packed tries: hidden states, losses and gradients are those of single rows up to rounding, in every architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import tiny_models
from conftest import Heard
from reflect_rl.lm import backbone as backbone_module
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.checks import check_reading
from reflect_rl.lm.encoded import Encoded
from reflect_rl.lm.models import base_model
from reflect_rl.lm.packed import packs, read_pack, why_not
from reflect_rl.players.load import forward_passes
from reflect_rl.players.policy import Policy
from reflect_rl.settings import ComputeSettings, ModelSettings, RlSettings
from reflect_rl.training.losses import Folded
from reflect_rl.training.sft_losses import ChoiceRow, choice_loss, text_loss
from reflect_rl.training.update import Learner, _accumulate

NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}
"""Of hidden states and log-probabilities near 1, and of gradients as a share of the largest."""
SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
WINDOW = {"sliding_window": 5, "head_dim": 8}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "gemma2": {**WINDOW, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {},
}
OTHERS: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "gpt_neo": {"attention_types": [[["global", "local", "local"], 1]], "num_heads": 4, "window_size": 8},
    "mamba": {"state_size": 4},
}


@cache
def made(kind: str) -> PreTrainedModel:
    """With weights so large that every token matters."""
    config = AutoConfig.for_model(kind, **SHAPE | (KINDS | OTHERS)[kind])
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.25, generator=generator)
    return model


def adapted() -> PreTrainedModel:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(deepcopy(made("llama")), peft.LoraConfig(r=4, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2, generator=generator)
    return model


def some_rows() -> list[list[int]]:
    """That part at several depths; one is the beginning of another, one stands twice, all are longer than a window."""
    draw = np.random.default_rng(0)
    stem = draw.integers(2, 50, 14).tolist()
    fresh = [(14, 9), (14, 4), (8, 12), (0, 9), (14, 0), (10, 2)]
    rows = [stem[:kept] + draw.integers(2, 50, new).tolist() for kept, new in fresh]
    return [*rows, rows[0]]


def single(model: PreTrainedModel, row: Sequence[int]) -> Tensor:
    return base_model(model).base_model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]


def gradients(model: torch.nn.Module, loss: Tensor) -> Tensor:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten() for w, g in pairs])


def assert_near(one: Tensor, other: Tensor) -> None:
    scale = other.abs().max()
    torch.testing.assert_close(one / scale, other / scale, **NEAR)


@pytest.mark.parametrize("tokens", [1000, 30])
@pytest.mark.parametrize("kind", [*KINDS, "adapters"])
def test_values_and_gradients_are_those_of_single_rows(kind: str, tokens: int) -> None:
    model, rows = adapted() if kind == "adapters" else made(kind), some_rows()
    assert why_not(model) is None
    packed: list[Tensor] = [torch.empty(0)] * len(rows)
    for pack in packs(rows, tokens):
        x_TD = read_pack(model, pack)
        for place, path in zip(pack.rows, pack.paths, strict=True):
            packed[place] = x_TD[torch.from_numpy(path)]
    alone = [single(model, row) for row in rows]
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(one, other, **NEAR)
    towards = [torch.randn(x.shape, generator=torch.Generator().manual_seed(n)) for n, x in enumerate(alone)]
    sums = [torch.cat(xs).mul(torch.cat(towards)).sum() for xs in (packed, alone)]
    assert_near(*(gradients(model, each) for each in sums))


@pytest.mark.parametrize("kind", OTHERS)
def test_what_cannot_read_packs_falls_back_to_padded_rows_and_says_so(kind: str, heard: Heard) -> None:
    model = made(kind)
    passes = forward_passes(ComputeSettings(tokens=70), ModelSettings(source="a/model"), model, heard)
    assert passes == Passes(False, 70, 70)
    assert len(heard.warned) == 1
    assert type(model).__name__ in heard.warned[0]


@torch.no_grad()
def test_a_window_that_is_left_out_of_the_mask_would_be_noticed() -> None:
    model, row = made("mistral"), some_rows()[0]
    (pack,) = packs([row], 100)
    right = read_pack(model, pack)
    model.config.sliding_window, window = None, model.config.sliding_window
    try:
        assert float((read_pack(model, pack) - right).abs().max()) > 0.1
    finally:
        model.config.sliding_window = window


ROWS = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=12), min_size=1, max_size=12)


@given(rows=ROWS, tokens=st.integers(1, 40))
def test_a_trie_holds_every_row_and_each_beginning_once(rows: list[list[int]], tokens: int) -> None:
    found = packs(rows, tokens)
    assert sorted(place for pack in found for place in pack.rows) == list(range(len(rows)))
    for pack in found:
        beginnings = {tuple(rows[place][: end + 1]) for place in pack.rows for end in range(len(rows[place]))}
        sees_TT, near_TT = pack.sees().numpy(), pack.sees(3).numpy()
        assert len(pack) == len(beginnings)
        assert len(pack) <= tokens or len({tuple(rows[place]) for place in pack.rows}) == 1
        for place, path in zip(pack.rows, pack.paths, strict=True):
            assert pack.ids_T[path].tolist() == rows[place]
            assert pack.depth_T[path].tolist() == list(range(len(path)))
            for depth, node in enumerate(path):
                assert np.flatnonzero(sees_TT[node]).tolist() == path[: depth + 1].tolist()
                assert np.flatnonzero(near_TT[node]).tolist() == path[max(0, depth - 2) : depth + 1].tolist()


@hypothesis_settings(max_examples=20)
@given(rows=ROWS, tokens=st.integers(1, 40))
def test_every_place_that_is_read_has_the_hidden_state_of_its_row_alone(rows: list[list[int]], tokens: int) -> None:
    model = made("llama")
    with torch.no_grad():
        for pack in packs(rows, tokens):
            x_TD = read_pack(model, pack)
            for place, path in zip(pack.rows, pack.paths, strict=True):
                torch.testing.assert_close(x_TD[torch.from_numpy(path)], single(model, rows[place]), **NEAR)


# Policy and reflector


PACKED = Passes(True, 150)


def both_ways(head: str, value: bool = True) -> tuple[Policy, Policy]:
    """The same weights, packed (some of the prompts go together) and padded."""
    model = tiny_models.llama()
    padded = tiny_models.policy(head, value, model=model)
    packed = deepcopy(padded)
    packed.backbone = packed.through.backbone = Backbone(packed.model, PACKED)
    return packed, padded


def test_what_prompts_begin_with_is_read_once_until_a_weight_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    read = backbone_module.read_opening
    monkeypatch.setattr(
        backbone_module, "read_opening", lambda model, ids: lengths.append(len(ids)) or read(model, ids)
    )
    packed, padded = both_ways("labels")
    prompts = [prompt for prompt in tiny_models.prompts(packed) if prompt.actions == 3]
    (prefix,) = {packed.encode(prompt).prefix for prompt in prompts}
    for turn in (1, 2):
        for some in (prompts[:4], prompts[4:], prompts[:1]):
            torch.testing.assert_close(packed.log_probs(some), padded.log_probs(some), **NEAR)
        assert lengths == [len(prefix)] * turn
        for policy in (packed, padded):
            with torch.no_grad():
                policy.model.get_output_embeddings().weight[: len(prompts)] += 0.3  # type: ignore[union-attr]
                policy.model.model.layers[0].mlp.up_proj.weight *= 1.5


def test_an_optimizer_that_counts_no_versions_is_noticed_too() -> None:
    packed, padded = both_ways("labels")
    prompts = [prompt for prompt in tiny_models.prompts(packed) if prompt.actions == 3][:3]
    packed.log_probs(prompts)
    assert packed.backbone._opening
    for policy in (packed, padded):
        weights = list(policy.model.parameters())
        optimizer = torch.optim.AdamW(weights, lr=0.5, fused=True)
        policy([policy.encode(prompt) for prompt in prompts], 3).value_B.sum().backward()
        generator = torch.Generator().manual_seed(3)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        versions = [weight._version for weight in weights]
        optimizer.step()
        assert versions == [weight._version for weight in weights]
    torch.testing.assert_close(packed.log_probs(prompts), padded.log_probs(prompts), **NEAR)


HEADS = pytest.mark.parametrize("head", ["labels", "pointer", "hedged"])


@HEADS
def test_decisions_are_those_of_padded_rows(head: str) -> None:
    packed, padded = both_ways(head)
    prompts = tiny_models.prompts(packed)
    assert 1 < len(packed.through.parts([packed.encode(prompt) for prompt in prompts])) < len(prompts)
    for one, other in zip(packed.evaluate(prompts), padded.evaluate(prompts), strict=True):
        torch.testing.assert_close(one, other, **NEAR)
    again = packed.evaluate(prompts)
    assert torch.equal(again[0], packed.evaluate(prompts)[0]), "the same company gives the same bits"


def after(made: Policy, work: Callable[[Policy], object]) -> Tensor:
    """The gradient that `work` leaves."""
    made.zero_grad()
    work(made)
    return torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in made.parameters()])


@HEADS
def test_the_sft_loss_of_the_policy_and_its_gradient_are_those_of_padded_rows(head: str) -> None:
    totals: list[float] = []

    def learn(made: Policy) -> None:
        rows = [made.encode(prompt) for prompt in tiny_models.prompts(made)]
        examples = [ChoiceRow(row, (0, 1) if n % 3 else (1,), 0.5 + n % 2) for n, row in enumerate(rows)]
        parts = list(choice_loss(made, examples, smoothing=0.1)(range(3, len(rows)), range(3, len(rows))))
        totals.append(sum(float(part.detach()) for part in parts))
        for part in parts:
            part.backward()

    assert_near(*(after(made, learn) for made in both_ways(head)))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


@HEADS
def test_an_updates_loss_and_gradient_are_those_of_padded_rows(head: str) -> None:
    losses: list[float] = []

    def learn(made: Policy) -> None:
        prompts = tiny_models.prompts(made)
        encoded = [made.encode(prompt) for prompt in prompts]
        draw = torch.Generator().manual_seed(0)
        allowed_PN = torch.arange(3) < torch.tensor([prompt.actions for prompt in prompts])[:, None]
        old_PN = torch.randn(len(prompts), 3, generator=draw).masked_fill(~allowed_PN, -torch.inf).log_softmax(1)
        gain_PN, loss_PN = torch.rand(2, len(prompts), 3, generator=draw) * allowed_PN
        folded = Folded(old_PN, gain_PN, -loss_PN, *torch.rand(3, len(prompts), generator=draw))
        settings = RlSettings(baseline="value")
        learner = Learner(made, torch.optim.SGD(made.parameters(), lr=0), settings, 0)
        losses.append(_accumulate(learner, encoded, folded, list(range(2, len(prompts))), 3, 0.3, 0.1))

    assert_near(*(after(made, learn) for made in both_ways(head)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@given(data=st.data())
@hypothesis_settings(max_examples=10)
def test_the_sft_loss_of_the_reflector_and_its_gradient_are_those_of_padded_rows(data: st.DataObject) -> None:
    """Texts that begin alike or are equal, behind prompts that are equal or not, each count once a text."""
    model = made("llama")
    prompt, said = st.sampled_from([(2, 3, 4), (2, 3, 5), (2, 3)]), st.lists(st.integers(6, 7), min_size=1, max_size=5)
    rows = []
    for ids, text in data.draw(st.lists(st.tuples(prompt, said), min_size=1, max_size=12)):
        shared = 2 if len(ids) > 2 else 0
        rest = ids[shared:] + tuple(text[:-1])
        first = len(ids) - shared - 1
        rows.append((Encoded(ids[:shared], rest, tuple(range(first, first + len(text))), 0), tuple(text)))
    indices = [*range(len(rows)), 0]
    ways = [
        list(text_loss(Backbone(model, passes), rows, 0)(indices, indices)) for passes in (Passes(True, 9), Passes())
    ]
    packed, padded = (sum(parts[1:], parts[0]) for parts in ways)
    torch.testing.assert_close(packed, padded, **NEAR)
    assert_near(gradients(model, packed), gradients(model, padded))


OUTPUTS = {
    "gemma2": {"final_logit_softcapping": 0.5, "head_dim": 8},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
    "phi": {},  # whose output layer has a bias
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_logits_are_the_models_own_whatever_its_output_layer_adds(kind: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | OUTPUTS[kind])).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.25, generator=generator)
    backbone, ids_N = Backbone(model), torch.tensor([7, 3, 30])
    with torch.no_grad():
        own_LV = model(input_ids=torch.tensor([some_rows()[0]])).logits[0]
        hidden_LD = single(model, some_rows()[0])
        torch.testing.assert_close(backbone.logits(hidden_LD), own_LV, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(backbone.logits(hidden_LD, ids_N), own_LV[:, ids_N], rtol=1e-4, atol=1e-4)
        plain_LV = hidden_LD @ backbone.output_rows.T
    assert (plain_LV - own_LV).abs().max() > 0.1, "there is something to get wrong"
    check_reading(model, kind)
