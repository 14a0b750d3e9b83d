"""What SFT has trained is what RL goes on with, in every number format; and small steps move every weight."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import tiny_models
from reflect_rl.lm.backbone import Backbone, TokenBatch
from reflect_rl.lm.fused_lora import Fused, unfused
from reflect_rl.lm.models import base_model, fingerprint
from reflect_rl.lm.pretrained import load_pretrained, save_model
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_policy, load_reflector, policy_prompts
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ModelSettings, Settings
from reflect_rl.training.optimizer import clip_and_step, make_optimizer
from reflect_rl.training.rl import rl
from reflect_rl.training.sft import sft_policy, sft_reflector

pytest.importorskip("peft")
QUANTISED = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
FORMATS = pytest.mark.parametrize("bits", [32, 16, pytest.param(8, marks=QUANTISED), pytest.param(4, marks=QUANTISED)])
Tiny = Callable[..., Settings]


@pytest.fixture(params=["gpt2", "llama"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_model(wide(request.param), tiny_models.tokenizer(), tmp_path / "base")
    return tmp_path / "base"


def wide(kind: str) -> PreTrainedModel:
    """Of a width that can be quantised in blocks."""
    return tiny_models.gpt2(width=64) if kind == "gpt2" else tiny_models.llama()


def settings_of(tiny: Tiny, base: Path, rank: int, bits: int, **more: Any) -> Settings:
    part = {"source": str(base), "lora_rank": rank, "bits": bits}
    small = {"policy_sft.steps": 4, "reflector_sft.steps": 4, "reflector.max_new_tokens": 2, "rl.iterations": 1}
    return tiny({"reflector.model": part, "policy.model": part, **small, **more})


def shown(policy: Policy, settings: Settings) -> list[Prompt]:
    builder = policy_prompts(policy, Context(settings))
    return [builder.policy_prompt(state, "Go left.") for state in tiny_models.states()]


def trained_policy(pooled: RunFolder, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """The policy as SFT leaves it, in memory; and in policy-sft/."""
    saved: list[Policy] = []
    save = Policy.save

    def keep(policy: Policy, folder: Path) -> None:
        saved.append(policy)
        save(policy, folder)

    monkeypatch.setattr(Policy, "save", keep)
    sft_policy(pooled, Context(settings), Progress())
    return saved[0]


@FORMATS
def test_rl_trains_the_adapters_of_sft_on(
    bits: int, base: Path, pooled: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tiny, base, 4, bits, **{"reflector.kind": "none"})
    before = trained_policy(pooled, settings, monkeypatch)
    assert getattr(base_model(before.model), "is_quantized", False) == (bits < 16)
    again = load_policy(pooled / "policy-sft", settings, adapters=True)
    untrained, _ = load_pretrained(settings.policy.model)
    prompts = shown(before, settings)
    torch.testing.assert_close(again.log_probs(prompts), before.log_probs(prompts), rtol=1e-5, atol=1e-6)
    fresh = Policy(untrained, before.tokenizer, before.labels)
    assert (fresh.log_probs(prompts).exp() - before.log_probs(prompts).exp()).abs().max() > 1e-3
    trained, wanted = ({n: w for n, w in p.named_parameters() if w.requires_grad} for p in (again, before))
    assert any("lora_B" in name for name in trained)
    assert all("lora_" in name or not name.startswith("model.") for name in trained)
    assert trained.keys() == wanted.keys()
    assert all(torch.equal(weight, wanted[name]) for name, weight in trained.items())
    assert all(weight.dtype == torch.float32 for weight in trained.values())


@pytest.mark.parametrize("base", ["llama"], indirect=True)
@pytest.mark.parametrize("bits", [32, pytest.param(4, marks=QUANTISED)])
def test_a_run_with_adapters_acts_as_it_was_trained(bits: int, base: Path, pooled: RunFolder, tiny: Tiny) -> None:
    settings = settings_of(tiny, base, 4, bits)
    sft_reflector(pooled, Context(settings), Progress())
    sft_policy(pooled, Context(settings), Progress())
    rl(pooled, Context(settings), Progress())
    sft, final = (load_policy(pooled / name, settings) for name in ("policy-sft", "policy"))
    prompts = shown(final, settings)
    moved = (sft.log_probs(prompts).exp() - final.log_probs(prompts).exp()).abs().max()
    assert 0 < moved < 1
    reflectors = [load_reflector(pooled, Context(settings)) for _ in range(2)]
    marks = set()
    for reflector in reflectors:
        assert isinstance(reflector, LocalReflector)
        marks.add(fingerprint(reflector.model, reflector.tokenizer))
    assert len(marks) == 1


def test_the_fingerprint_of_a_reflector_knows_its_base_and_its_adapters(base: Path) -> None:
    def mark(rank: int, seed: int) -> str:
        return fingerprint(*load_pretrained(ModelSettings(source=str(base), lora_rank=rank), seed=seed))

    before = mark(2, 0)
    assert mark(2, 0) == before
    assert mark(2, 1) != before
    model, tokenizer = load_pretrained(ModelSettings(source=str(base)))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0].add_(1)
    save_model(model, tokenizer, base)
    assert mark(2, 0) != before


@pytest.mark.parametrize("kind", ["gpt2", "llama", "lookup"])
def test_sixteen_bits_without_adapters_move_every_weight_at_a_small_rate(kind: str, tmp_path: Path) -> None:
    save_model(tiny_models.of_kind(kind), tiny_models.tokenizer(), tmp_path / "base")
    part = ModelSettings(source=str(tmp_path / "base"), bits=16)
    model, tokenizer = load_pretrained(part)
    policy = Policy(model, tokenizer, tiny_models.policy().labels).eval()
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    optimizer = make_optimizer(policy, 1e-5, weight_decay=0.0)
    prompts = tiny_models.prompts(policy)
    choices = policy([policy.encode(prompt) for prompt in prompts], 3)
    choices.log_probs_BN[:, 0].sum().backward()
    has_gradient = {name: weight.grad != 0 for name, weight in policy.named_parameters() if weight.grad is not None}
    clip_and_step(optimizer, policy.parameters(), 1.0)
    moved = total = 0
    for name, weight in policy.named_parameters():
        if name in has_gradient:
            total += int(has_gradient[name].sum())
            moved += int(((weight != before[name]) & has_gradient[name]).sum())
    assert total > 1000
    assert moved > 0.99 * total


@pytest.mark.parametrize("kind", ["gpt2", "llama", "lookup"])
def test_sixteen_bits_compute_in_bfloat16_and_near_the_same(kind: str, tmp_path: Path) -> None:
    save_model(tiny_models.of_kind(kind), tiny_models.tokenizer(), tmp_path / "base")
    batch = TokenBatch(torch.arange(3), torch.arange(18).view(2, 9), torch.tensor([[3, 8], [1, 5]]))
    kept, half = (
        Backbone(load_pretrained(ModelSettings(source=str(tmp_path / "base"), bits=bits))[0]) for bits in (32, 16)
    )
    with torch.no_grad():
        exact, rough = kept.hidden(batch), half.hidden(batch)
        torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)
        assert not torch.allclose(rough.float(), exact, rtol=1e-5, atol=1e-5)


def test_a_run_in_sixteen_bits_goes_on_from_where_sft_ended(
    base: Path, pooled: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tiny, base, 0, 16)
    sft_reflector(pooled, Context(settings), Progress())
    before = trained_policy(pooled, settings, monkeypatch)
    again = load_policy(pooled / "policy-sft", settings, adapters=True)
    prompts = shown(before, settings)
    assert torch.equal(again.log_probs(prompts), before.log_probs(prompts))
    rl(pooled, Context(settings), Progress())
    load_reflector(pooled, Context(settings)).reflect(tiny_models.states()[:2])


@pytest.mark.parametrize("base", ["llama"], indirect=True)
@FORMATS
def test_reading_changes_neither_decisions_nor_gradients(bits: int, base: Path) -> None:
    part = ModelSettings.model_validate({"source": str(base), "lora_rank": 4, "bits": bits})

    def learned(reads: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model, tokenizer = load_pretrained(part)
        policy = Policy(model, tokenizer, tiny_models.policy().labels).eval()
        prompts = tiny_models.prompts(policy)
        if reads:
            policy.log_probs(prompts)
        choices = policy([policy.encode(prompt) for prompt in prompts], 3)
        choices.log_probs_BN[:, 0].sum().backward()
        return choices.log_probs_BN.detach(), {n: w.grad for n, w in model.named_parameters() if w.grad is not None}

    decided, gradients = learned(reads=False)
    again, others = learned(reads=True)
    torch.testing.assert_close(again, decided)
    assert gradients.keys() == others.keys()
    assert any(gradient.abs().max() > 0 for name, gradient in gradients.items() if "layers.0" in name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient)


@pytest.mark.parametrize("bits", [16, pytest.param(8, marks=QUANTISED), pytest.param(4, marks=QUANTISED)])
def test_what_a_young_adapter_adds_is_not_rounded_away(bits: int, base: Path) -> None:
    """Less than half a unit in the last place of what the layer gives without it, in bfloat16."""
    model, _ = load_pretrained(ModelSettings.model_validate({"source": str(base), "lora_rank": 4, "bits": bits}))
    layer: Any = next(module for module in model.modules() if isinstance(module, Fused))
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    draw = torch.Generator().manual_seed(0)
    x_TD = torch.randn(2048, down.shape[1], generator=draw).bfloat16()
    with torch.no_grad():
        before_TE = layer(x_TD).float()
        up.copy_(torch.randn(up.shape, generator=draw))
        added_TE = layer.scaling["default"] * x_TD.float() @ down.T @ up.T
        small = before_TE.std() / added_TE.std() / 2**10
        up.mul_(small)
        after_TE = layer(x_TD).float()
    slope = ((after_TE - before_TE) * added_TE * small).sum() / (added_TE * small).square().sum()
    assert 0.8 < slope < 1.2


def test_the_logits_of_labels_are_not_rounded_to_sixteen_bits(base: Path) -> None:
    """Between 8 and 16, bfloat16 has 1/16 as its last place: two passes of equal weights would differ by that."""
    part = ModelSettings.model_validate({"source": str(base), "lora_rank": 4, "bits": 16})
    backbone = Backbone(load_pretrained(part)[0])
    labels_N = torch.arange(5)
    x_BD = torch.randn(64, backbone.width, generator=torch.Generator().manual_seed(0)).bfloat16() * 20
    wanted_BN = x_BD.double() @ backbone.output_rows[labels_N].double().T
    torch.testing.assert_close(backbone.logits(x_BD, labels_N).double(), wanted_BN, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bits", [32, pytest.param(8, marks=QUANTISED), pytest.param(4, marks=QUANTISED)])
def test_adapters_compute_what_pefts_own_layers_do(bits: int, base: Path) -> None:
    """Outputs and gradients, up to the rounding of activations: bitsandbytes reads them in 8 bits, too."""
    model, _ = load_pretrained(ModelSettings.model_validate({"source": str(base), "lora_rank": 4, "bits": bits}))
    found = [module for module in model.modules() if isinstance(module, Fused)]
    layer: Any = found[0]
    torch.nn.init.normal_(layer.lora_B["default"].weight, generator=torch.Generator().manual_seed(1))

    def learned() -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        number = torch.float32 if bits == 32 else torch.bfloat16
        x_TD = torch.randn(64, layer.in_features, generator=draw).to(number).requires_grad_()
        out_TE = layer(x_TD)
        gradients = torch.autograd.grad(out_TE.float().square().sum(), [x_TD, layer.lora_A["default"].weight])
        return [out_TE.detach(), *gradients]

    ours = learned()
    with unfused(model):
        assert not isinstance(layer, Fused)
        theirs = learned()
    assert isinstance(layer, Fused)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        error = (one.float() - other.float()).norm() / other.float().norm()
        assert error < (1e-5 if bits == 32 else 0.02), f"{error:.4f}"
