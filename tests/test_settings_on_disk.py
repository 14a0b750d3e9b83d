"""What acts and is measured has the settings that it was trained with, whatever config.yaml says by now."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import Heard
from end_to_end import SMALL, Kill, contents, differences, options, reflect_rl, refused, run_small
from reflect_rl.__main__ import run_command
from reflect_rl.config import load_settings
from reflect_rl.errors import RunFolderError
from reflect_rl.players.agent import Agent
from reflect_rl.training import sft

SMALLER: dict[str, Any] = {"policy.model.width": 8}
OTHER_REFLECTOR = {"reflector_sft.lr": 1e-2}
FEWER_LABELS = {"annotate.actions": 20}


def interrupted(run: Path, overrides: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`reflect-rl run` with other settings, and Ctrl-C in the policy's SFT (`fit` is called for it last)."""
    real = sft.fit

    def fit(*given: Any, **more: Any) -> Any:
        if "policy" in given:
            raise KeyboardInterrupt
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(sft, "fit", fit)
        assert run_command(["run", "taxi", "--out", str(run), *options(overrides)]) == 130


def results(run: Path) -> Any:
    return contents(run)["results.json"]


def test_after_an_interrupted_run_the_agent_that_is_there_is_measured_as_it_was_trained(
    whole: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], heard: Heard
) -> None:
    interrupted(run, SMALLER, monkeypatch)
    capsys.readouterr()
    assert run_command(["evaluate", str(run), "--force"]) == 0
    assert "policy.model.width: 16 (config.yaml: 8)" in capsys.readouterr().err
    assert results(run) == results(whole)
    assert Agent.load(run, heard).settings.policy.model.width == 16
    assert ["policy.model.width: 16 (config.yaml: 8)" in text for text in heard.warned] == [True]
    assert run_command(["report", str(run), "--force"]) == 0
    assert contents(run)["report.html"]["settings"] == contents(whole)["report.html"]["settings"]
    assert load_settings(run / "config.yaml").policy.model.width == 8  # what was begun is still to be finished
    assert run_command(["run", "taxi", "--out", str(run), *options(SMALLER)]) == 0
    assert "sft_policy: continues" in capsys.readouterr().err
    assert Agent.load(run).settings.policy.model.width == 8
    assert run_small(run).code == 0
    assert differences(run, whole) == []


def test_a_policy_without_the_reflector_that_it_was_trained_with_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(run, OTHER_REFLECTOR, monkeypatch)
    before = contents(run)
    for command in (["evaluate", str(run)], ["evaluate", str(run), "--out", str(run.with_name("copy"))]):
        capsys.readouterr()
        assert run_command(command) == 2
        shown = capsys.readouterr().err
        assert f"{run / 'reflector'} is not the reflector that policy/ beside it was trained with" in shown
        assert f"reflect-rl run RECIPE --out {run}" in shown
    with pytest.raises(RunFolderError, match="is not the reflector that policy/"):
        Agent.load(run)
    assert contents(run) == before
    assert not run.with_name("copy").exists()
    assert run_command(["run", "taxi", "--out", str(run), *options(OTHER_REFLECTOR)]) == 0
    assert Agent.load(run).settings.reflector_sft.lr == 1e-2


def test_labels_that_the_policy_never_saw_are_not_counted_as_spent(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(run, FEWER_LABELS, monkeypatch)
    before = results(run)
    assert run_command(["evaluate", str(run), "--force"]) == 2
    assert "Other labels were bought since" in capsys.readouterr().err
    assert results(run) == before
    assert Agent.load(run).settings.policy_sft.steps == SMALL["policy_sft.steps"]


@pytest.mark.parametrize(
    "where", [Kill("reflect_rl.training.rl:update", 2), Kill("pathlib:Path.replace", where="/.rl.json.")]
)
def test_a_policy_whose_training_was_killed_is_refused(run: Path, where: Kill) -> None:
    """Before the new policy is there, and when all but its manifest is."""
    assert run_small(run, {"rl.lr": 3e-3}, where).code == -9
    refused(reflect_rl("evaluate", str(run)), "policy", f"{run}")
    with pytest.raises(RunFolderError, match="interrupted"):
        Agent.load(run)


def test_what_evaluate_is_told_counts_for_the_measurement_alone(
    whole: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["evaluate", str(run), "--env.horizon", "3"]) == 0
    assert results(run)["horizon"] == 3
    assert Agent.load(run).settings.env.horizon == 20
    assert Agent.load(run).world.horizon == 20
    capsys.readouterr()
    assert run_command(["evaluate", str(run)]) == 0
    assert "evaluate: done before" in capsys.readouterr().err
    assert run_small(run).code == 0  # the run itself never had another horizon
    assert differences(run, whole) == []


def test_a_copy_and_a_moved_run_act_as_the_run_did(whole: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert run_command(["evaluate", str(run), "--out", str(copy), "--env.horizon", "3"]) == 0
    assert results(copy)["horizon"] == 3
    assert differences(run, whole) == []
    moved = shutil.move(run, tmp_path / "moved")
    for place in (copy, Path(moved)):
        agent = Agent.load(place)
        assert agent.settings.env.horizon == 20
    assert run_command(["evaluate", str(moved), "--force"]) == 0
    assert results(Path(moved)) == results(whole)


def test_compute_is_of_the_machine_not_of_the_training(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("threads: 1", "threads: 2"))
    assert Agent.load(run).settings.compute.threads == 2
