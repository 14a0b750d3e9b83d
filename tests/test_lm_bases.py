"""One frozen base in memory carries the adapters of several players."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedModel

import tiny_models
from reflect_rl.lm import pretrained
from reflect_rl.lm.bases import Bases
from reflect_rl.lm.models import base_model, fingerprint
from reflect_rl.lm.pretrained import load_pretrained, save_model
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_decisions
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ModelSettings, Settings
from reflect_rl.training.rl import rl
from reflect_rl.training.sft import sft_policy, sft_reflector

Tiny = Callable[..., Settings]
QUANTISED = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
FORMATS = pytest.mark.parametrize("bits", [32, 16, pytest.param(8, marks=QUANTISED), pytest.param(4, marks=QUANTISED)])
IDS_BL = torch.arange(12).view(1, -1)


@pytest.fixture(params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = tiny_models.gpt2(width=64) if request.param == "gpt2" else tiny_models.llama()
    save_model(model, tiny_models.tokenizer(), tmp_path / "base")
    return tmp_path / "base"


def storages(model: PreTrainedModel) -> set[int]:
    """The memory of all weights that are not adapters."""
    return {weight.untyped_storage().data_ptr() for name, weight in model.named_parameters() if "lora_" not in name}


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(IDS_BL).logits.float()


def shift(model: PreTrainedModel, by: float) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(by)


@FORMATS
def test_players_share_the_base_and_nothing_else(base: Path, bits: int) -> None:
    part, bases = ModelSettings(source=str(base), lora_rank=2, bits=bits), Bases()  # type: ignore[arg-type]
    first, second = (load_pretrained(part, seed=seed, bases=bases)[0] for seed in (0, 1))
    assert storages(first) == storages(second)
    before = logits(second)
    shift(first, 0.3)
    assert torch.equal(logits(second), before)
    alone, _ = load_pretrained(part, seed=0)
    assert storages(alone).isdisjoint(storages(first))
    shift(alone, 0.3)
    assert torch.equal(logits(alone), logits(first))


@pytest.mark.parametrize("config", [{"bias": "all"}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}])
def test_adapters_that_change_their_base_have_one_of_their_own(config: dict[str, Any], tmp_path: Path) -> None:
    save_model(tiny_models.llama("qwen2"), tiny_models.tokenizer(), tmp_path / "base")
    part, bases = ModelSettings(source=str(tmp_path / "base"), lora_rank=2), Bases()
    plain = load_pretrained(part, bases=bases)[0]
    before = [logits(plain)]
    players = [plain]
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(
            load_pretrained(ModelSettings(source=part.source))[0],
            LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", **config),
        )
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if weight.requires_grad and ("lora_B" in name or "bias" in name):
                    weight.normal_(0, 0.2)
        adapted.peft_config["default"].base_model_name_or_path = part.source
        adapted.save_pretrained(folder)
        players.append(load_pretrained(ModelSettings(source=str(folder), lora_rank=2), bases=bases)[0])
        before.append(logits(adapted))
    for player, own in zip(players, before, strict=True):
        torch.testing.assert_close(logits(player), own, rtol=0, atol=1e-5)


@FORMATS
def test_training_one_moves_its_adapters_only(base: Path, bits: int) -> None:
    part, bases = ModelSettings(source=str(base), lora_rank=2, bits=bits), Bases()  # type: ignore[arg-type]
    first, second = (load_pretrained(part, bases=bases)[0] for _ in range(2))
    trained = {name: weight for name, weight in first.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    second.requires_grad_(False)  # as a frozen reflector
    first(IDS_BL).logits.float().logsumexp(-1).sum().backward()
    assert any(bool(weight.grad.abs().max() > 0) for weight in trained.values())
    assert all(weight.grad is None for weight in second.parameters())


def test_other_formats_and_models_that_are_trained_whole_are_loaded_again(base: Path) -> None:
    bases, parts = Bases(), [{"lora_rank": 2}, {"lora_rank": 2, "bits": 16}, {}, {}]
    loaded = [load_pretrained(ModelSettings(source=str(base), **part), bases=bases)[0] for part in parts]  # type: ignore[arg-type]
    for number, model in enumerate(loaded):
        assert all(storages(model).isdisjoint(storages(other)) for other in loaded[:number])


def test_a_run_loads_its_base_once(base: Path, pooled: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"source": str(base), "lora_rank": 2}
    small = {"policy_sft.steps": 2, "reflector_sft.steps": 2, "reflector.max_new_tokens": 2, "rl.iterations": 1}
    context = Context(tiny({"reflector.model": part, "policy.model": part, "rl.reference_kl": 0.1, **small}))
    loads: list[Any] = []
    plain = pretrained._plain
    monkeypatch.setattr(pretrained, "_plain", lambda *given: loads.append(given) or plain(*given))
    for stage in (sft_reflector, sft_policy, rl):
        stage(pooled, context, Progress())
    assert len(loads) == 1
    decisions = load_decisions(pooled, context)
    assert isinstance(decisions.reflector, LocalReflector)
    assert storages(decisions.reflector.model) == storages(decisions.policy.model)
    apart = load_decisions(pooled, Context(context.settings))
    assert isinstance(apart.reflector, LocalReflector)
    marks = [fingerprint(each.reflector.model, each.reflector.tokenizer) for each in (decisions, apart)]  # type: ignore[union-attr]
    assert marks[0] == marks[1]
    assert not any(weight.requires_grad for weight in base_model(decisions.reflector.model).parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_of_a_model_with_embeddings_of_its_own_class_are_loaded_again(tmp_path: Path, tied: bool) -> None:
    """Gemma scales its embeddings in a subclass of torch's."""
    config = GemmaConfig(
        vocab_size=len(tiny_models.tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=tied,
    )
    save_model(GemmaForCausalLM(config), tiny_models.tokenizer(), tmp_path / "base")
    adapted, tokenizer = load_pretrained(ModelSettings(source=str(tmp_path / "base"), lora_rank=2))
    shift(adapted, 0.1)
    save_model(adapted, tokenizer, tmp_path / "adapters")
    again, _ = load_pretrained(ModelSettings(source=str(tmp_path / "adapters"), lora_rank=2))
    torch.testing.assert_close(logits(again), logits(adapted))
