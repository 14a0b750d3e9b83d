"""The bridges from and to verifiers, by its own package in an environment of its own, where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import reflect_rl as rr
from bridges_page import Section, python_of, run
from reflect_rl.cli.look import check
from reflect_rl.errors import EnvironmentContractError

TASKSETS = """
import verifiers.v1 as vf

class GuessData(vf.TaskData):
    secret: int

class GuessTask(vf.Task[GuessData]):
    @vf.reward(weight=0.5)
    async def won(self, trace: vf.Trace) -> float:
        return float("right" in trace.info)

    @vf.stop
    async def third(self, trace: vf.Trace) -> bool:
        return trace.num_turns >= 3

class GuessTaskset(vf.Taskset[GuessTask, vf.TasksetConfig]):
    def load(self):
        for secret in range(6):
            yield GuessTask(GuessData(secret=secret, system_prompt="Guess."), self.config.task)
"""
GUESS = '''
class GuessEnv(vf.SingleAgentEnv):
    """Says whether a guess is too low or too high, three times."""
    async def run(self, task, agents):
        async with agents.agent.interaction(task) as interaction:
            said = "Which number?"
            while not (segment := await interaction.turn(said)).terminated:
                guess = int(segment.last_reply)
                if guess == task.data.secret:
                    interaction.trace.info["right"] = True
                    break
                if guess == 9:
                    raise RuntimeError("nine is out")
                said = "Too low." if guess < task.data.secret else "Too high."

__all__ = ["GuessEnv", "GuessTaskset"]
'''
BOXED = """
class BoxedTask(GuessTask):
    NEEDS_CONTAINER = True

class BoxedTaskset(vf.Taskset[BoxedTask, vf.TasksetConfig]):
    def load(self):
        for secret in range(6):
            yield BoxedTask(GuessData(secret=secret, prompt="?"), self.config.task)

class TwoConfig(vf.EnvConfig):
    one: vf.AgentConfig = vf.AgentConfig()
    two: vf.AgentConfig = vf.AgentConfig()

class TwoEnv(vf.Env[TwoConfig]):
    async def run(self, task, agents):
        pass
"""
PLAY = """
import asyncio, json
import reflect_rl as rr
from reflect_rl.envs.check import check

def world(name, **more):
    options = {"actions": {str(number): f" {number} " for number in range(10)}, "tasks": (4, 1, 1), "horizon": 4}
    return rr.from_verifiers(name, **{**options, **more})

def told(make):
    try:
        env = make()
        env.reset(options={"task": "task-3"})
        return str([env.step(9), env.step(9)])
    except rr.EnvironmentContractError as error:
        return str(error)

def episode(env, task, *choices):
    texts = [env.reset(options={"task": task})[0]]
    for choice in choices:
        text, reward, terminated, truncated, info = env.step(choice)
        texts.append(text)
    return texts, reward, terminated, info.get("success")

guess = world("guess")
found = {
    "checked": [str(finding) for finding in check(world("guess", actions=("2", "3"))) if not finding.ok],
    "right": episode(guess(), "task-3", 5, 0, 3),
    "wrong": episode(guess(), "task-3", 5, 4, 0),
    "own success": episode(world("guess", success=lambda seen, reward, done: seen == "Too high.")(), "task-3", 5),
    "left": episode(guess(), "task-1", 5),
    "failed": told(guess),
    "missing": told(world("no-such-environment")),
    "few": told(world("guess", tasks=(4, 4, 4))),
    "boxed": told(world("boxed")),
    "two": told(world("two")),
}

async def within_a_loop():  # as in a notebook
    return episode(guess(), "task-3", 3)

found["in a loop"] = asyncio.run(within_a_loop())

def offer(text):
    return [line[2:] for line in text.splitlines() if line.startswith("- ")]

taxi = rr.make("taxi")
tasks = taxi.tasks("valid")
options = {"world": "taxi", "split": "valid"}
served = rr.from_verifiers("reflect-rl-world", actions=offer, options=options, tasks=(2, 1, 1))()
text, info = served.reset(options={"task": "task-2"})
plain, _ = taxi.reset(options={"task": tasks[2]})
found["first"] = plain in text and info["actions"] == taxi.actions
total, over = 0.0, False
while not over:
    choice = taxi.expert()
    total += taxi.step(choice)[1]
    _, reward, over, _, info = served.step(choice)
found["served"] = [abs(reward - total) < 1e-9, info["success"]]
import verifiers.v1 as vf
from reflect_rl_alfworld import AlfworldTaskset
found["alfworld"] = vf.resolve_env_config({"taskset": {"id": "reflect-rl-alfworld"}}).taskset.world
from reflect_rl.cli.look import check as command
found["page checked"] = command("colours:TaughtColours")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `PLAY` saw, in one process: verifiers takes seconds to import."""
    python, folder = python_of("verifiers"), tmp_path_factory.mktemp("verifiers")
    (folder / "guess.py").write_text(TASKSETS + GUESS)
    (folder / "boxed.py").write_text(TASKSETS + BOXED + '\n__all__ = ["BoxedTaskset"]\n')
    (folder / "two.py").write_text(TASKSETS + BOXED + '\n__all__ = ["GuessTaskset", "TwoEnv"]\n')
    section = Section("verifiers", folder)
    section.write_files()
    (code,) = section.marked("python")
    said = run([python, "-c", code + PLAY], folder, python).splitlines()
    return {**json.loads(said[-1]), "page said": said[0]}


def test_an_environment_keeps_every_promise(found: dict[str, Any]) -> None:
    assert found["checked"] == []


def test_a_conversation_is_an_episode_and_its_score_the_last_reward(found: dict[str, Any]) -> None:
    asked = "Guess.\n\nWhich number?"
    assert found["right"] == [[asked, "Too high.", "Too low.", "Too low."], 0.5, True, True]
    assert found["wrong"] == [[asked, "Too high.", "Too high.", "Too high."], 0.0, True, False]
    assert found["own success"] == [[asked, "Too high."], 0.0, True, True]
    assert found["left"][0] == [asked, "Too high."]


def test_it_can_be_played_from_within_an_event_loop(found: dict[str, Any]) -> None:
    assert found["in a loop"][1:] == [0.5, True, True]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("failed", "guess failed: RuntimeError: nine is out (guess.py, line"),
        ("missing", "no-such-environment cannot be loaded"),
        ("few", "has 6 tasks, and 12 are asked for"),
        ("boxed", "boxed needs a sandbox"),
        ("two", "two needs 2 agents (one, two)"),
    ],
)
def test_what_cannot_be_played_is_one_message(found: dict[str, Any], case: str, said: str) -> None:
    assert said in found[case]


def test_our_worlds_are_environments_of_verifiers(found: dict[str, Any]) -> None:
    assert found["first"] is True
    assert found["served"] == [True, True]
    assert found["alfworld"] == "alfworld"
    assert found["page said"] == "60 tasks"


def test_without_the_library_the_message_names_the_extra() -> None:
    try:
        import verifiers.v1  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(EnvironmentContractError, match=r"reflect-rl\[verifiers\]"):
            rr.from_verifiers("wordle", actions=("[crane]",))()
    else:
        pytest.skip("verifiers is installed here")


def test_the_page_trains_an_agent(tmp_path: Path, found: dict[str, Any]) -> None:
    assert found["page checked"] == 0
    section = Section("verifiers", tmp_path)
    section.write_files()
    section.reflect_rl("run", python_of("verifiers"))
    panels = rr.Run(tmp_path / "runs" / "colours").results["panels"]
    assert panels["all"]["greedy"]["success"] > 0.9


def test_the_pages_lake_is_a_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = Section("Gymnasium", tmp_path)
    section.write_files()
    assert check(section.command("check")[1]) == 0
    assert "keeps every promise" in capsys.readouterr().out
