"""The same seed gives the same bytes, wherever, however often and however many at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from end_to_end import contents, differences, options, reflect_rl, run_small

MADE = ("episodes.jsonl", "reflections.jsonl", "reflector/model.safetensors", "policy/model.safetensors")


def test_another_process_in_another_folder_makes_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """The command as it is, with other hashes and without the checkpoints that the reference made on its way."""
    command = [sys.executable, "-m", "reflect_rl", "run", "taxi", "--out", "elsewhere/mine", *options()]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "HOME": str(tmp_path)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert differences(tmp_path / "elsewhere/mine", whole) == []


def test_a_launchers_processes_share_training_and_evaluation(whole: Path, tmp_path: Path) -> None:
    """The first does the other stages while the second waits; gradients are summed in another order, and so rounded."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*launcher, "-m", "reflect_rl", "run", "taxi", "--out", str(tmp_path / "run"), *options()]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if "EADDR" in ended.stderr or ("gloo" in ended.stderr.lower() and "not available" in ended.stderr):
        pytest.skip("this machine lets no two processes talk to each other")
    assert ended.returncode == 0, ended.stderr[-3000:]
    rounded = ("reflector/", "reflector.json", "policy-sft/", "sft-", "policy/", "metrics.jsonl")
    rounded += ("evaluation.jsonl", "results.json", "report.html", "manifests/")
    assert [name for name in differences(tmp_path / "run", whole) if not name.startswith(rounded)] == []
    losses = [json.loads((run / "reflector.json").read_text())["loss"] for run in (tmp_path / "run", whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_another_seed_makes_others(whole: Path, tmp_path: Path) -> None:
    ended = run_small(tmp_path / "run", {"seed": 1}, None, "--until", "rl")
    assert ended.code == 0, ended.err
    one, other = contents(whole), contents(tmp_path / "run")
    assert [name for name in (*MADE, "metrics.jsonl") if one[name] == other[name]] == []


def test_the_number_of_slots_changes_nothing(whole: Path, run: Path) -> None:
    ended = run_small(run, {"rl.num_envs": 7})
    assert "rl: runs again (rl.num_envs: 512 -> 7)" in ended.err
    assert ended.code == 0, ended.err
    says_slots = ["config.yaml", "manifests/report.json", "manifests/rl.json", "report.html"]
    assert [name for name in differences(run, whole) if name not in says_slots] == []


def test_the_memo_only_saves_time(whole: Path, run: Path) -> None:
    for stage in ("rl", "evaluate"):
        for path in run.glob("reflections.sqlite*"):
            path.unlink()
        ended = reflect_rl(stage, str(run), "--force")
        assert ended.code == 0, ended.err
        assert f"{stage}: runs again (asked to)" in ended.err
    assert reflect_rl("report", str(run)).code == 0
    assert differences(run, whole) == []


def test_a_run_in_pieces_equals_one_in_one_go(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_small(run, None, None, "--until", "collect").code == 0
    for command in ("annotate", "sft", "rl", "evaluate", "report"):
        ended = reflect_rl(command, str(run))
        assert ended.code == 0, ended.err
    assert differences(run, whole) == []
