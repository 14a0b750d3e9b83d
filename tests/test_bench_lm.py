"""`bench lm`: both sides compute the same, its figures say what they claim, and a missing peer is skipped."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import tiny_models
from reflect_rl.bench import floor, lm_parts, peer_trl
from reflect_rl.bench.corridor import Corridor
from reflect_rl.bench.lm import bench_lm, lm_settings, lm_table, ratios_of
from reflect_rl.bench.lm_parts import Sides, taxi_prompts, visited_once
from reflect_rl.bench.plain import samples_of
from reflect_rl.envs.checked import advance, begin
from reflect_rl.errors import SettingsError
from reflect_rl.lm import adapters
from reflect_rl.lm.encoded import Encoded
from reflect_rl.lm.pretrained import save_model
from reflect_rl.memory import forget_peak_memory, peak_memory_mb
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.settings import Settings

README_WORLD = Path(__file__).parents[1] / "examples" / "my_environment.py"
ADAPTED = ("lora_A", "lora_B")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pretrained model of random weights that can read the prompts of DangerousTaxi."""
    path = tmp_path_factory.mktemp("models") / "llama"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "CONTEXT", 1024)
        save_model(tiny_models.llama(), tiny_models.tokenizer(), path)
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def _few_prompts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lm_parts.TAXI, "collect.episodes", 12)
        yield


@pytest.fixture(scope="module")
def settings(folder: str) -> Settings:
    return lm_settings(folder, {"compute.threads": 1, "rl.max_grad_norm": 1e9, "rl.warmup": 0})


@pytest.fixture
def sides(settings: Settings) -> Sides:
    """Both sides of one model, whose adapters are not those that change nothing."""
    made = Sides.load(settings, Progress())
    with torch.no_grad():
        for index, (name, weight) in enumerate(made.policy.named_parameters()):
            if any(part in name for part in ADAPTED):
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index))
    return made


def test_both_sides_have_the_same_log_probabilities(sides: Sides) -> None:
    prompts = taxi_prompts(sides)
    with torch.no_grad():
        theirs_PN = sides.plain.log_probs(prompts)
    assert sides.policy.backbone.passes.packed
    assert float(theirs_PN.std()) > 0.01
    torch.testing.assert_close(sides.policy.log_probs(prompts), theirs_PN, rtol=0, atol=1e-4)


def test_both_sides_have_the_same_gradients(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_parts, "make_optimizer", lambda policy, **_: torch.optim.SGD(policy.parameters(), lr=1.0))
    weights = {name: w for name, w in sides.policy.named_parameters() if w.requires_grad}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    rollout, estimates = visited_once(taxi_prompts(sides), seed=0)
    assert len(rollout.prompts) > sides.plain.most_rows

    def gradient(work: Callable[[], object]) -> dict[str, torch.Tensor]:
        work()
        taken = {name: before[name] - weight.detach() for name, weight in weights.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
        return taken

    ours = gradient(lambda: sides.learn(rollout, estimates, estimates))
    theirs = gradient(lambda: sides.learn_plainly(samples_of(rollout, estimates)))
    assert all(any(part in name for part in ADAPTED) for name in ours)
    assert max(float(part.abs().max()) for part in ours.values()) > 1e-3
    for name, part in ours.items():
        torch.testing.assert_close(part, theirs[name], rtol=0, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module")
def result(settings: Settings) -> dict[str, Any]:
    def peer(asked: Settings, episodes: int) -> dict[str, Any]:
        assert asked == settings
        return {"library": "other 1.0", "episodes": episodes, "steps_per_s": 2.0, "peak_mb": 900.0}

    return bench_lm(settings, Progress(), [2, 6], peer)


def test_ratios_are_the_quotients_of_the_figures(result: dict[str, Any]) -> None:
    ratios, ours = result["ratios"], result["iteration"]["ours"]
    peers = {"peer_iteration_2", "peer_iteration_6", "peer_memory"}
    assert set(ratios) == {"evaluate", "update", "decision", "iteration", "iteration_6", "memory", *peers}
    for name in ("evaluate", "update"):
        assert ratios[name] == result[name]["ours"] / result[name]["plain"]
        assert 0 < result[name]["floor"]["tokens_once"] < result[name]["floor"]["tokens"]
        assert 0 < result[name]["floor"]["share_of_matmul_floor"] < 1
    assert ratios["decision"] == result["decision"]["plain"] / result["decision"]["ours"]
    assert ratios["iteration_6"] == ours["6"]["steps_per_s"] / result["iteration"]["plain"]["steps_per_s"]
    assert ratios["peer_iteration_6"] == ours["6"]["steps_per_s"] / 2.0
    assert ours["6"]["steps"] > ours["2"]["steps"] >= result["iteration"]["plain"]["steps"] > 0


def test_the_result_is_json_and_its_table_shows_every_ratio(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    shown = lm_table(result)
    assert shown.count("x\n") + shown.count("x  ") == len(result["ratios"])
    assert "of the matrix-multiplication floor" in shown
    assert "(not measured at 6: its rate is assumed)" in shown
    assert result["model"] | {"source": ""} == {
        "source": "", "parameters": 17_968, "trained": 3_712, "bits": 32, "forward": "packed"
    }  # fmt: skip


def test_measuring_leaves_the_weights_as_they_were(sides: Sides) -> None:
    before = {name: weight.clone() for name, weight in sides.policy.state_dict().items()}
    lm_parts.measure_update(sides, taxi_prompts(sides))
    assert all(torch.equal(weight, before[name]) for name, weight in sides.policy.state_dict().items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_cuda_is_said_not_to_be_measured_and_refused(result: dict[str, Any], folder: str) -> None:
    assert result["cuda"] == "not measured: no NVIDIA GPU here"
    asked = lm_settings(folder, {}, "cuda")
    assert asked.policy.model.bits == 16
    with pytest.raises(SettingsError, match="cuda is not available here"):
        bench_lm(asked, Progress())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("policy.head", "pointer"),
        ("rl.algorithm", "reinforce"),
        ("rl.baseline", "value"),
        ("reflector.kind", "scripted"),
    ],
)
def test_settings_that_the_plain_side_does_not_know_are_refused(folder: str, key: str, value: str) -> None:
    with pytest.raises(SettingsError, match=key):
        lm_settings(folder, {key: value})


def test_a_peer_that_is_not_there_is_skipped_with_its_reason(
    settings: Settings, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    skipped = {**result, "peer": peer_trl.measure(settings, 16)}
    assert "`make trl`" in skipped["peer"]["skipped"]
    assert "peer: not measured: there is no .venv-trl" in lm_table(skipped)
    assert not any(name.startswith("peer") for name in ratios_of(skipped))


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the libraries of the peer are here")
def test_a_peer_that_fails_is_skipped_with_its_last_words(settings: Settings) -> None:
    told = peer_trl.measure(settings, 16, sys.executable)["skipped"]
    assert "exit code 1" in told
    assert "No module named 'datasets'" in told


def test_transcripts_of_the_peer_have_the_log_probabilities_of_whole_sequences(settings: Settings) -> None:
    """The growing cache, with padding inside, changes nothing."""
    policy = Sides.load(settings, Progress()).policy
    context = Context(settings)
    rollout = peer_trl.Rollout(context, policy.tokenizer, "cpu")
    trainer = SimpleNamespace(model=policy.model, accelerator=SimpleNamespace(unwrap_model=lambda model: model))
    tasks = ["you0-key1-door2", "you7-key3-door0", "you7-key3-door0"]
    played = rollout(tasks, trainer)
    assert rollout.steps == sum(map(sum, played["env_mask"])) > len(tasks) * 10
    for prompt, completion, mask, log_probs in zip(
        *(played[name] for name in ("prompt_ids", "completion_ids", "env_mask", "logprobs")), strict=True
    ):
        with torch.no_grad():
            logits_LV = policy.model(input_ids=torch.tensor([prompt + completion])).logits[0]
        chosen = [place for place, is_label in enumerate(mask) if is_label]
        labels = list(rollout.labels.values())[: len(Corridor.actions)]
        whole_TN = logits_LV[[len(prompt) + place - 1 for place in chosen]][:, labels].log_softmax(-1)
        taken = [float(row_N[labels.index(completion[place])]) for place, row_N in zip(chosen, whole_TN, strict=True)]
        np.testing.assert_allclose([log_probs[place] for place in chosen], taken, atol=1e-5)
        assert all(mask[place] or not log_probs[place] for place in range(len(mask)))


def test_the_world_is_the_corridor_of_the_readme() -> None:
    one, other = Corridor(), runpy.run_path(str(README_WORLD))["Corridor"]()
    assert (one.task_text, one.actions) == (other.task_text, other.actions)
    assert all(one.tasks(split) == other.tasks(split) for split in ("train", "valid", "test"))
    random = np.random.default_rng(0)
    for task in one.tasks("train")[::10]:
        assert begin(one, 0, {"task": task}) == begin(other, 0, {"task": task})
        stop = None
        while stop is None:
            choice = int(random.integers(4))
            here, there = advance(one, choice), advance(other, choice)
            assert here == there
            stop = here[-1]


def test_what_has_to_be_read_of_rows_without_more_in_common_is_their_prefix_and_rests() -> None:
    rows = [Encoded((1, 2, 3), (number, 9, 9), (2,), 2) for number in (4, 5, 6)]
    assert floor.Reading.as_trie(rows) == floor.Reading.with_prefix(rows)
    shared = [Encoded((1, 2, 3), (4, number), (1,), 2) for number in (5, 6)]
    assert floor.Reading.as_trie(shared) == floor.Reading(tokens=6, pairs=1 + 2 + 3 + 4 + 5 + 5, cues=2, cue_pairs=10)


def test_adapters_do_not_change_the_shapes_of_a_model() -> None:
    plain: PreTrainedModel = tiny_models.llama()
    shapes = floor.Shapes.of(plain)
    assert floor.Shapes.of(adapters.attach(plain, adapters.fresh_config(4), "", 0)) == shapes  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks can be forgotten on Linux only")
def test_a_peak_of_memory_can_be_forgotten() -> None:
    filled = np.ones(2**25)  # 268 MB
    peak = peak_memory_mb()
    del filled
    assert forget_peak_memory()
    assert peak_memory_mb() < peak - 200
