"""The public names, and runs from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import reflect_rl as rr
from conftest import TINY, Heard


def test_the_public_names_are_there_and_no_others() -> None:
    assert sorted(rr.__all__) == rr.__all__ == sorted(rr._HOMES)
    assert [name for name in rr.__all__ if getattr(rr, name) is None] == []
    assert {name for name in dir(rr.errors) if name.endswith("Error")} <= set(rr.__all__)  # type: ignore[attr-defined]


def test_importing_the_library_imports_nothing_else() -> None:
    code = "import sys; import reflect_rl; print(sorted(n for n in sys.modules if n.startswith('reflect_rl.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> rr.Run:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return rr.run({}, out, seed=3, overrides=TINY | {"rl.iterations": 2}, progress=False)


def test_a_run_gives_its_results_metrics_report_and_agent(trained: rr.Run) -> None:
    assert trained.results["seed"] == trained.settings.seed == 3
    assert len(trained.metrics) == trained.settings.rl.iterations == 2
    assert trained.report.is_file()
    assert rr.Run(str(trained.path)) == trained
    env = rr.make(trained.settings.env.name)
    observation, info = env.reset(seed=0)
    decision = trained.agent().act(observation, info["actions"])
    assert decision.action == info["actions"][decision.choice]
    assert sum(decision.probabilities) == pytest.approx(1.0)


def test_the_players_before_and_after_rl_differ(trained: rr.Run) -> None:
    before, after = trained.players("policy-sft"), trained.players()
    weights = [players.policy.state_dict() for players in (before, after)]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])


def test_a_finished_run_is_not_run_again(trained: rr.Run) -> None:
    heard = Heard()
    again = rr.run({}, trained.path, seed=3, overrides=TINY | {"rl.iterations": 2}, progress=heard)
    assert again == trained
    assert [text for text in heard.said if not text.endswith("done before")] == []


def test_silence_is_silence(trained: rr.Run, capfd: pytest.CaptureFixture[str]) -> None:
    rr.run(trained.settings, trained.path, progress=False)
    assert capfd.readouterr() == ("", "")


def test_settings_without_a_folder_are_refused() -> None:
    with pytest.raises(rr.SettingsError, match="no name to call a run folder by"):
        rr.run(rr.Settings())


def test_what_is_not_there_yet_is_one_message(tmp_path: Path) -> None:
    run = rr.Run(tmp_path)
    for what in (lambda: run.results, lambda: run.metrics, lambda: run.settings, run.agent):
        with pytest.raises(rr.RunFolderError):
            what()
