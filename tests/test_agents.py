"""Any agent on the fixed panels: the same episodes as trained agents play, whatever the agent and wherever it runs."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import own_agents
from agent_runs import episodes, played
from conftest import Heard
from corridor import Corridor
from end_to_end import Kill, reflect_rl, refused
from own_agents import Decided
from reflect_rl.agents import evaluation
from reflect_rl.agents.evaluation import Plan, chosen_tasks, evaluate_agent
from reflect_rl.agents.trained import is_trained
from reflect_rl.errors import (
    AgentError,
    EnvironmentContractError,
    OutputError,
    RunFolderError,
    SettingsError,
    WorkerError,
)
from reflect_rl.evaluation.evaluate import evaluate
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.rollouts import each_episode
from reflect_rl.settings import Settings
from report_page import Opened

Tiny = Callable[..., Settings]
TESTS = Path(__file__).parent


# The same episodes


@pytest.mark.parametrize(("agent", "workers"), [("trained_one:Trained", 1), ("warmed", 1), ("warmed", 2)])
def test_a_trained_agent_as_any_agent_gets_the_figures_of_its_run(
    warmed: RunFolder, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str, workers: int
) -> None:
    shutil.copytree(warmed / "policy-sft", warmed / "policy")
    settings = tiny()
    evaluate(warmed, Context(settings), Progress())
    warmed.write_text("config.yaml", json.dumps(settings.model_dump(mode="json")))
    (tmp_path / "trained_one.py").write_text(
        "import reflect_rl as rr\n\nclass Trained:\n    def __init__(self):\n"
        f"        self.agent = rr.Agent.load({str(warmed.path)!r})\n"
        "    def reset(self):\n        self.agent.reset()\n"
        "    def act(self, observation, actions):\n        return self.agent.act(observation, actions)\n"
    )
    monkeypatch.chdir(tmp_path)
    name = str(warmed.path) if agent == "warmed" else agent
    plan = Plan(settings, name, ("test", "valid"), workers=workers)
    run = evaluate_agent(plan, tmp_path / "out", Progress())
    ours, theirs = warmed.read_json("results.json"), run.read_json("results.json")
    for panel in plan.panels:
        found, wanted = theirs["panels"][panel]["played"], ours["panels"][panel]["greedy"]
        assert wanted.pop("agreement")  # of its reflector, which nobody else knows of
        assert {name: found[name] for name in wanted} == wanted
    assert {"horizon", "options", "versions", "world", "seed"} <= ours.keys() & theirs.keys()
    assert theirs["panel_hashes"].items() <= ours["panel_hashes"].items()
    first = next(each_episode(run / "episodes.jsonl"))["steps"][0]
    assert first["reflection"]
    assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-4)
    if agent == "warmed":
        assert theirs["agent"] == warmed.path.name
        asked = settings.model_dump(mode="json")
        asked["prompt"]["history"] += 1
        warmed.write_text("config.yaml", json.dumps(asked))
        with pytest.raises(AgentError, match="prompt"):
            evaluate_agent(plan, tmp_path / "out", Progress())
        warmed.write_text("config.yaml", json.dumps(settings.model_dump(mode="json")))
        (warmed / "policy/added.json").write_text("{}")
        with pytest.raises(AgentError, match="models"):
            evaluate_agent(plan, tmp_path / "out", Progress())


def test_the_folder_of_an_agent_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "taxi-12:30").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert [is_trained(name) for name in ("runs/taxi-12:30", "user/name")] == [True, True]
    assert not any(is_trained(name) for name in ("", "random", "module:Class", "openai:org/model"))


def test_a_folder_without_a_trained_agent_is_refused(measure: Any, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no trained agent"):
        measure(str(tmp_path / "absent"))
    assert not (tmp_path / "out").exists()


def test_the_expert_and_a_function_win_and_random_does_not(measure: Any) -> None:
    results, rows = measure("expert", "expert")
    assert results["panels"]["test"]["played"]["success"] == 1
    assert [row["task"] for row in rows] == list(Corridor().tasks("test"))
    assert played(measure("own_agents:toward_the_item", "function")[1]) == played(rows)
    results, rows = measure("random", "random", panels=("all",))
    assert results["panels"]["all"]["played"]["success"] < 0.6
    assert played(rows) == played(measure("random", "again", panels=("all",))[1])
    assert played(rows) != played(measure("random", "other", panels=("all",), overrides={"seed": 1})[1])


def test_one_by_one_side_by_side_in_a_batch_and_in_workers_it_is_the_same(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wanted = measure("own_agents:Walker", "plain", panels=("all",))
    assert len(wanted) == 30
    for name in ("AsyncWalker", "BatchWalker"):
        assert played(measure(f"own_agents:{name}", name, panels=("all",))[1]) == played(wanted)
    assert own_agents.AsyncWalker.most == 16
    assert own_agents.BatchWalker.largest == 30 - 14  # rl.num_envs
    monkeypatch.chdir(TESTS)
    for name in ("Walker", "BatchWalker"):
        assert played(measure(f"own_agents:{name}", f"{name}-2", panels=("all",), workers=2)[1]) == played(wanted)


def test_an_agent_that_wants_the_seed_gets_that_of_the_episode(measure: Any) -> None:
    _, rows = measure("own_agents:Seeded", "one")
    assert played(rows) == played(measure("own_agents:Seeded", "two")[1])
    assert len({row["episode_seed"] for row in rows}) == len(rows)


def test_what_names_no_action_is_counted_and_the_first_action_is_taken(measure: Any, heard: Heard) -> None:
    results, rows = measure("own_agents:Clumsy", episodes=1, progress=heard)
    (row,) = rows
    assert "None of the 8 answers named an admissible action" in heard.warned[-1]
    measure("random", "random", episodes=1, progress=heard)
    assert len(heard.warned) == 1
    assert row["invalid"] == row["length"] == results["panels"]["test"]["played"]["invalid"] == 8
    assert all(step["invalid"] and step["choice"] == 0 for step in row["steps"])
    assert row["steps"][0]["said"] == "'jump'"
    assert row["steps"][6]["reflection"] == "Left is the way."


def test_moves_are_shown_while_no_episode_ends(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []

    class Shown(Progress):
        @contextmanager
        def bar(self, what: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Any]:
            yield SimpleNamespace(update=lambda n=1: None, note=lambda **values: shown.append(values))

    slowly = itertools.count(step=2)
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(monotonic=lambda: next(slowly)))
    measure("own_agents:Clumsy", episodes=2, progress=Shown())  # one after the other, 8 moves each
    assert [notes["moves"] for notes in shown] == [1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16]
    assert "success" not in shown[7]
    assert shown[8]["success"] == 0


@pytest.mark.parametrize(
    "told",
    [
        {"probabilities": [math.nan, 0, 1]},
        {"probabilities": [0.5, 0.5]},
        {"probabilities": ["a", "b", "c"]},
        {"probabilities": 3},
        {"reflection": 3},
        {"reflection": "half \ud800 a pair"},
    ],
)
def test_what_no_record_can_hold_is_one_message(measure: Any, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_agents.Odd, "told", told)
    with pytest.raises(AgentError, match=r"own_agents:Odd: an answer has the reflection .* and the probabilities"):
        measure("own_agents:Odd")


def test_probabilities_may_come_from_numpy(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = np.float32(0.25)
    monkeypatch.setattr(own_agents.Odd, "act", lambda self, seen, actions: Decided(0, "", np.full(len(actions), told)))
    _, rows = measure("own_agents:Odd", episodes=1)
    assert all(set(step["probabilities"]) == {0.25} for step in rows[0]["steps"])


def test_an_evaluation_begins_with_a_new_agent(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(own_agents.BatchWalker, "reset", lambda self: (made.append(self), setattr(self, "acted", {})))
    _, rows = measure("own_agents:BatchWalker", "one")
    assert measure("own_agents:BatchWalker", "two")[1] == rows
    assert len(set(map(id, made))) == len(made) == 2


# The folder


def test_a_failing_agent_is_named_and_what_it_finished_is_kept(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_agents.Fails, "begun", 0)
    with pytest.raises(AgentError, match=r"own_agents:Fails: act\(\) raised ValueError: no idea \(own_agents.py, line"):
        measure("own_agents:Fails")
    kept = episodes(RunFolder(tmp_path / "out"))
    assert len(kept) == 2
    (tmp_path / "mended").touch()
    results, rows = measure("own_agents:Fails")
    assert results["panels"]["test"]["played"]["episodes"] == len(rows) == 6
    assert [row for row in rows if row in kept] == kept


def test_more_episodes_and_panels_continue_a_folder(measure: Any, tmp_path: Path) -> None:
    results, rows = measure("random", episodes=2)
    assert len(rows) == results["panels"]["test"]["played"]["episodes"] == 2
    before = (tmp_path / "out" / "episodes.jsonl").read_bytes()
    copy = tmp_path / "copy.jsonl"
    results, rows = measure("random", panels=("test", "valid"), rollouts=copy)
    assert [figures["played"]["episodes"] for figures in results["panels"].values()] == [6, 6]
    assert (tmp_path / "out" / "episodes.jsonl").read_bytes().startswith(before)
    assert copy.read_bytes() == (tmp_path / "out" / "episodes.jsonl").read_bytes()
    measure("random", panels=("test", "valid"), rollouts=copy)
    assert copy.read_bytes() == (tmp_path / "out" / "episodes.jsonl").read_bytes()
    with pytest.raises(SettingsError, match="is the evaluation's own file"):
        measure("random", rollouts=tmp_path / "out" / ".." / "out" / "episodes.jsonl")


@given(tasks=st.integers(1, 300), fewer=st.integers(1, 300), more=st.integers(0, 300))
def test_more_episodes_include_the_tasks_of_fewer(tasks: int, fewer: int, more: int) -> None:
    few, many = chosen_tasks("test", tasks, fewer), chosen_tasks("test", tasks, fewer + more)
    assert set(few) <= set(many) <= set(chosen_tasks("test", tasks, None)) == set(range(tasks))
    assert len(few) == min(fewer, tasks)
    assert few == sorted(few)


def test_a_few_tasks_of_a_panel_are_drawn_from_all_of_it() -> None:
    """Panels often go by kind, so the first ones would be of one kind."""
    for panel in ("test", "valid"):
        assert all(1 <= sum(number // 35 == part for number in chosen_tasks(panel, 140, 35)) <= 20 for part in range(4))


def test_episodes_of_tasks_that_have_changed_are_no_results(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows = measure("random")
    before = (tmp_path / "out" / "results.json").read_bytes()
    tasks = Corridor.tasks
    monkeypatch.setattr(Corridor, "tasks", lambda self, split: tasks(self, split)[::-1])
    with pytest.raises(AgentError, match=f"holds an episode of the task {rows[0]['task']} where .* is played now"):
        measure("random")
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_a_folder_is_of_one_agent_in_one_world(measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def act(observation, actions):\n    return 0\n")
    monkeypatch.chdir(tmp_path)
    measure("mine:act")
    for agent, overrides, named in (
        ("random", {}, "agent: mine:act -> random"),
        ("mine:act", {"seed": 1}, "seed: 0 -> 1"),
        ("mine:act", {"env.options": {"slip": 0.5}}, "env: "),
    ):
        with pytest.raises(AgentError, match=f"another agent or world .*{named}.*--out"):
            measure(agent, overrides=overrides)
    (tmp_path / "mine.py").write_text("def act(observation, actions):\n    return 1\n")
    with pytest.raises(AgentError, match="code: "):
        measure("mine:act")
    with (tmp_path / "out" / "episodes.jsonl").open("a") as file:
        file.write('{"id": "mine", "steps": []}\n')
    (tmp_path / "mine.py").write_text("def act(observation, actions):\n    return 0\n")
    with pytest.raises(AgentError, match="none of an evaluation: 'mine' lacks 'panel'"):
        measure("mine:act")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(OutputError, match="holds no evaluation of an agent"):
        measure("random", "other")


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        ("rnadom", {}, "There is no agent 'rnadom'"),
        ("own_agents:Nobody", {}, "There is no class 'Nobody'"),
        ("own_agents:NoAgent", {}, "is no agent"),
        ("own_agents:TESTS", {}, "There is no class"),
        ("own_agents:Short", {}, r"act_batch\(\) gave 5 choices for 6 observations"),
        ("own_agents:Dies", {"workers": 2}, "A worker process was killed"),
        ("rnadom", {}, "no agent 'rnadom'.*Did you mean 'random'"),
        ("", {}, "no agent ''.*module:Class"),
        ("random", {"panels": ("tset",)}, "There is no panel 'tset'. Did you mean 'test'"),
        ("expert", {"overrides": {"env.name": "own_agents:Unled"}}, "has no expert"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    measure: Any, agent: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TESTS)
    with pytest.raises((AgentError, SettingsError, WorkerError), match=message):
        measure(agent, **options)


def test_workers_begin_without_torch() -> None:
    code = "import sys, reflect_rl.agents.work; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# The command line


def test_the_command_line_evaluates_continues_and_reports(tmp_path: Path) -> None:
    command = ("evaluate", "taxi", "--agent", "random", "--episodes", "9", "--rollouts", "all.jsonl")
    killed = reflect_rl(*command, cwd=tmp_path, kill=Kill("reflect_rl.runs.rollouts:RolloutFile.add", 8))
    assert killed.code == -9
    ended = reflect_rl(*command, cwd=tmp_path)
    assert ended.code == 0, ended.err
    folder = tmp_path / "runs" / "taxi-random"
    rows = list(each_episode(folder / "episodes.jsonl"))
    assert sorted(row["number"] for row in rows) == chosen_tasks("test", 60, 9)
    assert sorted(row["id"] for row in each_episode(tmp_path / "all.jsonl")) == sorted(row["id"] for row in rows)
    assert "test   played    9" in ended.out
    assert (folder / "report.html").is_file()
    for gone in ("report.html", "results.json"):  # without results: while the evaluation is under way
        (folder / gone).unlink()
        assert reflect_rl("report", str(folder)).code == 0
        assert '"task":' in (folder / "report.html").read_text(encoding="utf-8")


def test_mistakes_on_the_command_line(tmp_path: Path, run: Path) -> None:
    refused(reflect_rl("evaluate", "taxy", "--agent", "random", cwd=tmp_path), "There is no recipe 'taxy'")
    refused(reflect_rl("evaluate", "taxi", cwd=tmp_path), "taxi is not a run folder")
    refused(reflect_rl("evaluate", "taxi", "--agent", "random", "--panel", ",", cwd=tmp_path), "--panel is empty")
    refused(
        reflect_rl("evaluate", "taxi", "--agent", "random", "--server.base_url", "http://x", cwd=tmp_path),
        "--server.base_url is for --agent openai:MODEL",
    )
    for options, said in {
        ("--agent", "random", "--prompting", "react"): "--prompting is for --agent openai:MODEL",
        ("--agent", "random", "--force"): "--force is for the agent of a run",
        (
            "--agent",
            "openai:m",
            "--trials",
            "2",
            "--server.base_url",
            "http://x",
        ): "--trials is for --prompting reflexion",
        ("--panel", "unseen"): "--panel is for --agent",
    }.items():
        refused(reflect_rl("evaluate", "taxi", *options, cwd=tmp_path), said)
    refused(
        reflect_rl("evaluate", "taxi", "--agent", "openai:m", "--server.concurency", "3", cwd=tmp_path),
        "unknown setting 'server.concurency'",
    )
    assert list(tmp_path.iterdir()) == [run]
    ended = reflect_rl("evaluate", str(run), "--agent", "expert", "--episodes", "2", "--out", "o", cwd=tmp_path)
    assert ended.code == 0, ended.err  # the world of a run
    assert reflect_rl("export", str(run), "--to", "agent", cwd=tmp_path).code == 0
    for options in ((), ("--out", "copy")):
        refused(reflect_rl("evaluate", "agent", *options, cwd=tmp_path), "reflect-rl evaluate agent --agent agent")
    ended = reflect_rl("evaluate", "agent", "--agent", "agent", "--episodes", "2", cwd=tmp_path)
    assert ended.code == 0, ended.err


@pytest.mark.browser
def test_the_page_of_an_agent(browser: Any, measure: Any, tmp_path: Path) -> None:
    measure("own_agents:Clumsy", episodes=1)
    opened = Opened(browser, tmp_path / "out" / "report.html")
    assert opened.errors == []
    assert opened.text("h1") == "own_agents:Clumsy"
    row = opened.page.locator("#result tbody tr").first.inner_text().split("\t")
    assert row[1:3] + row[7:8] == ["played", "0.0 %", "100.0 %"]
    assert "slip" in opened.text("#provenance")
    opened.page.close()


@pytest.mark.parametrize(("processes", "fails"), [(0, False), (1, False), (0, True)])
def test_workers_make_few_worlds_and_close_them(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, fails: bool
) -> None:
    """To make a world may take longer than to play in it. All are closed, also after an error."""
    name = f"counted_{processes}_{fails}"
    (tmp_path / f"{name}.py").write_text(
        "from corridor import Corridor\n\nclass World(Corridor):\n"
        "    def __init__(self, horizon=8, folder=''):\n        super().__init__(horizon)\n"
        "        self.folder = folder\n        open(folder + '/made', 'a').write('x')\n"
        "    def close(self):\n        open(self.folder + '/closed', 'a').write('x')\n"
        + ("    def step(self, action):\n        raise ValueError('broken')\n" if fails else "")
    )
    monkeypatch.chdir(tmp_path)
    world = {"env.name": f"{name}:World", "env.options": {"folder": str(tmp_path)}, "env.processes": processes}
    plan = Plan(tiny(world), "own_agents:toward_the_item", ("test", "valid"), workers=2)
    with pytest.raises(EnvironmentContractError, match="broken") if fails else nullcontext():
        evaluate_agent(plan, tmp_path / "out", Progress())
    made = (tmp_path / "made").stat().st_size
    assert made <= 4  # 12 games: two workers, the panels, and the check of the world
    deadline = time.monotonic() + 30  # after an error, workers end by themselves
    while not (tmp_path / "closed").exists() or (tmp_path / "closed").stat().st_size < made - 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
