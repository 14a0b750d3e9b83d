"""A real language model behind a real server as the agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflect_rl.agents.evaluation import evaluate_agent
from reflect_rl.agents.language import LanguagePlan, Prompting, Style
from reflect_rl.config import load_settings
from reflect_rl.progress import Progress
from reflect_rl.runs.rollouts import each_episode
from reflect_rl.settings.server import ServerSettings
from served_model import Served

pytestmark = pytest.mark.xdist_group("smollm")


@pytest.mark.parametrize(("style", "max_tokens"), [("direct", 4), ("reflexion", 24)])
def test_smollm_plays_the_taxi(smollm: Served, tmp_path: Path, style: Style, max_tokens: int) -> None:
    plan = LanguagePlan(
        load_settings("taxi", {"env.horizon": 3}),
        "openai:smollm",
        episodes=1,
        prompting=Prompting.load(style, None, 2, 2, max_tokens),
        server=ServerSettings(model=smollm.model, base_url=smollm.base_url, concurrency=1, timeout=300),
    )
    run = evaluate_agent(plan, tmp_path / "out", Progress())
    rows = list(each_episode(run / "episodes.jsonl"))
    assert [row["trial"] for row in rows] == list(range(1, plan.trials + 1))
    for row in rows:
        assert row["prompt_tokens"] > 50 * row["length"]
        for step in row["steps"]:
            assert step["said"].strip()
            assert 0 < step["completion_tokens"] <= max_tokens
    assert style == "direct" or rows[0]["lesson"]
    figures = list(run.read_json("results.json")["panels"]["test"].values())[-1]
    assert figures["steps"] == sum(row["length"] for row in rows)
