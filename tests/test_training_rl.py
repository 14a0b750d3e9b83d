"""Online RL: it learns, it is repeatable to the bit, and it continues where it was killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from conftest import Heard
from corridor import Corridor
from reflect_rl.data.annotate import annotate
from reflect_rl.data.collect import collect
from reflect_rl.lm.forward import Forward
from reflect_rl.players.context import Context
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import NoReflector
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import PromptSettings, RlSettings, Settings
from reflect_rl.training.advantages import advantages
from reflect_rl.training.best import BestWeights
from reflect_rl.training.losses import fold, kl_P
from reflect_rl.training.rl import rl
from reflect_rl.training.rollout import EpisodeSpec, Rollout, play_episodes
from reflect_rl.training.sft import sft_policy
from reflect_rl.training.update import Learner, clip_fraction, drift, update
from test_training_sft import KilledError, Killer, files

Tiny = Callable[..., Settings]

ARMS: dict[str, dict[str, Any]] = {
    "ppo+state": {"rl.baseline": "state"},
    "ppo+value": {"rl.baseline": "value", "rl.curriculum": "mix"},
    "reinforce+replay": {
        "rl.algorithm": "reinforce",
        "rl.baseline": "task",
        "rl.replay": 5,
        "policy.gated_mixture": True,
    },
    "best": {"rl.baseline": "state", "rl.keep": "best", "rl.validate_every": 1, "rl.lr": 0.02},
    "packed": {"rl.baseline": "state", "compute.exact": False, "compute.tokens": 300},
}


SKILLED = {"reflector.kind": "scripted", "env.options": {}, "policy_sft.steps": 120, "policy_sft.lr": 8e-3}


def outcome(run: RunFolder) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The policy's files and the metrics, times aside."""
    metrics = run.read_jsonl("metrics.jsonl", dict)
    return files(run / "policy"), [{k: v for k, v in row.items() if k != "seconds"} for row in metrics]


def start(warmed: RunFolder, settings: Settings) -> RunFolder:
    """The arms with a value head or a hedge need a warm-up that has one."""
    if settings.rl.baseline == "value" or settings.policy.gated_mixture:
        sft_policy(warmed, Context(settings), Progress())
    return warmed


@pytest.mark.parametrize("arm", ARMS)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    warmed: RunFolder, tiny: Tiny, tmp_path: Path, arm: str
) -> None:
    settings = tiny(ARMS[arm])
    start(warmed, settings)
    whole = RunFolder(shutil.copytree(warmed.path, tmp_path / "whole"))
    counts = rl(whole, Context(settings), Progress())
    for done in (1, 2):
        with pytest.raises(KilledError):
            rl(warmed, Context(settings), Killer(0))
        assert warmed.read_json("checkpoints/rl/state.json")["done"] == done
    (warmed / "reflections.sqlite").unlink()
    torch.manual_seed(7)
    assert rl(warmed, Context(settings), Progress()) == counts
    assert outcome(warmed) == outcome(whole)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    warmed: RunFolder, tiny: Tiny, tmp_path: Path
) -> None:
    made = []
    for name, seed, slots in (("one", 0, 16), ("same", 0, 3), ("other", 1, 16)):
        run = RunFolder(shutil.copytree(warmed.path, tmp_path / name))
        rl(run, Context(tiny({"seed": seed, "rl.num_envs": slots, "rl.iterations": 2})), Progress())
        made.append(outcome(run))
    one, same, other = made
    assert one == same
    assert one[0]["model.safetensors"] != other[0]["model.safetensors"]


def test_checkpoints_may_be_rarer_than_iterations(warmed: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny({"rl.checkpoint_every": 2})
    whole = RunFolder(shutil.copytree(warmed.path, tmp_path / "whole"))
    rl(whole, Context(settings), Progress())
    with pytest.raises(KilledError):
        rl(warmed, Context(settings), Killer(2))
    rl(warmed, Context(settings), Progress())
    assert outcome(warmed) == outcome(whole)


@pytest.mark.parametrize("arm", ["ppo+state", "ppo+value", "reinforce+replay"])
def test_rl_makes_a_weak_policy_better(tiny: Tiny, arm: str, tmp_path: Path) -> None:
    learning = {
        "reflector.kind": "scripted",
        "env.options": {},
        "policy_sft.steps": 40,
        "policy_sft.lr": 8e-3,
        "rl.iterations": 16 if arm == "reinforce+replay" else 7,
        "rl.episodes": 64,
        "rl.lr": 5e-3,
        "rl.entropy": 0.02,
        "rl.validate_every": 20,
        "rl.checkpoint_every": 20,
        "policy.gated_mixture": False,
        "rl.curriculum": "none",
    }
    settings, run = tiny(ARMS[arm] | learning), RunFolder(tmp_path)
    for stage in (collect, annotate, sft_policy, rl):
        stage(run, Context(settings), Progress())
    rows = run.read_jsonl("metrics.jsonl", dict)
    success = [row["success"] for row in rows]
    assert success[0] < 0.6
    assert sum(success[-3:]) / 3 > success[0] + 0.25
    assert rows[-1]["return_mean"] > rows[0]["return_mean"]


def test_rl_that_does_harm_hands_on_the_policy_of_sft(tiny: Tiny, heard: Heard, tmp_path: Path) -> None:
    harmful = {"rl.keep": "best", "rl.validate_every": 1, "rl.lr": 1.0, "rl.warmup": 0, "rl.episodes": 32}
    settings = tiny(harmful | SKILLED)
    run = RunFolder(tmp_path)
    for stage in (collect, annotate, sft_policy):
        stage(run, Context(settings), Progress())
    kept = rl(run, Context(settings), heard)["kept"]
    valid = [row["valid_success"] for row in run.read_jsonl("metrics.jsonl", dict)]
    assert max(valid) < kept["valid_success"]
    assert kept["iterations"] == 0
    assert files(run / "policy")["model.safetensors"] == files(run / "policy-sft")["model.safetensors"]
    assert heard.said[-1] == "rl.keep: best: the policy after 0 of 3 iterations is kept."


def test_without_iterations_nothing_is_chosen(warmed: RunFolder, tiny: Tiny, heard: Heard) -> None:
    assert rl(warmed, Context(tiny({"rl.keep": "best", "rl.iterations": 0})), heard)["kept"] is None
    assert not heard.said


def test_of_equally_good_weights_the_latest_are_the_best() -> None:
    module, asked = torch.nn.Linear(1, 1, bias=False), [0.5, 0.7, 0.7, 0.6]
    best = BestWeights(module)
    for iterations, success in enumerate(asked):
        torch.nn.init.constant_(module.weight, iterations)
        best.offer(iterations, success)
    best.restore()
    assert module.weight.item() == 2
    assert best.figures() == {"iterations": 2, "valid_success": 0.7}


def test_a_line_of_metrics_says_what_happened(warmed: RunFolder, tiny: Tiny) -> None:
    counts = rl(warmed, Context(tiny()), Progress())
    rows = warmed.read_jsonl("metrics.jsonl", dict)
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert [row["valid_success"] is None for row in rows] == [True, False, False]
    for row in rows:
        assert row["episodes"] == 16 == sum(row["stop_reasons"].values())
        assert 0 < row["distinct_prompts"] <= row["env_steps"] == round(row["steps_mean"] * 16)
        assert row["kl"] > 0
        assert 0 < row["entropy"] < 1.1
        assert row["grad_norm"] > 0
        assert 0 <= row["clip_fraction"] <= 1
    assert [row["lr"] for row in rows] == pytest.approx([5e-4, 2.75e-4, 5e-5])
    assert counts["env_steps"] == sum(row["env_steps"] for row in rows)
    assert files(warmed / "policy")["model.safetensors"] != files(warmed / "policy-sft")["model.safetensors"]


def test_no_iterations_leave_the_policy_as_it_was(warmed: RunFolder, tiny: Tiny) -> None:
    assert rl(warmed, Context(tiny({"rl.iterations": 0})), Progress())["success"] is None
    assert files(warmed / "policy")["model.safetensors"] == files(warmed / "policy-sft")["model.safetensors"]


# One update


def played() -> tuple[Rollout, Any]:
    policy = tiny_models.policy(value=True)
    assert policy.labels is not None
    prompts = PromptBuilder(Corridor.task_text, PromptSettings(), list(policy.labels), policy.count)
    specs = [EpisodeSpec(task, n) for n, task in enumerate(Corridor().tasks("train") * 2)]
    return play_episodes(Corridor, Decisions(policy, NoReflector(), prompts), specs, 16), policy


def updated(settings: RlSettings) -> tuple[list[torch.Tensor], dict[str, float], int]:
    rollout, policy = played()
    advantage, returns = advantages(rollout, settings)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)  # linear in the gradient: shows what it was
    learner = Learner(policy, optimizer, settings, seed=0)
    figures = update(learner, rollout, fold(rollout, advantage, returns, "cpu"), 0, 0.01)
    return [weight.detach().clone() for weight in policy.parameters()], figures, len(rollout.prompts)


def in_slices(rows: int, most: int) -> list[list[int]]:
    return [list(range(first, min(first + most, rows))) for first in range(0, rows, most)]


@pytest.mark.parametrize("most", [1, 7])
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_accumulating_gradients_changes_nothing_but_rounding(
    monkeypatch: pytest.MonkeyPatch, most: int, algorithm: Any
) -> None:
    settings = RlSettings.model_validate(
        {"algorithm": algorithm, "baseline": "value", "minibatches": 2, "max_grad_norm": 0.5}
    )
    at_once, figures, _ = updated(settings)
    monkeypatch.setattr(Forward, "parts", lambda self, rows: in_slices(len(rows), most))
    in_parts, same_figures, _ = updated(settings)
    for one, other in zip(at_once, in_parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert figures == pytest.approx(same_figures, rel=1e-3, abs=1e-5)


def test_more_minibatches_than_prompts_make_no_empty_step() -> None:
    weights, figures, prompts = updated(RlSettings(baseline="state", minibatches=10_000, epochs=1))
    as_many, same_figures, _ = updated(RlSettings(baseline="state", minibatches=prompts, epochs=1))
    assert figures == same_figures
    assert all(torch.equal(one, other) for one, other in zip(weights, as_many, strict=True))


def test_the_first_step_of_ppo_is_that_of_reinforce() -> None:
    """At the old policy the ratio is 1, so both have the same gradient."""
    one = updated(RlSettings(algorithm="ppo", baseline="state", epochs=1, minibatches=1, max_grad_norm=1e9))
    other = updated(RlSettings(algorithm="reinforce", baseline="state", epochs=1, max_grad_norm=1e9))
    for weight, same in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(weight, same, rtol=1e-3, atol=1e-5)


def test_the_reference_pulls_towards_it_and_nothing_else_does_at_it() -> None:
    """With no other gradient the step goes towards the reference; at the reference itself there is none."""
    rollout, policy = played()
    settings = RlSettings(baseline="state", epochs=1, minibatches=1, reference_kl=1.0, warmup=0, max_grad_norm=1e9)
    nothing = [np.zeros(len(t.rows)) for t in rollout.trajectories]
    folded = fold(rollout, nothing, nothing, "cpu")
    before = [weight.detach().clone() for weight in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.02)
    at_it = replace(folded, reference_PN=folded.old_PN)
    update(Learner(policy, optimizer, settings, 0), rollout, at_it, 0, 0.0)
    assert drift(at_it, policy.log_probs(rollout.prompts))["kl_sft"] < 1e-6
    for weight, old in zip(policy.parameters(), before, strict=True):
        torch.testing.assert_close(weight.detach(), old, rtol=0, atol=1e-5)
    away = torch.where(torch.isfinite(folded.old_PN), torch.randn(folded.old_PN.shape), folded.old_PN).log_softmax(-1)
    weight_P = folded.visits_P / folded.visits_P.sum()
    distance = float((weight_P * kl_P(folded.old_PN, away)).sum())
    from_it = replace(folded, reference_PN=away)
    update(Learner(policy, optimizer, settings, 0), rollout, from_it, 0, 0.0)
    assert drift(from_it, policy.log_probs(rollout.prompts))["kl_sft"] < distance


@pytest.mark.parametrize("clip", [0.05, 0.2, 0.6])
def test_the_clip_fraction_is_that_of_the_single_visits(clip: float) -> None:
    rollout, policy = played()
    assert clip_fraction(rollout, policy.log_probs(rollout.prompts), clip) == 0
    new_PN = (torch.from_numpy(rollout.log_probs_PN) + 0.4 * torch.randn(rollout.log_probs_PN.shape)).log_softmax(-1)
    outside = [
        not 1 - clip <= float((new_PN[row, choice] - rollout.log_probs_PN[row, choice]).exp()) <= 1 + clip
        for t in rollout.trajectories
        for row, choice in zip(t.rows, t.choices, strict=True)
    ]
    assert clip_fraction(rollout, new_PN, clip) == pytest.approx(sum(outside) / rollout.steps)
    assert 0 < sum(outside) < rollout.steps


def test_larger_steps_leave_more_choices_outside_the_clipping_range(warmed: RunFolder, tiny: Tiny) -> None:
    fractions = []
    for lr in (1e-6, 3e-2):
        rl(warmed, Context(tiny({"rl.iterations": 1, "rl.lr": lr, "rl.epochs": 4})), Progress())
        fractions.append(warmed.read_jsonl("metrics.jsonl", dict)[0]["clip_fraction"])
        shutil.rmtree(warmed / "checkpoints/rl")
    assert fractions[0] == 0
    assert 0.05 < fractions[1] <= 1


def test_reinforce_clips_nothing_and_says_nothing_of_it(warmed: RunFolder, tiny: Tiny) -> None:
    rl(warmed, Context(tiny({"rl.algorithm": "reinforce", "rl.iterations": 1})), Progress())
    assert "clip_fraction" not in warmed.read_jsonl("metrics.jsonl", dict)[0]
