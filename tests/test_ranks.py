"""Several processes share a run, or a base model, and come to what one process comes to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny_models
from conftest import TINY, Heard
from ranks import RankError, in_ranks
from reflect_rl.config import parse_settings
from reflect_rl.errors import SettingsError
from reflect_rl.lm.pretrained import save_model
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.players.load import load_policy
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.ranks import Ranks
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training import fit as fit_module
from reflect_rl.training import update as update_module
from test_training_sft import KilledError, files

SHORT: dict[str, Any] = {
    "reflector_sft.steps": 12,
    "policy_sft.steps": 6,
    "policy_sft.text": "mix",
    "prompt.reflections": 1,
    "rl.baseline": "value",
    "rl.iterations": 2,
    "rl.episodes": 25,
    "rl.replay": 3,
    "evaluate.sampled_episodes": 1,
}
NO_REFLECTOR = {"reflector.kind": "none", "policy_sft.text": "teacher", "prompt.reflections": 0}


def settings_of(overrides: dict[str, Any]) -> Settings:
    return parse_settings({}, TINY | SHORT | overrides)


def run_through(out: Path, overrides: dict[str, Any]) -> list[str]:
    """All stages; returns the warnings of this process."""
    heard = Heard()
    run_pipeline(settings_of(overrides), out, heard, until="evaluate")
    return heard.warned


def assert_alike(one: RunFolder, other: RunFolder, settings: Settings, within: float) -> None:
    """Both runs did the same work on the same data, and came to the same weights up to rounding."""
    for name in ("episodes.jsonl", "action_labels.jsonl", "reflections.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    figures, same = one.read_json("reflector.json"), other.read_json("reflector.json")
    assert figures["loss"] == pytest.approx(same["loss"], rel=1e-3)
    assert figures["examples"] == same["examples"]
    (row, *_), (same_row, *_) = (run.read_jsonl("metrics.jsonl", dict) for run in (one, other))
    for key in ("episodes", "success", "return_mean", "steps_mean", "stop_reasons", "distinct_prompts"):
        assert row[key] == same_row[key]
    for key in ("loss", "grad_norm", "entropy", "kl"):
        assert row[key] == pytest.approx(same_row[key], rel=1e-2, abs=1e-5)
    for name in ("policy-sft", "policy"):
        policies = [load_policy(run / name, settings) for run in (one, other)]
        for weight, same_weight in zip(*(policy.parameters() for policy in policies), strict=True):
            assert (weight - same_weight).abs().max() < within


def test_two_processes_train_and_evaluate_what_one_does(tmp_path: Path) -> None:
    run_through(tmp_path / "one", {})
    in_ranks(run_through, tmp_path / "two", {})
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    assert_alike(one, two, settings_of({}), 5e-3)
    for run in (one, two):
        assert len(run.read_jsonl("evaluation.jsonl", dict)) == 4  # two shown episodes each, greedy and sampled
    assert not list(two.path.glob("checkpoints/*"))


def test_three_ranks_have_no_work_for_one_of_them(tmp_path: Path) -> None:
    few = {"policy_sft.batch": 2, "rl.minibatches": 100, "rl.iterations": 1, "rl.replay": 0, **NO_REFLECTOR}
    run_through(tmp_path / "one", few)
    in_ranks(run_through, tmp_path / "three", few, count=3)
    rows = [RunFolder(tmp_path / name).read_jsonl("metrics.jsonl", dict)[0] for name in ("one", "three")]
    for key in ("grad_norm", "loss", "kl", "success"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-2, abs=1e-5)


def until_killed(out: Path, steps: int) -> None:
    """Training up to RL, which dies on every rank after so many optimizer steps."""
    taken = 0
    step = fit_module.clip_and_step

    def dying(*given: Any) -> float:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise KilledError
        return step(*given)

    fit_module.SAVE_EVERY = 4
    fit_module.clip_and_step = update_module.clip_and_step = dying  # type: ignore[attr-defined]
    run_pipeline(settings_of({}), out, until="rl")


def test_killed_ranks_continue_from_their_checkpoint_with_the_same_bytes(tmp_path: Path) -> None:
    in_ranks(until_killed, tmp_path / "whole", 10**6)
    done = {"sft-reflector": 6, "rl": 8 + 6 + 8 + 3}  # the last: eight steps left, the policy's six, one iteration
    for name, steps in done.items():
        with pytest.raises(RankError, match="KilledError"):
            in_ranks(until_killed, tmp_path / "killed", steps)
        assert (tmp_path / "killed/checkpoints" / name / "state.json").exists()
    in_ranks(until_killed, tmp_path / "killed", 10**6)
    for name in ("reflector", "policy-sft", "policy"):
        assert files(tmp_path / "killed" / name) == files(tmp_path / "whole" / name)


def test_all_ranks_stop_at_a_number_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"Training stopped in rl, iteration 1: "):
        in_ranks(run_through, tmp_path / "two", {"rl.lr": 1e37, **NO_REFLECTOR})
    assert not (tmp_path / "two/policy").exists()
    assert not (tmp_path / "two/checkpoints/rl").exists()


def sums_of_gradients(_: Any = None) -> tuple[list[Any], int]:
    """Gradients after the exchange: of weights with a gradient on both ranks, on one, and on none."""
    ranks = Ranks.here()
    weights = [nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float32)]
    weights[0].grad = torch.tensor([1.0, 10.0]) * (ranks.rank + 1)
    if ranks.rank == 1:
        weights[1].grad = torch.tensor([5.0, 7.0], dtype=torch.bfloat16)
    ranks.sum_gradients(weights)
    return [None if w.grad is None else (w.grad.tolist(), str(w.grad.dtype)) for w in weights], ranks.count


def test_gradients_are_summed_and_a_weight_without_one_stays_without_one() -> None:
    summed = [([3.0, 30.0], "torch.float32"), ([5.0, 7.0], "torch.bfloat16"), None]
    assert in_ranks(sums_of_gradients) == [(summed, 2), (summed, 2)]


def test_one_process_exchanges_nothing() -> None:
    summed, count = sums_of_gradients()
    assert (summed, count) == ([([1.0, 10.0], "torch.float32"), None, None], 1)


@pytest.mark.parametrize(("items", "count"), [(7, 3), (2, 3), (6, 2), (0, 2), (5, 1)])
def test_shares_together_are_the_work(items: int, count: int) -> None:
    work = list(range(items))
    shares = [Ranks(rank, count).share(work) for rank in range(count)]
    assert sorted(item for share in shares for item in share) == work
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert Ranks(1, 2, alike=True).share(work) == work


def written_by(out: Path, overrides: dict[str, Any]) -> int:
    """How many texts this rank wrote in the warm-up of the reflector, and how many it was asked for."""
    written = 0
    write = LocalReflector._write

    def counted(reflector: LocalReflector, prompts: Any, sample: int, keep: Any) -> None:
        nonlocal written
        written += len(prompts)
        write(reflector, prompts, sample, keep)

    LocalReflector._write = counted  # type: ignore[method-assign]
    run_pipeline(settings_of(overrides), out, until="sft_reflector")
    return written


def test_each_reflection_is_written_by_one_rank(tmp_path: Path) -> None:
    counts = in_ranks(written_by, tmp_path / "two", {"prompt.reflections": 0, "annotate.holdout": 0.5})
    held_out = RunFolder(tmp_path / "two").read_json("reflector.json")["held_out"]
    assert sum(counts) == held_out > 10
    assert abs(counts[0] - counts[1]) <= 1


def out_of_memory_on_the_second(out: Path, overrides: dict[str, Any], most: int) -> list[str]:
    if os.environ["RANK"] == "1":
        tiny_models.little_memory(most)
    return run_through(out, overrides)


def test_one_rank_that_runs_out_of_memory_halves_its_passes_alone_and_says_so(tmp_path: Path) -> None:
    overrides = {"compute.exact": False, "compute.tokens": 1200, "rl.iterations": 1, **NO_REFLECTOR}
    first, second = in_ranks(out_of_memory_on_the_second, tmp_path / "two", overrides, 300)
    assert not [text for text in first if "memory" in text]
    assert [text for text in second if text.startswith("Rank 1: The device ran out of memory: from now on, a pass has")]
    run_through(tmp_path / "one", overrides)
    two, one = (RunFolder(tmp_path / name).read_jsonl("metrics.jsonl", dict)[0] for name in ("two", "one"))
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)


# A base model whose layers are shared


@pytest.fixture
def sharded(tmp_path: Path) -> dict[str, Any]:
    save_model(tiny_models.llama(), tiny_models.tokenizer(), tmp_path / "base")
    part = {"source": str(tmp_path / "base"), "lora_rank": 4}
    short = {"reflector_sft.steps": 3, "policy_sft.steps": 3, "rl.iterations": 1, "reflector.max_new_tokens": 3}
    return {"reflector.model": part, "policy.model": part, "compute.gradient_checkpointing": True, **short}


def held(out: Path, overrides: dict[str, Any]) -> tuple[int, int, int]:
    """Weights of the policy's layers: on this rank, in all, and those of its adapters here."""
    run_through(out, overrides)
    policy = load_policy(out / "policy", settings_of(overrides))
    named = [(name, weight) for name, weight in policy.model.named_parameters() if ".layers." in name]
    base = [getattr(weight, "_local_tensor", weight) for name, weight in named if "lora_" not in name]
    adapters = [weight for name, weight in named if "lora_" in name]
    whole = sum(weight.numel() for name, weight in named if "lora_" not in name)
    return sum(w.numel() for w in base), whole, sum(getattr(w, "_local_tensor", w).numel() for w in adapters)


def test_ranks_that_share_the_layers_come_to_what_one_process_does(sharded: dict[str, Any], tmp_path: Path) -> None:
    _, whole, adapters = held(tmp_path / "one", sharded)
    shares = in_ranks(held, tmp_path / "two", sharded | {"compute.shard": True})
    assert sum(share for share, _, _ in shares) == whole
    assert all(0.4 * whole < share < 0.6 * whole for share, _, _ in shares)
    assert {(every, own) for _, every, own in shares} == {(whole, adapters)}
    assert_alike(RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two"), settings_of(sharded), 1e-4)


def test_sharing_a_model_needs_several_processes(sharded: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is only one"):
        run_through(tmp_path / "one", sharded | {"compute.shard": True})
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("change", [{"lora_rank": 0}, {"bits": 4}, {"source": "scratch", "lora_rank": 0}])
def test_only_a_frozen_base_is_shared(change: dict[str, Any]) -> None:
    part = {"source": "a/model", "lora_rank": 4} | change
    with pytest.raises(SettingsError, match=r"compute\.shard shares the layers of a frozen base"):
        settings_of({"reflector.model": part, "policy.model": part, "compute.shard": True})
