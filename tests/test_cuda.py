"""On an NVIDIA GPU: the same decisions and reflections as on the CPU, runs that repeat, and memory that runs out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from conftest import Heard
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.encoded import Encoded
from reflect_rl.lm.models import fingerprint
from reflect_rl.lm.pretrained import load_pretrained, save_model
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_decisions, load_reflector
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ModelSettings, Settings
from reflect_rl.training.rl import rl
from reflect_rl.training.sft import sft_policy, sft_reflector
from reflect_rl.training.sft_losses import text_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
Tiny = Callable[..., Settings]
QUANTISED = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
BITS = [32, 16, pytest.param(8, marks=QUANTISED), pytest.param(4, marks=QUANTISED)]
SHORT: dict[str, Any] = {"reflector_sft.steps": 6, "policy_sft.steps": 6, "rl.iterations": 2}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "lookup", "llama", "qwen2"])
def test_a_policy_decides_as_on_the_cpu(kind: str, packed: bool) -> None:
    if packed and kind == "lookup":
        pytest.skip("lookup models are read in exact mode only")
    policy = tiny_models.policy(model=tiny_models.of_kind(kind), passes=Passes(packed, 600))
    prompts = tiny_models.prompts(policy)
    wanted = policy.log_probs(prompts)
    there = policy.to("cuda").log_probs(prompts)
    torch.testing.assert_close(there.cpu(), wanted, rtol=1e-3, atol=1e-4)


def adapters(tmp_path: Path, bits: int) -> dict[str, Any]:
    """Settings of players that are adapters on one base."""
    save_model(tiny_models.llama(width=64), tiny_models.tokenizer(), tmp_path / "base")
    part = {"source": str(tmp_path / "base"), "lora_rank": 2, "bits": bits}
    return {"reflector.model": part, "policy.model": part}


def trained(run: RunFolder, settings: Settings) -> str:
    """Train both players and the policy on; what tells the policy's weights."""
    for stage in (sft_reflector, sft_policy, rl):
        stage(run, Context(settings), Progress())
    policy = load_decisions(run, Context(settings)).policy
    return fingerprint(policy.model, policy.tokenizer)


@pytest.mark.parametrize("bits", [32, 16])
def test_gradients_of_adapters_are_those_of_the_cpu(bits: int, tmp_path: Path) -> None:
    """Heads as in SmolLM2, so that attention takes the kernels that it takes there."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_models.tokenizer()
    shape = {"hidden_size": 576, "intermediate_size": 256, "num_attention_heads": 9, "num_key_value_heads": 3}
    torch.manual_seed(0)
    config = LlamaConfig(num_hidden_layers=4, vocab_size=len(tokenizer), **shape)
    save_model(LlamaForCausalLM(config), tokenizer, tmp_path / "base")
    wanted, found = (adapter_gradients(tmp_path / "base", *how) for how in (("cpu", 32), ("cuda", bits)))
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        alike = torch.nn.functional.cosine_similarity(gradient.flatten(), found[name].flatten(), dim=0)
        assert alike > (0.9999 if bits == 32 else 0.98), f"{name}: {alike:.4f}"


def adapter_gradients(base: Path, device: str, bits: int) -> dict[str, torch.Tensor]:
    """Gradients of the loss of some texts in one packed pass."""
    model, _ = load_pretrained(ModelSettings(source=str(base), lora_rank=8, bits=bits), device, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.02)
    stem = torch.randint(3, 40, (60,), generator=draw).tolist()
    prompts = [(*stem, *torch.randint(3, 40, (30,), generator=draw).tolist()) for _ in range(5)]
    rows = [(Encoded((), prompt, tuple(range(84, 89)), 0), prompt[-5:]) for prompt in prompts]
    everyone = range(len(rows))
    for part in text_loss(Backbone(model, Passes(True, 4096)), rows, 0)(everyone, everyone):
        part.backward()
    return {name: weight.grad.float().cpu() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("bits", BITS)
def test_adapters_are_trained_and_a_second_run_ends_the_same(
    bits: int, pooled: RunFolder, tiny: Tiny, tmp_path: Path
) -> None:
    settings = tiny(SHORT | {"compute.device": "cuda"} | adapters(tmp_path, bits))
    again = RunFolder(shutil.copytree(pooled.path, tmp_path / "again"))
    assert trained(pooled, settings) == trained(again, settings)


@pytest.mark.parametrize("architecture", ["gpt2", "lookup"])
def test_players_from_scratch_are_trained_and_a_second_run_ends_the_same(
    architecture: str, pooled: RunFolder, tiny: Tiny, tmp_path: Path
) -> None:
    scratch = {f"{who}.model.architecture": architecture for who in ("reflector", "policy")}
    settings = tiny(SHORT | scratch | {"compute.device": "cuda"})
    again = RunFolder(shutil.copytree(pooled.path, tmp_path / "again"))
    assert trained(pooled, settings) == trained(again, settings)


@pytest.mark.parametrize("packed", [False, True])
def test_reflections_are_those_of_the_cpu(packed: bool, warmed: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    said = []
    for device in ("cpu", "cuda"):
        run = RunFolder(shutil.copytree(warmed.path, tmp_path / device))  # with a memo of its own
        settings = tiny({"compute.device": device, "compute.exact": not packed})
        said.append(load_reflector(run, Context(settings)).reflect(list(tiny_models.states())))
    assert said[0] == said[1]


def test_a_pass_that_does_not_fit_is_halved(heard: Heard) -> None:
    policy = tiny_models.policy(model=tiny_models.llama(width=64), passes=Passes(False, 2**20, progress=heard))
    prompts = tiny_models.prompts(policy)
    wanted = policy.to("cuda").log_probs(prompts)
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**25) / total)
    try:
        there = policy.log_probs(prompts * 32)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(there[: len(prompts)], wanted, rtol=1e-3, atol=1e-4)
    assert heard.warned
    assert heard.warned[0].startswith("The device ran out of memory: from now on, a pass has at most")
