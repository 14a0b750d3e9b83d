"""SIGKILL at any place: the same command, given again, ends exactly as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from end_to_end import Kill, differences, leftovers, reference, run_small
from reflect_rl.players.agent import Agent
from reflect_rl.runs.folder import RunFolder

RENAME = "pathlib:Path.replace"
"""How every finished file or folder takes its place."""
FIT = "reflect_rl.training.fit:clip_and_step"
KILLS: list[tuple[str, Kill, dict[str, int]]] = [
    # (stage, where it dies, checkpoints that are then there with what they hold); each follows the one before it.
    ("collect", Kill("reflect_rl.data.collect:_episode", 20), {}),
    ("annotate", Kill("reflect_rl.data.annotate:Reflection", 30), {}),  # inside the second of its two files
    ("sft_reflector", Kill(FIT, 7), {"sft-reflector": 4}),
    ("sft_reflector", Kill("reflect_rl.training.sft:agreement"), {"sft-reflector": 8}),  # between model and figures
    ("sft_policy", Kill(FIT, 2 + 7), {"sft-policy": 4}),  # two more steps of the reflector come first
    ("sft_policy", Kill("reflect_rl.training.checkpoint:save_file", 2), {"sft-policy": 4}),  # half a checkpoint
    ("sft_policy", Kill("reflect_rl.players.policy:Policy.save", after=True), {"sft-policy": 8}),
    ("rl", Kill("reflect_rl.training.rl:update", 2), {"rl": 1}),
    ("rl", Kill(RENAME, where="/.rl."), {}),  # the old checkpoint is moved away, the new one not there yet
    ("rl", Kill("reflect_rl.players.policy:Policy.save", after=True), {"rl": 2}),
    ("evaluate", Kill("reflect_rl.evaluation.evaluate:play_together", 4), {}),
    ("evaluate", Kill(RENAME, where="/.results.json."), {}),
    ("report", Kill("reflect_rl.evaluation.report:render"), {}),
    ("report", Kill(RENAME, where="/.report.json."), {}),  # all but its manifest
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    return reference(tmp_path_factory)


def checkpoints(run: Path) -> dict[str, int]:
    return {path.parent.name: json.loads(path.read_text())["done"] for path in run.glob("checkpoints/*/state.json")}


def finish(run: Path, *more: str) -> str:
    ended = run_small(run, None, None, *more)
    assert ended.code == 0, ended.err
    assert leftovers(run) == []
    return ended.err


def test_a_run_killed_in_every_stage_ends_as_one_that_was_not(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number, (stage, kill, saved) in enumerate(KILLS):
        ended = run_small(run, kill=kill)
        assert ended.code == -9, f"{kill}: {ended}"
        assert (run / f"checkpoints/{stage}.key").exists(), f"{kill} did not hit {stage}"
        assert checkpoints(run) == saved, kill
        assert number == 0 or KILLS[number - 1][0] != stage or f"{stage}: continues" in ended.err
    assert "report: continues" in finish(run)
    assert differences(run, whole) == []


def test_a_run_killed_at_write_after_write_ends_as_one_that_was_not(whole: Path, tmp_path: Path) -> None:
    """The first process dies at its first write, the second at its second, until one has nothing left to write."""
    run = tmp_path / "run"
    codes = [run_small(run, kill=Kill(RENAME, 1)).code]
    while codes[-1] != 0:
        codes.append(run_small(run, kill=Kill(RENAME, len(codes) + 1)).code)
        assert len(codes) < 40
    assert len(codes) > 5
    assert set(codes[:-1]) == {-9}
    assert leftovers(run) == []
    assert differences(run, whole) == []


@pytest.fixture(scope="module")
def guarded(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run, continued with --guard."""
    run = tmp_path_factory.mktemp("guarded") / "run"
    shutil.copytree(whole, run)
    finish(run, "--guard")
    return run


def test_a_run_killed_in_the_guard_ends_as_one_that_was_not(whole: Path, guarded: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    kills = [
        Kill(FIT, 7),
        Kill("reflect_rl.training.rl:update", 2),
        Kill("reflect_rl.pipeline.guard:validation", 2),
        Kill(RENAME, where="/.guard.json."),
    ]
    for number, kill in enumerate(kills):
        ended = run_small(run, None, kill, "--guard")
        assert ended.code == -9, f"{kill}: {ended}"
        assert (run / "checkpoints/guard.key").exists()
        assert number == 0 or "guard: continues" in ended.err
    assert "guard: continues" in finish(run, "--guard")
    assert differences(run, guarded) == []


def test_a_guarded_agent_acts_wherever_its_files_were_taken_from(guarded: Path, tmp_path: Path) -> None:
    """A store of finished stages holds the guard's outputs alone, not the other arm's folder."""
    run = RunFolder(shutil.copytree(guarded, tmp_path / "run"))
    about = run.read_json("guard.json")
    run.write_json("guard.json", {**about, "kept": "no-reflection", "folder": "no-reflection"})
    for path in (run / "no-reflection").iterdir():
        if path.name != "policy":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    agent = Agent.load(run.path)
    decision = agent.act("P|x", ["left", "right", "take"])
    assert decision.reflection is None


def test_a_stage_that_runs_again_keeps_what_it_made_before_until_it_is_made_anew(whole: Path, tmp_path: Path) -> None:
    """Killed with other settings, then run with the old ones: nothing of the attempt is left over."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    kill = Kill("reflect_rl.training.rl:update", 2)
    assert run_small(run, {"rl.lr": 3e-3}, kill).code == -9
    former = run / "checkpoints/rl.former"
    assert (former / "policy/model.safetensors").read_bytes() == (whole / "policy/model.safetensors").read_bytes()
    finish(run)
    assert differences(run, whole) == []
