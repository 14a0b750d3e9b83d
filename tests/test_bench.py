"""The benchmark: its plain side computes what the library computes, and its figures say what they claim."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny_models
from reflect_rl.bench import floor, plain, taxi
from reflect_rl.bench.prepare import MOST_ITERATIONS, Arm
from reflect_rl.errors import SettingsError
from reflect_rl.lm.backbone import Passes
from reflect_rl.lm.encoded import Encoded
from reflect_rl.players.context import Context
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.load import load_decisions, load_policy
from reflect_rl.players.reflector import NoReflector
from reflect_rl.progress import Progress
from reflect_rl.records import State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.advantages import advantages
from reflect_rl.training.losses import fold
from reflect_rl.training.rollout import Rollout
from reflect_rl.training.update import Learner, update

TinySettings = Callable[..., Settings]


@pytest.fixture
def arm(warmed: RunFolder, tiny: TinySettings) -> Arm:
    settings = tiny({"rl.epochs": 1, "rl.minibatches": 1, "rl.max_grad_norm": 1e9, "rl.warmup": 0})
    context = Context(settings)
    return Arm(context, load_decisions(warmed, context, load_policy(warmed / "policy-sft", settings)))


@pytest.fixture
def rollout(arm: Arm) -> Rollout:
    return arm.play(0)


def plain_policy(arm: Arm) -> plain.PlainPolicy:
    return plain.PlainPolicy.of(arm.policy, arm.prompts())


def test_plain_and_ours_give_the_same_choice_probabilities(arm: Arm, rollout: Rollout) -> None:
    with torch.no_grad():
        theirs_PN = plain_policy(arm).log_probs(rollout.prompts).exp()
    assert len({prompt.actions for prompt in rollout.prompts}) > 1
    torch.testing.assert_close(theirs_PN, torch.tensor(rollout.log_probs_PN).exp(), rtol=0, atol=1e-4)


def test_plain_and_ours_write_the_same_reflections(arm: Arm) -> None:
    assert arm.local is not None
    states = [State(*_start(arm, task)) for task in arm.context.world.tasks("train")]
    texts = plain.PlainReflector.of(arm.local).reflect(states)
    assert texts == arm.local.reflect(states)
    assert any(texts)


def _start(arm: Arm, task: str) -> tuple[str, tuple[str, ...]]:
    observation, info = arm.context.world.reset(seed=0, options={"task": task})
    return observation, info["actions"]


@pytest.mark.parametrize("reflects", [True, False])
def test_plain_and_ours_play_the_same_episodes(arm: Arm, reflects: bool) -> None:
    own = None if reflects else Decisions(arm.policy, NoReflector(), arm.prompts())
    ours = arm.play(0, own).trajectories
    reflector = plain.PlainReflector.of(arm.local) if reflects and arm.local else None
    theirs = plain.play(lambda: Context(arm.settings).make_env(), plain_policy(arm), reflector, arm.episodes(0))
    assert [episode.choices for episode in theirs] == [trajectory.choices for trajectory in ours]
    assert [episode.rewards for episode in theirs] == [trajectory.rewards for trajectory in ours]


def test_plain_and_ours_have_the_same_ppo_gradient(arm: Arm, rollout: Rollout) -> None:
    settings, policy = arm.settings, arm.policy
    advantage, returns = advantages(rollout, settings.rl)
    with torch.no_grad():  # away from the old policy, so that ratios differ from 1 and some are clipped
        for index, weight in enumerate(policy.parameters()):
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index))
    before = copy.deepcopy(dict(policy.model.named_parameters()))

    def gradient(work: Callable[[torch.optim.Optimizer], object]) -> dict[str, torch.Tensor]:
        policy.model.load_state_dict(before, strict=False)
        work(torch.optim.SGD(policy.parameters(), lr=1.0))
        return {name: (before[name] - weight).detach() for name, weight in policy.model.named_parameters()}

    def ours(optimizer: torch.optim.Optimizer) -> None:
        learner = Learner(policy, optimizer, settings.rl, settings.seed)
        update(learner, rollout, fold(rollout, advantage, returns, "cpu"), 0, entropy=0.1)

    def theirs(optimizer: torch.optim.Optimizer) -> None:
        samples = plain.samples_of(rollout, advantage)
        accumulating = plain.PlainPolicy.of(policy, arm.prompts(), most_rows=16)
        assert len(samples) > accumulating.most_rows
        plain.update(accumulating, optimizer, samples, settings.rl, settings.seed, entropy=0.1)

    mine, other = gradient(ours), gradient(theirs)
    assert max(float(part.abs().max()) for part in mine.values()) > 1e-2
    for name, part in mine.items():
        torch.testing.assert_close(part, other[name], rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module")
def result(tiny: TinySettings) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taxi, "REPEATS", 1)
        return taxi.bench(tiny({"reflector_sft.steps": 30, "rl.iterations": 1}).model_dump(), "cpu", Progress())


def test_ratios_are_the_quotients_of_the_rates(result: dict[str, Any]) -> None:
    assert set(result["ratios"]) == {"rollout_with_reflection", "rollout_without_reflection", "update"}
    for name, rate in result["rates"].items():
        assert rate["ours"] > 0
        assert rate["plain"] > 0
        assert result["ratios"][name] == rate["ours"] / rate["plain"]
    assert {rate["unit"] for rate in result["rates"].values()} == {"steps/s", "samples/s"}


def test_the_result_is_json_and_its_table_shows_every_ratio(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result))["ratios"] == result["ratios"]
    shown = taxi.bench_table(result)
    for name, ratio in result["ratios"].items():
        (line,) = [line for line in shown.splitlines() if line.startswith(name.replace("_", " "))]
        assert line.endswith(f"{ratio:,.0f}x")
    assert "of the matrix-multiplication floor" in shown


def test_what_was_prepared_says_how_long_its_texts_are(result: dict[str, Any]) -> None:
    assert 0 < result["texts"]["reflector_tokens_mean"] <= result["settings"]["reflector"]["max_new_tokens"]
    assert result["settings"]["rl"]["iterations"] <= MOST_ITERATIONS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_cuda_is_said_not_to_be_measured_and_refused_when_asked_for(
    result: dict[str, Any], tiny: TinySettings
) -> None:
    assert result["cuda"] == "not measured: no NVIDIA GPU here"
    with pytest.raises(SettingsError, match="cuda is not available here"):
        taxi.bench(tiny().model_dump(), "cuda", Progress())


@pytest.mark.parametrize("key", ["policy.head", "rl.algorithm", "reflector.kind", "rl.baseline"])
def test_settings_that_the_plain_side_does_not_know_are_refused(tiny: TinySettings, key: str) -> None:
    value = {
        "policy.head": "pointer", "rl.algorithm": "reinforce", "reflector.kind": "none", "rl.baseline": "value"
    }[key]  # fmt: skip
    extra: dict[str, Any] = {"rl.epochs": 1} if key == "rl.algorithm" else {}
    with pytest.raises(SettingsError, match=key):
        taxi.bench(tiny({key: value, **extra}).model_dump(), "cpu", Progress())


def test_the_large_policy_is_measured_as_the_small_one_is(arm: Arm, rollout: Rollout) -> None:
    """The path of --device cuda, with a small config of the same architecture."""
    config = floor.HALF_BILLION | {
        "hidden_size": 28, "num_hidden_layers": 2, "intermediate_size": 40, "vocab_size": len(arm.policy.tokenizer)
    }  # fmt: skip
    labels = arm.policy.labels or {}
    policy = floor.large_policy(arm.policy.tokenizer, labels, "cpu", Passes(), config=config)
    folded = fold(rollout, *advantages(rollout, arm.settings.rl), "cpu")
    figures = floor.measure(policy, rollout, folded, arm.settings)
    assert figures["dtype"] == "bfloat16"
    assert figures["distinct_prompts"] == len(rollout.prompts)
    for part in ("decisions", "update"):
        assert figures[part]["per_s"] > 0
        assert 0 < figures[part]["share_of_matmul_floor"] < 1.5
    visits_per_row = rollout.steps / len(rollout.prompts)
    assert figures["update"]["samples_per_s"] == pytest.approx(figures["update"]["per_s"] * visits_per_row)


def test_the_half_billion_config_is_that_size() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**floor.HALF_BILLION))
    assert 490e6 < sum(weight.numel() for weight in model.parameters()) < 500e6


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_the_floor_counts_what_torch_counts_where_nothing_can_be_saved(kind: str) -> None:
    model = tiny_models.gpt2() if kind == "gpt2" else tiny_models.llama("qwen2")
    model.set_attn_implementation("eager")
    vocabulary = model.config.vocab_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.tensor([[3]]), use_cache=False)
    row = Encoded((), (3,), (0,), 2)
    assert floor.Shapes.of(model).forward_flops([row], vocabulary) == counter.get_total_flops()


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_the_floor_is_below_a_full_forward_pass_and_sharing_lowers_it(kind: str) -> None:
    model = tiny_models.gpt2() if kind == "gpt2" else tiny_models.llama("qwen2")
    model.set_attn_implementation("eager")
    ids = tuple(range(3, 43))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.tensor([ids] * 4), use_cache=False)
    shapes = floor.Shapes.of(model)
    whole = shapes.forward_flops([Encoded((), ids, (39,), 2)] * 4, labels=6)
    shared = shapes.forward_flops([Encoded(ids[:20], ids[20:], (19,), 2)] * 4, labels=6)
    assert shared < whole < counter.get_total_flops()


def test_the_product_rate_counts_every_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 x rows x in x out for each layer; gradients take two more products of the same size."""
    monkeypatch.setattr(floor, "seconds", lambda work, device: (work(), 0.5)[1])
    layers, device = [(8, 24), (8, 32)], torch.device("cpu")
    forward = floor.product_rate(layers, 10, device, torch.float32)
    assert forward == 2 * 10 * 8 * (24 + 32) / 0.5
    assert floor.product_rate(layers, 10, device, torch.float32, backward=True) == 3 * forward
