"""A device that runs out of memory: smaller passes with the same results, or one message."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import tiny_models
from conftest import Heard
from reflect_rl.errors import ModelError
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.encoded import Encoded
from reflect_rl.lm.layers import recompute_layers
from reflect_rl.lm.torch_setup import torch_set_up
from reflect_rl.memo import Memo
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_decisions
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.ranks import ALONE
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ComputeSettings, PromptSettings, ReflectorSettings, Settings
from reflect_rl.training.gradients import accumulate
from reflect_rl.training.rl import rl
from reflect_rl.training.sft import sft_policy, sft_reflector
from reflect_rl.training.sft_losses import text_loss

Tiny = Callable[..., Settings]
SAID = "The device ran out of memory: from now on, a pass has at most"


@pytest.mark.parametrize("packed", [True, False])
def test_an_evaluation_is_done_again_in_smaller_passes(packed: bool, heard: Heard) -> None:
    policy = tiny_models.policy(passes=Passes(packed, 2000, progress=heard))
    prompts = tiny_models.prompts(policy)
    wanted = policy.log_probs(prompts)
    with tiny_models.little_memory(600):
        torch.testing.assert_close(policy.log_probs(prompts), wanted, rtol=1e-4, atol=1e-5)
    assert heard.warned[-1].startswith(f"{SAID} {policy.backbone.passes.tokens:,} tokens.")
    assert 1 <= len(heard.warned) <= 2
    policy.log_probs(prompts)
    assert policy.backbone.passes.tokens < 1200  # they stay small


@pytest.mark.parametrize("most", [20, 70])
def test_what_does_not_fit_even_in_small_passes_is_one_message(most: int, heard: Heard) -> None:
    policy = tiny_models.policy(passes=Passes(True, 300, progress=heard))
    with (
        tiny_models.little_memory(most),
        pytest.raises(ModelError, match=r"too little memory \(CUDA out .*Lower compute.tokens or .*bits 4") as caught,
    ):
        policy.log_probs(tiny_models.prompts(policy))
    assert "\n" not in str(caught.value)
    assert len(heard.warned) <= 2


def test_a_single_prompt_is_not_made_smaller(heard: Heard) -> None:
    policy = tiny_models.policy(passes=Passes(True, 100_000, progress=heard))
    prompts = tiny_models.prompts(policy)
    for prompt, most in ((prompts[0], 5), (prompts[2], 20)):  # in what prompts begin with, and in what comes after it
        with tiny_models.little_memory(most), pytest.raises(ModelError):
            policy.log_probs([prompt])
    assert heard.warned == []


def test_a_stage_that_needs_too_much_elsewhere_ends_with_the_same_message() -> None:
    with pytest.raises(ModelError, match="too little memory"), torch_set_up(ComputeSettings(threads=1)):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_step_begins_its_gradients_again() -> None:
    weight = nn.Linear(1, 1, bias=False)
    attempts: list[int] = []

    def parts() -> Iterator[Tensor]:
        attempts.append(1)
        for factor in (1.0, 10.0):
            yield weight.weight.sum() * factor
        if len(attempts) < 3:
            raise torch.OutOfMemoryError
        yield weight.weight.sum() * 100

    loss = accumulate(parts, weight, ALONE, lambda: True)
    assert weight.weight.grad is not None
    assert float(weight.weight.grad) == 111
    assert loss == pytest.approx(111 * float(weight.weight.detach()), rel=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_training_goes_on_in_smaller_passes(
    exact: bool, pooled: RunFolder, tiny: Tiny, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both warm-ups and RL, which is trained and evaluated in passes of their own size."""
    monkeypatch.setattr("reflect_rl.lm.backbone.GRAPH_BYTES", 2**40)
    settings = tiny(
        {"compute.exact": exact, "reflector_sft.steps": 3, "policy_sft.steps": 3, "rl.iterations": 1}
        | ({} if exact else {"compute.tokens": 2000})
    )
    figures = []
    for most in (10**9, 200):
        heard.warned.clear()
        with tiny_models.little_memory(most):
            for stage in (sft_reflector, sft_policy, rl):
                figures.append(stage(pooled, Context(settings), heard).get("loss", 0))
                assert (most == 200) == any(text.startswith(SAID) for text in heard.warned), stage
                heard.warned.clear()
        figures += pooled.read_jsonl("metrics.jsonl", lambda row: row["grad_norm"])
        shutil.rmtree(pooled / "checkpoints")
    assert figures[:4] == pytest.approx(figures[4:], rel=1e-3)


def reflector(chunk: int, heard: Heard) -> LocalReflector:
    builder = PromptBuilder("Go.", PromptSettings(), None)
    settings = ReflectorSettings(max_new_tokens=4)
    model, words = tiny_models.gpt2(), tiny_models.tokenizer()
    return LocalReflector(
        model, words, builder, settings, Memo(None, ""), chunk=chunk, exact=False, passes=Passes(progress=heard)
    )


def test_reflections_are_written_fewer_at_a_time(heard: Heard) -> None:
    states = tiny_models.states()[:12]
    wanted = reflector(1, heard).reflect(states)
    made = reflector(64, heard)
    with tiny_models.little_memory(70):
        assert made.reflect(states) == wanted
    assert heard.warned[-1].startswith(f"The device ran out of memory: from now on, {made.chunk} reflections")
    assert made.chunk < 12
    with tiny_models.little_memory(5), pytest.raises(ModelError):
        reflector(2, heard).reflect(states)


def test_the_players_of_a_run_can_say_so(warmed: RunFolder, tiny: Tiny, heard: Heard) -> None:
    rl(warmed, Context(tiny({"rl.iterations": 0})), heard)
    decisions = load_decisions(warmed, Context(tiny()), progress=heard)
    assert isinstance(decisions.reflector, LocalReflector)
    decisions.policy.backbone.halve()
    decisions.reflector._halve()
    assert len(heard.warned) == 2


# Layers computed again


def kept_bytes(loss: Callable[[], Tensor]) -> tuple[float, int]:
    """A loss, after its backward pass, and the bytes that were kept for it."""
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        total = loss()
    total.backward()
    return float(total.detach()), sum(kept.values())


def gradients(policy: Policy) -> list[Tensor]:
    return [weight.grad.clone() for weight in policy.parameters() if weight.grad is not None]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_recomputed_layers_give_the_same_gradients_in_less_memory(kind: str, packed: bool) -> None:
    policy = tiny_models.policy(model=tiny_models.of_kind(kind), passes=Passes(packed, 5000))
    policy.backbone.fast = False
    encoded: Sequence[Encoded] = [policy.encode(prompt) for prompt in tiny_models.prompts(policy)[:12]]

    def loss() -> Tensor:
        return -policy(encoded, 3).log_probs_BN[:, 0].sum()

    before, most = kept_bytes(loss)
    wanted = gradients(policy)
    policy.zero_grad()
    recompute_layers(policy.model)
    recompute_layers(policy.model)  # once is enough
    after, least = kept_bytes(loss)
    assert after == before
    for one, other in zip(gradients(policy), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert least < 0.5 * most


def test_a_setting_recomputes_the_layers_of_pretrained_players(
    pooled: RunFolder, tiny: Tiny, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils import checkpoint as module

    from reflect_rl.lm.pretrained import save_model

    save_model(tiny_models.llama(), tiny_models.tokenizer(), tmp_path / "base")
    part = {"source": str(tmp_path / "base")}
    short = {"reflector_sft.steps": 2, "policy_sft.steps": 2, "rl.iterations": 1}
    settings = {"reflector.model": part, "policy.model": part, "reflector.max_new_tokens": 2, **short}
    calls: list[int] = []
    real = module.checkpoint
    monkeypatch.setattr(module, "checkpoint", lambda *given, **named: calls.append(1) or real(*given, **named))
    losses = []
    for again in (False, True):
        made = tiny(settings | {"compute.gradient_checkpointing": again})
        for stage in (sft_reflector, sft_policy, rl):
            calls.clear()
            losses.append(stage(pooled, Context(made), Heard()).get("loss"))
            assert bool(calls) == again, stage
        losses += pooled.read_jsonl("metrics.jsonl", lambda row: row["grad_norm"])
        shutil.rmtree(pooled / "checkpoints")
    assert losses[:4] == losses[4:]


def test_only_pretrained_players_have_layers_to_recompute(tiny: Tiny) -> None:
    with pytest.raises(Exception, match=r"compute\.gradient_checkpointing is for pretrained players"):
        tiny({"compute.gradient_checkpointing": True})


def test_a_padded_loss_keeps_to_a_bound_that_was_set() -> None:
    model = tiny_models.lookup()
    rows = [(Encoded((), tuple(range(1, 4 + n)), (n,), 0), (5,)) for n in range(20)]
    ways = [
        list(text_loss(Backbone(model, passes), rows, 0)(range(20), range(20)))
        for passes in (Passes(), Passes(learning=60))
    ]
    assert [len(parts) for parts in ways] == [1, 10]
    torch.testing.assert_close(sum(ways[0]), sum(ways[1]))
