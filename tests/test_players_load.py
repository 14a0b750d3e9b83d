"""How prompts go through a model, and how many tokens a pass reads, are settings with a default by device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from shutil import copytree
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models
from conftest import Heard
from reflect_rl.lm.backbone import Backbone, Passes, TokenBatch
from reflect_rl.lm.packed import Opening, Pack
from reflect_rl.memo import Memo
from reflect_rl.players import reflector as reflector_module
from reflect_rl.players.agent import Agent
from reflect_rl.players.context import Context
from reflect_rl.players.load import forward_passes, load_policy, policy_prompts
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ComputeSettings, ModelSettings, Settings
from reflect_rl.training.rl import rl

Tiny = Callable[..., Settings]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every forward pass of a policy from now on."""
    tokens: list[int] = []
    hidden, nodes = Backbone.hidden, Backbone.nodes

    def counted_hidden(self: Backbone, batch: TokenBatch) -> Tensor:
        tokens.append(batch.ids_BL.numel())
        return hidden(self, batch)

    def counted_nodes(self: Backbone, pack: Pack, opening: Opening | None = None) -> Tensor:
        tokens.append(len(pack))
        return nodes(self, pack, opening)

    monkeypatch.setattr(Backbone, "hidden", counted_hidden)
    monkeypatch.setattr(Backbone, "nodes", counted_nodes)
    return tokens


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("tokens", [1, 400])
def test_no_forward_pass_of_rl_reads_more_tokens_than_asked_for(
    tokens: int, exact: bool, warmed: RunFolder, tiny: Tiny, seen: list[int]
) -> None:
    settings = tiny(
        {"compute.tokens": tokens, "compute.exact": exact, "rl.replay": 4, "rl.iterations": 2, "rl.reference_kl": 0.1}
    )
    counts = rl(warmed, Context(settings), Progress())
    assert counts["forward"] == ("exact" if exact else "packed")
    policy = load_policy(warmed / "policy-sft", settings)
    one_row = policy.backbone.context  # a row that is longer than asked for goes alone
    assert max(seen) <= max(tokens, one_row)
    if tokens > one_row:
        assert max(seen) > tokens // 2


def test_the_tokens_of_a_pass_change_decisions_by_rounding_alone(warmed: RunFolder, tiny: Tiny) -> None:
    given = [{"compute.tokens": tokens, "compute.exact": exact} for exact in (True, False) for tokens in (0, 1, 300)]
    made = [load_policy(warmed / "policy-sft", tiny(some)) for some in given]
    builder = policy_prompts(made[0], Context(tiny()))
    prompts = [builder.policy_prompt(state, "Go left.") for state in tiny_models.states()]
    for other in made[1:]:
        torch.testing.assert_close(other.log_probs(prompts), made[0].log_probs(prompts), rtol=1e-4, atol=1e-5)


SCRATCH, PRETRAINED = ModelSettings(), ModelSettings(source="a/model")


@pytest.mark.parametrize(
    ("part", "compute", "expected"),
    [
        (SCRATCH, {}, Passes(False, 2048)),
        (SCRATCH, {"device": "cuda"}, Passes(True, 4096)),
        (SCRATCH, {"exact": False}, Passes(True, 600)),
        (SCRATCH, {"device": "cuda", "exact": True}, Passes(False, 2**15)),
        (PRETRAINED, {}, Passes(True, 600)),
        (PRETRAINED, {"device": "mps"}, Passes(True, 2048)),
        (PRETRAINED, {"tokens": 50}, Passes(True, 50)),
        (PRETRAINED, {"exact": True}, Passes(False, 2048)),
        (PRETRAINED, {"exact": True, "tokens": 50}, Passes(False, 50, 50)),
    ],
)
def test_by_default_model_and_device_decide(part: ModelSettings, compute: Any, expected: Passes) -> None:
    assert forward_passes(ComputeSettings(**compute), part, tiny_models.gpt2()) == expected


def test_the_lookup_model_has_its_own_exact_pass_everywhere(heard: Heard) -> None:
    compute = ComputeSettings(device="cuda")
    assert not forward_passes(compute, PRETRAINED, tiny_models.lookup(), heard).packed
    assert not heard.warned


@pytest.mark.parametrize("exact", [True, False])
def test_a_packed_decision_reads_one_prompt_and_no_copies(
    exact: bool, warmed: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    """An exact one is the same bits as in training: its chunk is filled up."""
    copytree(warmed / "policy-sft", warmed / "policy")
    agent = Agent(warmed, Context(tiny({"compute.exact": exact})))
    decoded: list[int] = []
    decoding = reflector_module.decoding_steps

    def counted_decoding(backbone: Backbone, prompts: Sequence[list[int]], *more: Any) -> Any:
        decoded.append(len(prompts))
        return decoding(backbone, prompts, *more)

    monkeypatch.setattr(reflector_module, "decoding_steps", counted_decoding)
    seen.clear()
    agent.act("P....i...", ("left", "right", "take"))
    assert decoded == [8 if exact else 1]
    prompt = agent._decisions.policy.backbone.context
    assert (max(seen) > prompt) == exact


def test_a_memo_holds_a_bounded_number_of_texts_in_memory(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflect_rl.memo.MOST_HELD", 10)
    on_disk, in_memory = Memo(tmp_path / "memo.sqlite", "x"), Memo(None, "x")
    for number in range(50):
        for memo in (on_disk, in_memory):
            memo.put({(f"prompt {number}", 0): f"text {number}"})
            assert memo.get([(f"prompt {number}", 0)])
            assert len(memo._texts) <= 12
    assert len(on_disk.get([(f"prompt {number}", 0) for number in range(50)])) == 50
