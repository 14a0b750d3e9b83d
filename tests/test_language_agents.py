"""Language models behind a server as agents: prompting styles, budgets, probabilities, kills and secrets."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import own_agents
from agent_runs import episodes, played
from conftest import Heard
from end_to_end import Kill, reflect_rl
from fake_server import FakeServer, error
from reflect_rl.agents.evaluation import evaluate_agent
from reflect_rl.agents.language import LanguagePlan, Prompting
from reflect_rl.bench.chat_server import completion, response
from reflect_rl.errors import (
    AgentError,
    ServerError,
    SettingsError,
)
from reflect_rl.progress import Progress
from reflect_rl.runs.rollouts import each_episode
from reflect_rl.settings import Settings
from reflect_rl.settings.server import ServerSettings

Tiny = Callable[..., Settings]
SECRET = "sk-planted-4711-secret"


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
