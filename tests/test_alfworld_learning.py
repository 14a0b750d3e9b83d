"""ALFWorld's recipes, small, on generated games: every arm goes through, an agent's moves hold on the real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alfworld_games import needs_real_engine
from conftest import Heard
from reflect_rl.config import load_settings, recipe_names
from reflect_rl.data.pool import read_pool
from reflect_rl.envs.registry import make
from reflect_rl.evaluation.replay import replay
from reflect_rl.pipeline.plan import read_plan
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.trained import read_config

KIND = "look_at_obj_in_light"
MODEL = {"architecture": "lookup", "width": 16, "layers": 1, "heads": 2}
SMALL: dict[str, Any] = {
    "env.options": {"data": "generated", "task_types": KIND},
    "env.horizon": 5,
    "collect.episodes": 12,
    "annotate.actions": 40,
    "annotate.reflections": 40,
    "annotate.holdout": 0.1,
    "reflector.model": MODEL,
    "reflector.max_new_tokens": 5,
    "reflector.batch": 4,
    "reflector_sft.steps": 2,
    "policy.model": MODEL,
    "policy_sft.steps": 2,
    "rl.iterations": 1,
    "rl.episodes": 4,
    "rl.minibatches": 2,
    "evaluate.within": [4, 1000],
    "evaluate.shown_episodes": 1,
}


def run_small(path: Path, overrides: dict[str, Any]) -> RunFolder:
    return run_pipeline(load_settings("alfworld", SMALL | overrides), path, Heard(), until="evaluate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_small(tmp_path_factory.mktemp("alfworld"), {})


def test_every_recipe_of_alfworld_is_valid_and_names_games_that_there_are() -> None:
    names = [name for name in recipe_names() if name.startswith("alfworld")]
    assert len(names) == 10
    for name in names:
        settings = load_settings(name)
        options = {**settings.env.options, "data": "generated", "goals": "template"}  # nobody described those
        if settings.env.options.get("task_types") != "tomato":  # a family of the released games
            assert make("alfworld", **options).tasks("train")


def test_results_are_told_by_kind_of_task_and_within_fewer_steps(finished: RunFolder) -> None:
    panels = finished.read_json("results.json")["panels"]
    assert list(panels) == ["test", "valid"]
    assert panels["test"]["greedy"]["episodes"] == len(make("alfworld", **SMALL["env.options"]).tasks("test"))
    assert set(panels["test"]["greedy"]["within"]) == {"4"}  # nobody plays 1,000 steps


def test_players_learn_from_the_notes_on_the_steps_before(finished: RunFolder) -> None:
    pool = read_pool(finished, read_config(finished))
    later = next(entry for entry in pool if entry.step == 2)
    assert later.state.reflections[0].startswith("At start. Find")
    shown = [json.loads(line) for line in (finished / "evaluation.jsonl").read_text().splitlines()]
    assert all(isinstance(step["reflection"], str) for episode in shown for step in episode["steps"])


@pytest.mark.parametrize("arm", ["history", "facts-rl", "action-lines", "scripted-notes"])
def test_the_other_arms_of_the_comparison_go_through(tmp_path: Path, arm: str) -> None:
    plan = read_plan("alfworld", None, [arm])
    assert plan["reference"] == "history-rl"
    run = run_small(tmp_path, plan["arms"][arm]["settings"])
    assert run.read_json("results.json")["panels"]["test"]["greedy"]["episodes"] > 0


@needs_real_engine
def test_an_agents_moves_hold_on_the_real_engine(finished: RunFolder) -> None:
    episodes = list(replay(finished, read_config(finished), {"engine": "textworld"}, 2))
    assert [episode.difference for episode in episodes] == [None, None]
    assert all(episode.actions for episode in episodes)


def test_a_world_that_tells_something_else_is_found_out(finished: RunFolder) -> None:
    (episode,) = replay(finished, read_config(finished), {"success_reward": 1.0, "step_reward": -0.5}, 1)
    assert episode.difference is not None
    assert "reward -0.5" in episode.difference
