"""Evaluation: panels fixed by task, the schema of results.json, and intervals against known values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Heard
from corridor import Corridor, Undecided
from end_to_end import files, reflect_rl, refused, timeless
from reflect_rl.envs.checked import panels_of
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.evaluation.evaluate import evaluate, measured, measured_on, panel_episodes, summarise
from reflect_rl.intervals import mean_interval, wilson
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.records import StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.rollout import EpisodeSpec, Trajectory

Tiny = Callable[..., Settings]


@pytest.fixture
def finished(warmed: RunFolder) -> RunFolder:
    shutil.copytree(warmed / "policy-sft", warmed / "policy")
    return warmed


@pytest.mark.parametrize(
    ("wins", "episodes", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (0, 0, 0.0, 1.0)],
)
def test_wilson_against_known_values(wins: int, episodes: int, low: float, high: float) -> None:
    assert wilson(wins, episodes) == pytest.approx((low, high), abs=1e-4)


@given(episodes=st.integers(1, 5000), data=st.data())
def test_wilson_holds_the_share_and_narrows(episodes: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, episodes))
    low, high = wilson(wins, episodes)
    assert 0 <= low <= wins / episodes + 1e-12
    assert wins / episodes - 1e-12 <= high <= 1
    wider = wilson(wins, episodes), wilson(4 * wins, 4 * episodes)
    assert wider[1][1] - wider[1][0] < wider[0][1] - wider[0][0]


def test_the_interval_of_a_mean_over_seeds() -> None:
    assert mean_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-3)
    assert mean_interval([0.9], 0, 1) == (0, 1)
    for freedom, quantile in ((17, 2.1098), (30, 2.0423), (60, 2.0003)):  # beyond the table
        values = [0.0, 1.0] * ((freedom + 1) // 2) + [0.5] * ((freedom + 1) % 2)
        half = quantile * stdev(values) / len(values) ** 0.5
        assert mean_interval(values)[1] == pytest.approx(0.5 + half, abs=1e-3 * half)
    assert mean_interval([0.99, 0.9], 0, 1)[1] == 1


def test_panels_are_fixed_by_task_and_every_episode_has_its_own_seed(tiny: Tiny) -> None:
    world, settings = Corridor(), tiny()
    panels = panels_of(world)
    assert panels["test"] == world.tasks("test")
    assert sorted(panels["all"]) == sorted(
        {task for split in ("train", "valid", "test") for task in world.tasks(split)}
    )
    assert len(panels["all"]) == 30
    greedy = panel_episodes(world, settings, "test", "greedy")
    sampled = panel_episodes(world, settings, "test", "sampled")
    assert [spec.task for spec in greedy] == list(panels["test"])
    assert [spec.task for spec in sampled] == list(panels["test"]) * 2
    assert len({spec.seed for spec in [*greedy, *sampled]}) == 18
    assert greedy == panel_episodes(Corridor(), settings, "test", "greedy")


def test_a_summary_by_hand() -> None:
    stops = [StopReason.SUCCESS, StopReason.SUCCESS, StopReason.HORIZON, StopReason.DANGEROUS]
    played = [
        Trajectory(EpisodeSpec("t", 0), [0] * n, [0] * n, [0.5] * n, stop) for n, stop in enumerate(stops, start=1)
    ]
    assert summarise(played) == {
        "episodes": 4,
        "success": 0.5,
        "interval": wilson(2, 4),
        "return_mean": 0.5 * 10 / 4,
        "steps_mean": 2.5,
        "stop_reasons": {"dangerous": 1, "horizon": 1, "success": 2},
    }


def test_results_hold_what_was_promised(finished: RunFolder, tiny: Tiny) -> None:
    evaluate(finished, Context(tiny()), Progress())
    results = finished.read_json("results.json")
    assert results["horizon"] == 8
    assert {"actions": 60, "reflections": 150}.items() <= results["labels"].items()
    assert all(count > 0 for count in results["parameters"].values())
    assert {"all", "test"} <= set(results["panels"])
    for name, size in (("all", 30), ("test", 6)):
        for mode, episodes in (("greedy", size), ("sampled", 2 * size)):
            figures = results["panels"][name][mode]
            assert set(figures) >= {
                "episodes", "success", "interval", "return_mean", "steps_mean", "stop_reasons",
            }  # fmt: skip
            assert figures["episodes"] == episodes == sum(figures["stop_reasons"].values())
            assert figures["success"] == figures["stop_reasons"].get("success", 0) / episodes
            low, high = figures["interval"]
            assert low <= figures["success"] <= high
            assert 1 <= figures["steps_mean"] <= 8


def test_the_shown_episodes_are_of_the_test_panel_step_by_step(finished: RunFolder, tiny: Tiny) -> None:
    evaluate(finished, Context(tiny()), Progress())
    shown = [json.loads(line) for line in (finished / "evaluation.jsonl").read_text().splitlines()]
    assert [(e["panel"], e["mode"], e["task"]) for e in shown] == [
        ("test", mode, task) for mode in ("greedy", "sampled") for task in Corridor().tasks("test")[:2]
    ]
    for episode in shown:
        assert episode["return"] == pytest.approx(sum(step["reward"] for step in episode["steps"]))
        for step in episode["steps"]:
            assert len(step["probabilities"]) == len(step["actions"])
            assert sum(step["probabilities"]) == pytest.approx(1, abs=1e-4)
            assert step["reflection"]
            assert episode["mode"] == "sampled" or step["probabilities"][step["choice"]] == max(step["probabilities"])


def test_results_name_what_two_laboratories_have_to_share(finished: RunFolder, tiny: Tiny) -> None:
    settings = tiny()
    evaluate(finished, Context(settings), Progress())
    results = finished.read_json("results.json")
    assert results["options"] == {"slip": 0.1}
    assert {"reflect_rl", "torch", "python"} <= set(results["versions"])
    hashes = results["panel_hashes"]
    assert set(hashes) == set(results["panels"])
    assert hashes == measured_on(Corridor(), settings, hashes)["panel_hashes"]
    other = measured_on(Corridor(), tiny({"seed": 1}), hashes)["panel_hashes"]
    assert all(hashes[panel] != other[panel] for panel in hashes)  # other episodes of the same tasks
    assert measured_on(Corridor(), tiny({"env.options": {}}), hashes)["options"] == {"slip": 0.0}


def test_evaluating_twice_gives_the_same_figures(finished: RunFolder, tiny: Tiny) -> None:
    def made() -> tuple[Any, bytes]:
        evaluate(finished, Context(tiny()), Progress())
        results = finished.read_json("results.json")
        assert results["seconds"] > 0
        return timeless(results), (finished / "evaluation.jsonl").read_bytes()

    first = made()
    (finished / "reflections.sqlite").unlink()
    assert made() == first


def test_no_more_environments_are_open_than_rl_slots_says_and_no_figure_depends_on_it(
    finished: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_now, most = [0], [0]
    close = Corridor.close

    def reset(self: Corridor, **given: Any) -> Any:
        if not getattr(self, "counted", False):
            self.counted = True  # type: ignore[attr-defined]
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        return begin(self, **given)

    def closed(self: Corridor) -> None:
        open_now[0] -= getattr(self, "counted", False)
        close(self)

    begin = Corridor.reset
    monkeypatch.setattr(Corridor, "reset", reset)
    monkeypatch.setattr(Corridor, "close", closed)
    found = []
    for slots in (3, 512):
        most[0] = 0
        evaluate(finished, Context(tiny({"rl.num_envs": slots})), Progress())
        found.append((most[0], finished.read_json("results.json")["panels"]))
        assert open_now == [0]
    assert found[0][0] == 3
    assert found[1][0] == 60  # as many as episodes of the largest panel
    assert found[0][1] == found[1][1]


def test_results_by_kind_and_within_fewer_steps_by_hand() -> None:
    def played(task: str, steps: int, stop: StopReason) -> Trajectory:
        return Trajectory(EpisodeSpec(task, 0), [0] * steps, [0] * steps, [0.0] * steps, stop)

    won, lost = StopReason.SUCCESS, StopReason.HORIZON
    all_of_them = [played("0-3", 3, won), played("1-2", 8, lost), played("4-1", 6, won), played("5-0", 7, won)]
    found = measured(all_of_them, Undecided(), within=[5, 6])
    assert found["success"] == 0.75
    assert {kind: part["success"] for kind, part in found["kinds"].items()} == {"left": 1.0, "right": 0.5}
    assert {steps: part["success"] for steps, part in found["within"].items()} == {"5": 0.25, "6": 0.5}
    assert set(measured(all_of_them, Corridor(), within=[])) == set(summarise(all_of_them))


def test_agreement_counts_each_state_once() -> None:
    specs = [EpisodeSpec("0-1", 0), EpisodeSpec("1-2", 0)]
    played = [
        Trajectory(specs[0], [4, 2, 2], [0] * 3, [0.0] * 3, agrees=[True, False, False]),
        Trajectory(specs[1], [2, 7], [0] * 2, [0.0] * 2, agrees=[False, True]),
    ]
    found = measured(played, Corridor(), within=[])
    assert found["agreement"] == {"states": 3, "share": 2 / 3, "interval": wilson(2, 3)}


def test_the_reflector_is_compared_with_its_teacher_in_every_panel(finished: RunFolder, tiny: Tiny) -> None:
    settings = tiny({"evaluate.shown_episodes": 50, "prompt.history": 0})
    evaluate(finished, Context(settings), Progress())
    found = finished.read_json("results.json")["panels"]
    rows = [json.loads(line) for line in (finished / "evaluation.jsonl").read_text().splitlines()]
    steps = [step for row in rows if row["mode"] == "greedy" for step in row["steps"]]
    states = {step["observation"]: step["reflection"] for step in steps}
    same = sum(said == way_from(picture) for picture, said in states.items())
    share = {"states": len(states), "share": same / len(states), "interval": list(wilson(same, len(states)))}
    assert found["test"]["greedy"]["agreement"] == share
    assert all(modes[mode]["agreement"]["states"] for modes in found.values() for mode in modes)


def way_from(picture: str) -> str:
    """What the corridor's teacher says of a picture."""
    distance = 0 if "x" in picture else picture.index("i") - picture.index("P")
    way = "take" if not distance else "right" if distance > 0 else "left"
    return Corridor.teach({"distance": abs(distance), "way": way}, "way")


@pytest.mark.parametrize("kind", ["none", "scripted"])
def test_without_a_model_that_writes_there_is_no_agreement(finished: RunFolder, tiny: Tiny, kind: str) -> None:
    evaluate(finished, Context(tiny({"reflector.kind": kind})), Progress())
    panels = finished.read_json("results.json")["panels"]
    assert not any("agreement" in modes[mode] for modes in panels.values() for mode in modes)


def test_a_reflector_that_fails_outside_the_train_tasks_is_announced(
    finished: RunFolder, tiny: Tiny, heard: Heard
) -> None:
    figures = finished.read_json("reflector.json")
    finished.write_json("reflector.json", figures | {"agreement": 0.99})
    evaluate(finished, Context(tiny()), heard)
    share = finished.read_json("results.json")["panels"]["valid"]["greedy"]["agreement"]["share"]
    assert share < 0.9
    assert f"in 99% of the held-out states of train tasks, but in {share:.0%} of those met in" in heard.warned[-1]


# Measured elsewhere


def test_an_agent_is_measured_elsewhere_and_its_run_left_as_it_is(run: Path, tmp_path: Path) -> None:
    before, out = files(run), tmp_path / "elsewhere"
    ask = ("evaluate", str(run), "--out", str(out), "--env.horizon", "3", "--evaluate.shown_episodes", "1")
    ended = reflect_rl(*ask)
    assert ended.code == 0, ended.err
    assert files(run) == before
    results = json.loads((out / "results.json").read_text())
    assert results["horizon"] == 3
    assert results["panels"]["all"]["greedy"]["steps_mean"] <= 3
    assert (out / "report.html").is_file()
    measured_once = files(out)
    again = reflect_rl(*ask)
    assert "evaluate: done before" in again.err
    assert files(out) == measured_once


def test_it_is_not_measured_where_something_else_lies_or_nothing_is_trained(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    refused(reflect_rl("evaluate", str(run), "--out", str(other)), "holds no copy of an agent", "--out")
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
    shutil.rmtree(run / "policy")
    refused(reflect_rl("evaluate", str(run), "--out", str(tmp_path / "new")), "no trained agent")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("panels", [{"test": ("0-1",), "valid": ()}, {"test": ("0-1",)}, {}])
def test_a_panel_without_tasks_is_refused(panels: dict[str, tuple[str, ...]]) -> None:
    class Odd(Corridor):
        def panels(self) -> dict[str, tuple[str, ...]]:
            return panels

    with pytest.raises(
        EnvironmentContractError,
        match=r"panels\(\) gave .*(no panel \"(test|valid)\"|not a tuple of at least one name)",
    ):
        panels_of(Odd())
