"""The backbone gives the same hidden states, and gradients, as the library's own forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

import tiny_models
from reflect_rl.lm.backbone import UNBOUNDED, Backbone, TokenBatch
from reflect_rl.lm.models import fingerprint
from reflect_rl.lm.pretrained import load_pretrained, save_model
from reflect_rl.settings import ModelSettings


def random_batch(seed: int, prefix: int, rows: int, length: int, reads: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(seed)
    words = len(tiny_models.tokenizer())
    return TokenBatch(
        torch.randint(words, (prefix,), generator=generator),
        torch.randint(words, (rows, length), generator=generator),
        torch.randint(length, (rows, reads), generator=generator),
    )


def plain(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """The library's forward pass over whole rows."""
    rows = batch.ids_BL.shape[0]
    ids_BL = torch.cat([batch.prefix_P.expand(rows, -1), batch.ids_BL], dim=1)
    hidden_BLD = model(input_ids=ids_BL, output_hidden_states=True).hidden_states[-1]
    return torch.stack([hidden_BLD[row, batch.read_BR[row] + len(batch.prefix_P)] for row in range(rows)])


SHAPES = {
    "prefix": st.integers(0, 12),
    "rows": st.integers(1, 5),
    "length": st.integers(1, 20),
    "reads": st.integers(1, 4),
}


@pytest.mark.parametrize("layers", [1, 3])
@given(**SHAPES)
def test_the_fast_path_equals_the_library(layers: int, prefix: int, rows: int, length: int, reads: int) -> None:
    model, batch = tiny_models.frozen_gpt2(layers), random_batch(length, prefix, rows, length, reads)
    backbone = Backbone(model)
    assert backbone.fast
    with torch.no_grad():
        torch.testing.assert_close(backbone.hidden(batch), plain(model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", [0, 7])
def test_the_fast_path_has_the_gradients_of_the_library(prefix: int) -> None:
    model, batch = tiny_models.gpt2(), random_batch(3, prefix, 4, 11, 3)
    weight = torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(0))
    grads = []
    for hidden in (Backbone(model).hidden(batch), plain(model, batch)):
        model.zero_grad()
        (hidden * weight).sum().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() == dict(model.named_parameters()).keys()
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=1e-3, atol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("odd", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}])
def test_a_gpt2_of_unusual_attention_is_not_computed_wrongly(odd: dict[str, bool]) -> None:
    torch.manual_seed(0)
    words = len(tiny_models.tokenizer())
    config = GPT2Config(
        vocab_size=words, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1, **odd
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.5)
    batch = random_batch(1, 3, 2, 9, 2)
    with torch.no_grad():
        torch.testing.assert_close(Backbone(model).hidden(batch), plain(model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["lookup", "llama", "qwen2"])
@pytest.mark.parametrize("prefix", [0, 5])
def test_other_models_go_through_the_library(kind: str, prefix: int) -> None:
    model, batch = tiny_models.of_kind(kind), random_batch(2, prefix, 3, 8, 2)
    backbone = Backbone(model)
    assert not backbone.fast
    assert backbone.width == 16
    assert backbone.context == (UNBOUNDED if kind == "lookup" else tiny_models.CONTEXT), "no positions, no limit"
    with torch.no_grad():
        torch.testing.assert_close(backbone.hidden(batch), plain(model, batch))


@pytest.mark.parametrize("kind", ["gpt2", "lookup", "llama"])
def test_padding_on_the_right_changes_nothing(kind: str) -> None:
    model = tiny_models.of_kind(kind)
    batch = random_batch(4, 6, 3, 9, 2)
    padded = TokenBatch(batch.prefix_P, torch.nn.functional.pad(batch.ids_BL, (0, 13), value=7), batch.read_BR)
    with torch.no_grad():
        shown, hidden = Backbone(model).hidden(padded), Backbone(model).hidden(batch)
    torch.testing.assert_close(shown, hidden, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["gpt2", "lookup", "llama"])
def adapted(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    pytest.importorskip("peft")
    model = tiny_models.of_kind(request.param)
    save_model(model, tiny_models.tokenizer(), tmp_path / "base")
    return load_pretrained(ModelSettings(source=str(tmp_path / "base"), lora_rank=4))[0].eval()


def turn_on(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3, generator=generator)


def test_adapters_are_used_and_they_alone_are_trained(adapted: PreTrainedModel) -> None:
    batch, backbone = random_batch(5, 4, 3, 8, 2), Backbone(adapted)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        before = backbone.hidden(batch)
        turn_on(adapted)
        assert (backbone.hidden(batch) - before).abs().max() > 1e-2
    hidden = backbone.hidden(batch)
    (hidden * torch.linspace(-1, 1, hidden.shape[-1]) ** 3).sum().backward()  # a norm's plain sum is constant
    assert all(p.grad is not None and p.grad.abs().sum() > 1e-4 for n, p in adapted.named_parameters() if "lora_A" in n)


def test_saved_adapters_say_the_same_on_their_base_and_in_peft_itself(adapted: PreTrainedModel, tmp_path: Path) -> None:
    from peft import PeftConfig, PeftModel

    turn_on(adapted)
    batch = random_batch(5, 4, 3, 8, 2)
    for name in ("saved", "again"):
        save_model(adapted, tiny_models.tokenizer(), tmp_path / name)
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    for name in files:
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    named = PeftConfig.from_pretrained(str(tmp_path / "saved")).base_model_name_or_path
    assert named == str(tmp_path / "base")
    foreign = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(named), tmp_path / "saved").eval()
    kept, merged = (
        load_pretrained(ModelSettings(source=str(tmp_path / "saved"), lora_rank=rank))[0] for rank in (4, 0)
    )
    assert fingerprint(kept, tiny_models.tokenizer()) == fingerprint(adapted, tiny_models.tokenizer())
    assert not hasattr(merged, "peft_config")
    with torch.no_grad():
        before = Backbone(adapted).hidden(batch)
        assert torch.equal(Backbone(kept).hidden(batch), before)
        torch.testing.assert_close(plain(merged, batch), before, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(plain(foreign.get_base_model(), batch), before, rtol=1e-5, atol=1e-5)


def test_adapters_start_the_same_in_every_run(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    save_model(tiny_models.gpt2(), tiny_models.tokenizer(), tmp_path / "base")
    first, second = (
        load_pretrained(ModelSettings(source=str(tmp_path / "base"), lora_rank=4))[0].state_dict() for _ in range(2)
    )
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
