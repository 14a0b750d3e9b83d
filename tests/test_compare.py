"""The comparison: arms share stages, an interrupted one continues, and its figures are those of the run folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Heard
from end_to_end import SMALL
from reflect_rl.data.pool import Label
from reflect_rl.errors import ModelError, RunFolderError, SettingsError
from reflect_rl.pipeline.compare import compare, under_way
from reflect_rl.pipeline.gather import arm_settings
from reflect_rl.pipeline.plan import read_plan
from reflect_rl.progress import Bar, Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import hashes, wanted
from reflect_rl.runs.stages import STAGES
from reflect_rl.settings import Settings

ARMS = ["sft", "sft-rl"]


class Counted(Progress):
    """Remembers the bar of runs: how many there are, how many were done before, and each advance."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.before = 0

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Bar]:
        self.runs.append(total)
        self.before = done
        yield self

    def update(self, n: int = 1) -> None:
        self.runs.append(n)

    def note(self, **values: Any) -> None:
        pass


def finished(
    folder: Path,
    arm: str,
    seed: int,
    success: dict[str, float],
    changed: dict[str, Any] | None = None,
    labels: dict[str, int] | None = None,
) -> None:
    """A run as `evaluate` leaves it. success: greedy, by panel; sampled is half. changed: sections of settings."""

    def panel(share: float) -> dict[str, Any]:
        near = {"episodes": 10, "success": share}
        kinds = {"near": near, "far": {"episodes": 4, "success": 0.5}}
        return {"success": share, "steps_mean": 8 + seed, "within": {"5": {"success": share / 2}}, "kinds": kinds}

    panels = {name: {"greedy": panel(share), "sampled": panel(share / 2)} for name, share in success.items()}
    run = RunFolder(folder / "runs/recipe" / arm / f"seed-{seed}")
    settings = Settings.model_validate(
        arm_settings("my.yaml", read_plan("my.yaml", None, None), "recipe", arm, seed, None) | (changed or {})
    )
    run.write_text("config.yaml", json.dumps(settings.model_dump(mode="json")))
    run.write_json(
        "results.json", {"horizon": 9, "panels": panels, "labels": {"actions": 7} | (labels or {}), "agreement": None}
    )
    for stage in STAGES:
        if not stage.when or getattr(settings, stage.when):
            replace(wanted(run, stage, settings), outputs=hashes(run, stage.outputs)).write(run)


def gathered(folder: Path, seeds: list[int], **options: Any) -> dict[str, Any]:
    compare("my.yaml", folder, seeds, arms=ARMS, gather_only=True, **options)
    return RunFolder(folder).read_json("compare.json")["regimes"]["recipe"]["arms"]


def test_figures_are_means_over_seeds_and_gains_are_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("env: {name: taxi}\n")
    for seed, before, after in ((0, 0.5, 0.9), (1, 0.7, 0.8)):
        finished(tmp_path / "out", "sft", seed, {"test": before, "valid": before})
        finished(tmp_path / "out", "sft-rl", seed, {"test": after, "valid": before})
    finished(tmp_path / "out", "sft-rl", 2, {"test": 0.1, "valid": 0.1})
    arms = gathered(tmp_path / "out", [0, 1, 2, 3])
    assert (arms["sft"]["seeds"], arms["sft-rl"]["seeds"]) == ([0, 1], [0, 1, 2])
    assert arms["sft"]["mean"] == pytest.approx(0.6)
    assert arms["sft"]["interval"] == pytest.approx([0, 1])  # 12.7 standard errors for two seeds
    greedy = arms["sft-rl"]["panels"]["test"]["greedy"]
    assert greedy["success"] == [0.9, 0.8, 0.1]
    assert greedy["steps_mean"] == 9
    assert greedy["within"]["5"]["mean"] == pytest.approx(0.3)
    assert greedy["kinds"] == {"near": {"won": 18, "episodes": 30}, "far": {"won": 6, "episodes": 12}}
    added = arms["sft-rl"]["added"]
    assert added["seeds"] == [0, 1]
    assert added["panels"]["test"]["greedy"]["mean"] == pytest.approx(0.25)
    assert added["panels"]["test"]["sampled"]["mean"] == pytest.approx(0.125)
    assert added["panels"]["valid"]["greedy"] == {"mean": 0, "interval": [0, 0]}
    assert "added" not in arms["sft"]
    assert arms["sft"]["gain"]["seeds"] == [0, 1]
    assert RunFolder(tmp_path / "out").read_json("compare.json")["regimes"]["recipe"]["horizon"] == 9


def test_runs_of_other_settings_are_no_results_of_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("env: {name: taxi}\n")
    for arm in ARMS:
        finished(tmp_path / "out", arm, 0, {"test": 0.5, "valid": 0.5})
    finished(tmp_path / "out", "sft", 1, {"test": 0.5, "valid": 0.5}, {"annotate": {"actions": 30}})
    heard = Heard()
    arms = gathered(tmp_path / "out", [0, 1], progress=heard, overrides={"compute.device": "cpu"})
    assert (arms["sft"]["seeds"], arms["sft-rl"]["seeds"]) == ([0], [0])
    assert len(heard.warned) == 1
    assert "left out: it was trained with other settings (annotate.actions: 30 -> 1000" in heard.warned[0]
    with pytest.raises(RunFolderError, match="Nothing is finished"):
        gathered(tmp_path / "out", [0], overrides={"annotate.actions": 7777})


def test_runs_of_two_versions_of_a_world_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("env: {name: taxi}\n")
    for seed, code in ((0, "one"), (1, "one"), (2, "two")):
        finished(tmp_path / "out", "sft", seed, {"test": 0.5, "valid": 0.5})
        run = RunFolder(tmp_path / f"out/runs/recipe/sft/seed-{seed}")
        manifest = run.read_json("manifests/rl.json", dict)
        run.write_json("manifests/rl.json", manifest | {"versions": {"world": code}})
    heard = Heard()
    gathered(tmp_path / "out", [0, 1], progress=heard)
    assert not heard.warned
    gathered(tmp_path / "out", [0, 1, 2], progress=heard)
    (said,) = heard.warned
    assert "The file of the world was edited" in said
    assert "seed-2" in said


def test_results_of_a_run_that_was_begun_again_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """config.yaml has the new settings at once, while results.json is still that of the old ones."""
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("env: {name: taxi}\npolicy_sft: {steps: 3}\n")
    for seed in range(5):
        finished(tmp_path / "out", "sft", seed, {"test": 0.5, "valid": 0.5})
    runs = [RunFolder(tmp_path / f"out/runs/recipe/sft/seed-{seed}") for seed in range(5)]
    warmed = runs[1].read_json("manifests/sft_policy.json", dict)  # as if it ran again, and gave another policy
    runs[1].write_json("manifests/sft_policy.json", warmed | {"outputs": {"policy-sft": "another"}})
    (runs[2] / "manifests/rl.json").unlink()
    runs[3].write_json("results.json", {"success": 1})
    (runs[4] / "results.json").unlink()
    heard = Heard()
    arms = gathered(tmp_path / "out", [0, 1, 2, 3, 4], progress=heard)
    assert arms["sft"]["seeds"] == [0]
    for warning, said in zip(
        heard.warned, ("policy-sft changed since rl", "rl has not", *["results.json was"] * 2), strict=True
    ):
        assert said in warning


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_refused(tmp_path: Path, workers: int) -> None:
    with pytest.raises(SettingsError, match=f"workers is {workers}"):
        compare("taxi", tmp_path / "out", [0], workers=workers)
    assert not (tmp_path / "out").exists()


def test_the_bar_tells_what_is_under_way(tmp_path: Path) -> None:
    sft, rl = (RunFolder(tmp_path / arm / "seed-0") for arm in ARMS)
    assert under_way([]) == "none"
    for stage in ("collect", "annotate", "sft_reflector", "sft_policy", "evaluate"):  # rl runs again
        rl.write_json(f"manifests/{stage}.json", {})
    assert under_way([sft.path, rl.path]) == "sft seed-0, sft-rl seed-0 after sft_policy"


def test_an_arm_that_keeps_the_better_of_two_spends_the_labels_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("env: {name: taxi}\n")
    for arm, won, reflections in (("sft-rl", 0.9, 0), ("reflect-rl", 0.5, 60)):
        finished(tmp_path / "out", arm, 0, {"test": won, "valid": won}, labels={"reflections": reflections})
    compare("my.yaml", tmp_path / "out", [0], arms=["sft-rl", "reflect-rl", "guard"], gather_only=True)
    guard = RunFolder(tmp_path / "out").read_json("compare.json")["regimes"]["recipe"]["arms"]["guard"]
    assert (guard["success"], guard["labels"]) == ([0.9], {"actions": [7], "reflections": [60]})


def test_a_run_that_fails_is_named_and_warnings_of_runs_are_told(tmp_path: Path) -> None:
    heard = Heard()
    chosen: dict[str, Any] = {"regimes": ["scarce-actions"], "overrides": SMALL}
    compare("taxi", tmp_path / "out", [0, 1], arms=["sft-reflection"], **chosen, progress=heard)
    (weak,) = [text for text in heard.warned if "a weak reflector can do harm" in text]
    assert weak.startswith("scarce-actions, sft-reflection, seed 0 and 1 more: ")
    missing = chosen["overrides"] | {"policy.model.source": str(tmp_path / "none")}
    with pytest.raises(ModelError):
        compare("taxi", tmp_path / "bad", [3], arms=ARMS, regimes=["scarce-actions"], overrides=missing, progress=heard)
    assert heard.warned[-1].startswith("scarce-actions, sft, seed 3 cannot go on.")


def test_runs_that_are_trained_again_count_as_open(tmp_path: Path) -> None:
    chosen = {"arms": ARMS[:1], "regimes": ["scarce-actions"]}
    for steps, done in ((4, 0), (4, 1), (5, 0)):
        counted = Counted()
        compare("taxi", tmp_path, [0], **chosen, overrides=SMALL | {"policy_sft.steps": steps}, progress=counted)
        assert counted.before == done


def test_a_small_comparison_is_trained_and_continued(tmp_path: Path) -> None:
    chosen = {"arms": ARMS, "regimes": ["scarce-actions"], "overrides": SMALL}
    counted = Counted()
    first = compare("taxi", tmp_path, [0], **chosen, progress=counted)
    assert counted.before == 0
    assert counted.runs[0] == sum(counted.runs[1:]) == 2
    assert min(counted.runs) >= 0
    before = first.read_bytes()
    data = RunFolder(tmp_path).read_json("compare.json")
    arms = data["regimes"]["scarce-actions"]["arms"]
    assert list(arms) == ARMS
    assert all(arm["seeds"] == [0] for arm in arms.values())
    metrics = [tmp_path / f"runs/scarce-actions/{arm}/seed-0/metrics.jsonl" for arm in ARMS]
    assert [len(file.read_text().splitlines()) for file in metrics] == [0, SMALL["rl.iterations"]]
    pools = [tmp_path / f"runs/scarce-actions/{arm}/seed-0/episodes.jsonl" for arm in ARMS]
    assert pools[0].read_bytes() == pools[1].read_bytes()
    made = (tmp_path / "runs/scarce-actions/sft-rl/seed-0/policy/model.safetensors").stat().st_mtime_ns
    counted = Counted()
    assert compare("taxi", tmp_path, [0], **chosen, progress=counted).read_bytes() == before
    assert counted.runs[0] == counted.before == 2
    assert sum(counted.runs[1:]) == 0  # what was done before does not flatter the rate
    assert (tmp_path / "runs/scarce-actions/sft-rl/seed-0/policy/model.safetensors").stat().st_mtime_ns == made


def test_all_arms_learn_from_the_same_labels(tmp_path: Path) -> None:
    """With past reflections whole episodes are labelled, also for an arm that does not show any."""
    chosen = {"arms": ["sft-reflection", "history"], "regimes": ["scarce-actions"]}
    compare("taxi", tmp_path, [0], **chosen, overrides={**SMALL, "prompt.reflections": 2, "rl.iterations": 0})
    runs = [RunFolder(tmp_path / f"runs/scarce-actions/{arm}/seed-0") for arm in chosen["arms"]]
    labels = [run.read_jsonl("action_labels.jsonl", Label.from_json) for run in runs]
    places = [[(label.episode, label.step) for label in each] for each in labels]
    assert len(places[0]) == SMALL["annotate.actions"]
    assert len({episode for episode, _ in places[0]}) < 10
    assert places[0] == places[1]
