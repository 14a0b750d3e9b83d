"""Any agent on the fixed panels: the same episodes as trained agents play, whatever the agent and wherever it runs."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import own_agents
from conftest import Heard
from corridor import Corridor
from end_to_end import Kill, reflect_rl, refused, timeless
from fake_server import FakeServer, error
from own_agents import Decided
from reflect_rl.agents import evaluation
from reflect_rl.agents.evaluation import Plan, chosen_tasks, evaluate_agent
from reflect_rl.agents.language import LanguagePlan, Prompting
from reflect_rl.agents.trained import is_trained
from reflect_rl.bench.chat_server import completion, response
from reflect_rl.errors import (
    AgentError,
    EnvironmentContractError,
    OutputError,
    RunFolderError,
    ServerError,
    SettingsError,
    WorkerError,
)
from reflect_rl.evaluation.evaluate import evaluate
from reflect_rl.model_servers.answers import begins_with_choice, labels_for, read_choice, read_thought
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.rollouts import each_episode
from reflect_rl.settings import Settings
from reflect_rl.settings.server import ServerSettings
from report_page import Opened

Tiny = Callable[..., Settings]
TESTS = Path(__file__).parent
SECRET = "sk-planted-4711-secret"


@pytest.fixture
def measure(tiny: Tiny, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Evaluate an agent in the corridor; return its results and its episodes in order."""

    def measured(agent: str, out: str = "out", **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        overrides, progress = options.pop("overrides", {}), options.pop("progress", Progress())
        plan = Plan(tiny({"env.options": {}} | overrides), agent, **options)
        run = evaluate_agent(plan, tmp_path / out, progress)
        return run.read_json("results.json"), episodes(run)

    return measured


def episodes(run: RunFolder) -> list[dict[str, Any]]:
    """Without times, in the order of the panels."""
    rows = [timeless(row) for row in each_episode(run / "episodes.jsonl")]
    return sorted(rows, key=lambda row: (row["panel"], row["number"], row["trial"]))


def played(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[int], str]]:
    return [(row["task"], [step["choice"] for step in row["steps"]], row["stop"]) for row in rows]


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


# Answers


WORDS = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=8).filter(
        lambda word: word not in ("answer", "choice", "label", "option", "action", "choose", "pick", "select", "the")
    ),
    min_size=2,
    max_size=3,
).map(" ".join)


@given(actions=st.lists(WORDS, min_size=1, max_size=70, unique=True), data=st.data())
def test_one_choice_is_read_however_it_is_written(actions: list[str], data: st.DataObject) -> None:
    labels = labels_for(len(actions))
    assert len(set(labels)) == len(actions)
    index = data.draw(st.integers(0, len(actions) - 1))
    label, action = labels[index], actions[index]
    for text in (
        *(label, f"{label})", f"({label})", f"{label}.", f"**{label}**", f"The answer is {label}.", f"Answer: {label}"),
        *(action, action.upper(), f'"{action}".', f"I will {action}!", f"{label}) {action}", f"[{label}] {action}"),
        f"\n\n{label}\n\n{actions[0]} is worse.",
    ):
        assert read_choice(text, actions, labels) == index, text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", None),
        ("I do not know.", None),
        ("A) go north", None),  # the label of one, the text of another
        ("go north or go south", None),
        ("go to shelf 10", 3),
        ("Let me go to shelf 1.", 2),
        ("E", None),
        ("A good idea would be to wait.", None),
        ("The best action is a left turn.", None),
        ("My choice is a guess.", None),
        ("My choice: a", 0),
        ("The answer is A, since it is near.", 0),
        ("The answer is B because it is near.", 1),
        ("b", 1),
        ("Let me think.\nThe best choice: C", 2),
        ("GO  NORTH", 1),
    ],
)
def test_what_is_read_and_what_is_not(text: str, wanted: int | None) -> None:
    actions = ["go south", "go north", "go to shelf 1", "go to shelf 10"]
    assert read_choice(text, actions, labels_for(4)) == wanted


@pytest.mark.parametrize(
    ("text", "actions", "wanted"),
    [
        ("-1", ["1", "-1"], 1),
        ("**-1**.", ["1", "-1"], 1),
        ("\N{MINUS SIGN}1", ["1", "-1"], 1),
        ("- 1", ["-1", "1"], 1),
        ("- B", ["1", "-1"], 1),
        ("-1", ["-2", "1"], None),
        ("-1.", [f"cell {number}" for number in range(60)], None),  # the labels are numbers
        ("Answer: 1", ["-1", "1"], 1),
        ("I choose move 1", ["move -1", "move 1"], 1),
        ("I choose move -1, not left-1.", ["move 1", "move -1"], 1),
        ("-", ["+", "-"], 1),
        ("(a) is wrong", ["north", "south"], None),
        ("(a)", ["north", "south"], 0),
        ("I take (A).", ["north", "south"], 0),
        ("(A) south", ["north", "south"], None),
        ("(A) north", ["north", "south"], 0),
        ("Action: I would open the drawer on the left", [f"open drawer {number}" for number in range(1, 11)], None),
        ("GO NORTH", ["Go north", "go north"], None),
        ("There are many options.", [f"go to shelf {number}" for number in range(1, 21)], None),
        ("I choose option B", ["north", "south"], 1),
        ("go north", ["Go north", "go north"], 1),
    ],
)
def test_signs_articles_and_equal_words_are_told_apart(text: str, actions: list[str], wanted: int | None) -> None:
    assert read_choice(text, actions, labels_for(len(actions))) == wanted


@pytest.mark.parametrize(
    ("text", "begins"),
    [("B", True), ("B) go north", True), ("B.\nIt is near.", True), ("I choose B", False), ("I go north", False)],
)
def test_whether_an_answer_begins_with_its_label(text: str, begins: bool) -> None:
    actions = ["go south", "go north", *(f"open drawer {number}" for number in range(8))]
    assert read_choice(text, actions, labels_for(10)) == 1
    assert begins_with_choice(text, actions, labels_for(10)) == begins


def test_a_thought_and_the_first_action_after_it() -> None:
    assert read_thought("Thought: it is dark.\nAction: light the lamp") == ("it is dark.", "light the lamp")
    assert read_thought("It is dark.\n**Action:** B\nObservation: lit\nAction: C") == ("It is dark.", "** B")
    assert read_thought("light the lamp") == ("light the lamp", "light the lamp")


# Language models


def way(request: dict[str, Any]) -> str:
    """What leads to the item, from the last observation of a prompt."""
    seen = [line for line in request["messages"][-1]["content"].splitlines() if set(line) <= set("iPx.") and line]
    return own_agents.toward_the_item(seen[-1], ())


@pytest.fixture
def ask(tiny: Tiny, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Evaluate the model of a server in the corridor; return its results and its episodes in order."""

    def asked(at: FakeServer, style: str, out: str = "out", **options: Any) -> Any:
        served = {"model": "m", "base_url": at.base_url, "retries": 2, "timeout": 5, **options.pop("server", {})}
        prompting = {name: options.pop(name, None) for name in ("folder", "history", "max_tokens")}
        loaded = Prompting.load(style, trials=options.pop("trials", 3), **prompting)  # type: ignore[arg-type]
        settings = tiny({"env.options": {}})
        plan = LanguagePlan(settings, "openai:m", **options, prompting=loaded, server=ServerSettings(**served))
        run = evaluate_agent(plan, tmp_path / out, Progress())
        return run.read_json("results.json"), episodes(run)

    return asked


def test_a_model_chooses_by_label_and_plays_as_the_expert_does(ask: Any, measure: Any) -> None:
    def reply(request: dict[str, Any]) -> str:
        choices = request["messages"][-1]["content"].partition("Choices:")[2].split("\n")
        return next(line for line in choices if line.endswith(f") {way(request)}")).partition(")")[0]

    with FakeServer(reply=reply, delay=0.02) as server:
        results, rows = ask(server, "direct", panels=("test", "valid"))
    assert played(rows) == played(measure("expert", "expert", panels=("test", "valid"))[1])
    figures = results["panels"]["test"]["played"]
    steps = [step for row in rows if row["panel"] == "test" for step in row["steps"]]
    assert figures["steps"] == len(steps)
    assert figures["invalid"] == 0
    assert figures["completion_tokens"] == 5 * len(steps)
    assert figures["usd"] is None
    assert server.most_at_once > 1
    assert max(server.calls.values()) == 1  # equal prompts are sent once
    assert results["prompting"]["style"] == "direct"


def test_a_cost_that_is_known_of_some_answers_only_is_not_known(ask: Any, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 10, output: 10}\n")
    with FakeServer(reply=lambda r: f"Thought: hm\nAction: {way(r)}") as server:
        ask(server, "react", episodes=2)
        results, rows = ask(server, "react", episodes=4, server={"prices": str(prices)})
        known, _ = ask(server, "react", "known", episodes=4, server={"prices": str(prices)})
    assert sum(row["usd"] is None for row in rows) == 2
    assert results["panels"]["test"]["played"]["usd"] is None
    assert known["panels"]["test"]["played"]["usd"] > 0


def test_prompts_that_are_too_long_for_the_model_are_told_while_it_plays(
    tiny: Tiny, tmp_path: Path, heard: Heard
) -> None:
    class Short(FakeServer):
        async def respond(self, request: Any, headers: Any, writer: Any) -> None:
            if len(request["messages"][-1]["content"]) > self.most:
                writer.write(error(400, "This model's maximum context length is 2048 tokens."))
            else:
                await super().respond(request, headers, writer)

    with Short(reply=lambda r: f"Thought: hm\nAction: {way(r)}") as server:
        served = ServerSettings(model="m", base_url=server.base_url)
        prompting = Prompting.load("react", None, 1, None, None)
        for server.most, warnings in ((10_000, 0), (1, 1)):
            plan = LanguagePlan(tiny(), "openai:m", prompting=prompting, server=served)
            evaluate_agent(plan, tmp_path / str(warnings), heard)
            long = [text for text in heard.warned if "too long for the model" in text]
            assert len(long) == warnings
    assert "--history" in long[0]


def test_react_shows_the_model_what_it_thought_and_did(ask: Any) -> None:
    with FakeServer(
        reply=lambda r: f"Thought: step {r['messages'][1]['content'].count('Action:')}\nAction: {way(r)}"
    ) as s:
        results, rows = ask(s, "react")
        assert results["panels"]["test"]["played"]["success"] == 1
        row = max(rows, key=lambda row: row["length"])
        assert row["length"] >= 3
        assert [step["reflection"] for step in row["steps"]] == [f"step {n}" for n in range(row["length"])]
        ask(s, "react", "short", history=1)
        last = [r["messages"][-1]["content"] for r in s.requests]
    assert any(text.count("Thought: step") >= 3 for text in last)
    assert max(text.count("Thought: step") for text in last[len(rows) * 4 :]) <= 1


def test_reflexion_tries_again_with_its_lessons_and_reports_by_trial(ask: Any) -> None:
    def reply(request: dict[str, Any]) -> str:
        system = request["messages"][0]["content"]
        if "did not reach the goal" in request["messages"][-1]["content"]:
            return f"Walk first, {system.count('Walk first')} said before."
        return f"Action: {way(request) if system.count('Walk first') == 2 else 'take'}"

    with FakeServer(reply=reply) as server:
        results, rows = ask(server, "reflexion", trials=4)
    figures = results["panels"]["test"]
    assert [figures[f"trial {n}"]["success"] for n in (1, 2, 3, 4)] == [0, 0, 1, 1]
    assert [figures[f"trial {n}"]["stop_reasons"] for n in (1, 3)] == [{"dangerous": 6}, {"success": 6}]
    assert figures["trial 3"]["steps"] == sum(row["length"] for row in rows)
    assert [row["lesson"] for row in rows if row["number"] == 0 and "lesson" in row] == [
        *("Walk first, 0 said before.", "Walk first, 1 said before."),
    ]
    assert results["prompting"]["trials"] == 4


def test_more_trials_are_another_evaluation(ask: Any) -> None:
    """No lesson was written after the trial that was the last one, so a further one would be told too little."""
    with FakeServer(reply=lambda request: "Action: take") as server:
        ask(server, "reflexion", trials=2, episodes=1)
        assert ask(server, "reflexion", trials=2, episodes=2)[0]["prompting"]["trials"] == 2
        with pytest.raises(AgentError, match="trials: 2 -> 3"):
            ask(server, "reflexion", trials=3, episodes=1)


class Scoring(FakeServer):
    """Says `said`, and prefers the labels of a prompt in reverse order. first: the first token."""

    said, first = "B", "B"

    async def _faulty(self, fault: Any, request: Any, text: str, writer: Any) -> None:
        labels = [line[0] for line in text.partition("Choices:")[2].splitlines() if line[1:2] == ")"]
        tokens = [{"token": f" {label}", "logprob": -1.0 - n} for n, label in enumerate(reversed(labels))]
        good = completion(self.said)
        good["choices"][0]["logprobs"] = {"content": [{"token": self.first, "logprob": -1, "top_logprobs": tokens}]}
        writer.write(response(good))


def test_probabilities_of_the_server_decide_where_it_gives_them(ask: Any) -> None:
    with Scoring() as server:
        _, rows = ask(server, "direct", episodes=2)
    for step in (step for row in rows for step in row["steps"]):
        assert step["choice"] == len(step["actions"]) - 1
        assert sum(step["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert step["probabilities"][step["choice"]] == pytest.approx(math.exp(step["log_prob"]), abs=1e-4)


@pytest.mark.parametrize(
    ("said", "first"), [("A step aside, so I choose B", "A"), ("<think>A?</think>B", "<think>"), ("B", "A")]
)
def test_probabilities_of_a_first_token_that_is_no_label_do_not_count(ask: Any, said: str, first: str) -> None:
    with Scoring() as server:
        server.said, server.first = said, first
        _, rows = ask(server, "direct", episodes=1)
    for step in rows[0]["steps"]:
        assert "probabilities" not in step
        assert step["choice"] == 1


def test_no_answer_and_two_answers_are_no_choice(ask: Any) -> None:
    with FakeServer(fault=lambda text, tried: "filter") as server:
        results, rows = ask(server, "direct", "refused", episodes=1)
    assert results["panels"]["test"]["played"]["invalid"] == rows[0]["length"] > 0
    assert rows[0]["steps"][0]["said"].startswith("[no answer: refused by the server's filter")
    with FakeServer(reply=lambda request: "Thought: hm\nAction: A or B") as server:
        results, rows = ask(server, "react", "vague", episodes=1)
    assert all(step["invalid"] and step["choice"] == 0 for step in rows[0]["steps"])


def test_a_server_that_goes_away_and_a_budget_end_the_command_and_nothing_is_paid_twice(
    ask: Any, tmp_path: Path
) -> None:
    (tmp_path / "prices.yaml").write_text("m: {input: 1, output: 1}")
    priced = {"prices": str(tmp_path / "prices.yaml"), "concurrency": 2}
    with FakeServer(reply=lambda r: f"Thought: go on\nAction: {way(r)}") as server:
        with pytest.raises(ServerError, match="budget"):
            ask(server, "react", server=priced | {"budget_usd": 0.002})
        assert 0 < server.billed.total() < 20
        results, rows = ask(server, "react", server=priced)
        assert max(server.billed.values()) == 1
        total = sum(step["prompt_tokens"] for row in rows for step in row["steps"])
        figures = results["panels"]["test"]["played"]
        assert figures["prompt_tokens"] == total
        assert figures["usd"] == pytest.approx((total + figures["completion_tokens"]) / 1e6)
    with FakeServer(fault=lambda text, tried: "503") as server, pytest.raises(ServerError, match="did not answer"):
        ask(server, "react", "away", server={"retries": 0})


def test_a_killed_evaluation_of_a_model_continues_and_pays_nothing_twice(tmp_path: Path) -> None:
    with FakeServer(
        reply=lambda r: f"Action: {['south', 'north'][r['messages'][1]['content'].count('Action') % 2]}"
    ) as s:
        command = ("evaluate", "taxi", "--agent", "openai:m", "--prompting", "reflexion", "--trials", "2")
        command += ("--server.base_url", s.base_url, "--episodes", "3", "--server.concurrency", "1", "--out", "o")
        for call in (2, 7):
            kill = Kill("reflect_rl.model_servers.model:ServedModel.ask", call)
            assert reflect_rl(*command, cwd=tmp_path, kill=kill).code == -9
        ended = reflect_rl(*command, cwd=tmp_path)
        assert ended.code == 0, ended.err
        sent = [json.dumps(request["messages"]) for request in s.requests]
        assert len(set(sent)) == len(sent) == s.billed.total()
    rows = list(each_episode(tmp_path / "o" / "episodes.jsonl"))
    assert len({row["id"] for row in rows}) == len(rows) == 6


def test_no_key_is_in_any_file_or_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with FakeServer(reply=lambda r: "A", key=SECRET) as server:
        command = ("evaluate", "taxi", "--agent", "openai:m", "--episodes", "1", "--rollouts", "all.jsonl")
        command += ("--server.base_url", server.base_url)
        code = f"import os, sys; os.environ['OPENAI_API_KEY'] = {SECRET!r}\n"
        code += f"from reflect_rl.__main__ import run_command; sys.exit(run_command({list(command)!r}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        wrong = subprocess.run(
            [sys.executable, "-c", code.replace("= 'sk-", "= 'sk-wrong-").replace("'1'", "'2'")],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert wrong.returncode == 3, wrong.stderr
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    said = [done.stdout, done.stderr, wrong.stdout, wrong.stderr]
    assert len(written) > 5
    assert not any(b"planted" in text for text in [*written, *(text.encode() for text in said)])


def test_own_prompts_replace_the_librarys(ask: Any, tmp_path: Path) -> None:
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "direct.txt").write_text("{task} See {observation}. {unknown} {choices}")
    with FakeServer(reply=lambda r: "A") as server:
        ask(server, "direct", folder=own, episodes=1)
        with pytest.raises(AgentError, match="prompts: "):
            ask(server, "direct", episodes=1)
        (message,) = server.requests[0]["messages"]
    assert message["role"] == "user"
    assert message["content"].startswith("Walk to the item and take it. See ")
    assert "{unknown}" in message["content"]
    (own / "direct.txt").write_text("Go on: {choices}")
    with pytest.raises(SettingsError, match=r"direct.txt lacks \{observation\}"):
        Prompting.load("direct", own, 1, None, None)
    with pytest.raises(SettingsError, match=r"--prompts .* is no folder"):
        Prompting.load("direct", own / "direct.txt", 1, None, None)
    with pytest.raises(SettingsError, match=r"--prompts .* has none of react\.txt"):
        Prompting.load("react", own, 1, None, None)


@pytest.mark.parametrize(
    ("server", "said"),
    [({}, "There is no model server"), ({"base_url": "http://x", "budget_usd": 1.0}, "budget_usd needs a price")],
)
def test_what_cannot_be_asked_is_said_before_a_folder_is_made(
    server: dict[str, Any], said: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    prompting = Prompting.load("direct", None, 1, None, None)
    plan = LanguagePlan(tiny(), "openai:m", prompting=prompting, server=ServerSettings(model="m", **server))
    with pytest.raises(SettingsError, match=said):
        evaluate_agent(plan, tmp_path / "out", Progress())
    assert list(tmp_path.iterdir()) == []


def test_workers_are_not_for_served_models(ask: Any) -> None:
    with FakeServer() as server, pytest.raises(SettingsError, match=r"set --server\.concurrency"):
        ask(server, "direct", workers=2)


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
