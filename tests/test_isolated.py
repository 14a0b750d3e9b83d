"""Worlds in processes of their own: the same answers, time-outs, deaths, and what a run does about them."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Heard
from corridor import Corridor
from reflect_rl.agents.evaluation import Plan, evaluate_agent
from reflect_rl.data.collect import collect
from reflect_rl.envs import losses, registry
from reflect_rl.envs.checked import advance, begin, expert_choices, facts_of
from reflect_rl.envs.isolated import WORKER, IsolatedEnv
from reflect_rl.envs.losses import TRIES
from reflect_rl.envs.promises import BrokenPromiseError
from reflect_rl.envs.registry import register
from reflect_rl.errors import EnvironmentContractError, WorldLostError
from reflect_rl.evaluation.evaluate import evaluate
from reflect_rl.players.context import Context
from reflect_rl.records import Episode
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.rl import rl

LIMIT = 20.0
"""Seconds after which something counts as never happening, on a busy machine too."""
Made = Callable[..., IsolatedEnv]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No process of a world outlives its test."""
    yield
    gc.collect()
    assert soon(lambda: not [pid for pid in children() if WORKER in command_of(pid)])


@pytest.fixture
def made() -> Iterator[Made]:
    """Makes worlds that are closed in the end."""
    worlds: list[IsolatedEnv] = []

    def make(name: str, **options: Any) -> IsolatedEnv:
        own = {key: options.pop(key) for key in ("timeout", "memory", "idle") if key in options}
        worlds.append(IsolatedEnv(name, options, **own))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def pid_of(env: IsolatedEnv) -> int:
    assert env._world is not None
    return env._world.pid


def children() -> list[int]:
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has just ended
        return ""


def group(leader: int) -> list[int]:
    """The live processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def soon(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def walk(env: Any, task: str, seed: int) -> list[Any]:
    """All that an episode tells."""
    random, told, stop = np.random.default_rng(seed), [], None
    observation, actions, info = begin(env, seed, {"task": task})
    while stop is None:
        told += [observation, actions, info, facts_of(env), expert_choices(env, actions), env.horizon]
        observation, actions, reward, stop = advance(env, int(random.integers(len(actions))))
        told += [reward, stop]
    return [*told, observation, actions]


class TestEnv:
    def test_it_answers_as_the_world_does(self, made: Made) -> None:
        own, other = Corridor(slip=0.3), made("corridor:Corridor", slip=0.3)
        for name in ("task_text", "horizon", "stages", "teachers"):
            assert getattr(own, name) == getattr(other, name)
        assert own.panels() == other.panels()
        assert own.kind("0-1") == other.kind("0-1")
        tasks = own.tasks("test")
        assert tasks == other.tasks("test")
        for seed, task in enumerate(tasks):
            assert walk(own, task, seed) == walk(other, task, seed)
        assert own.reset(seed=1)[0] == other.reset(seed=1)[0]
        assert own.reset()[0] == other.reset()[0]  # the generator goes on

    def test_errors_are_those_of_the_world(self, made: Made) -> None:
        env = made("taxi")
        with pytest.raises(EnvironmentContractError, match="There is no task 'nowhere'"):
            env.reset(options={"task": "nowhere"})
        with pytest.raises(EnvironmentContractError, match="before reset"):
            env.step(0)
        env.reset(seed=0)
        with pytest.raises(EnvironmentContractError, match=r"step\(\) was given 6"):
            env.step(6)
        with pytest.raises(EnvironmentContractError, match="There is no split 'all'"):
            env.tasks("all")
        env.step(0)

    def test_a_broken_promise_is_the_message_that_it_is_without_a_process(self, made: Made) -> None:
        env = made("broken_worlds:StepRaises")
        env.reset(seed=0)
        with pytest.raises(BrokenPromiseError, match=r"broken_worlds:StepRaises .*step\(0\) raised ZeroDivisionError"):
            env.step(0)

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("nowhere", {}, "There is no world 'nowhere'"),
            ("corridor:Corridor", {"speed": 3}, "There is no option 'speed'"),
            ("odd_worlds:ExitsWhenMade", {}, "could not be made with no options: SystemExit: no licence"),
            ("corridor:Corridor", {"horizon": {1, 2}}, "Give its constructor text, numbers"),
        ],
    )
    def test_a_world_that_cannot_be_made_says_why(self, made: Made, name: str, options: Any, words: str) -> None:
        with pytest.raises(EnvironmentContractError, match=words):
            made(name, **options).tasks("test")

    def test_registered_classes_are_found_by_their_module(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "_WORLDS", {})
        register("own corridor", Corridor)
        assert made("own corridor").tasks("test") == Corridor().tasks("test")
        register("scripted", type("Here", (Corridor,), {"__module__": "__main__"}))
        with pytest.raises(EnvironmentContractError, match="Move the class to a module"):
            made("scripted")

    def test_a_closed_world_is_of_no_more_use(self, made: Made) -> None:
        env = made("taxi")
        env.reset(seed=0)
        pid = pid_of(env)
        env.close()
        env.close()
        assert not group(pid)
        with pytest.raises(EnvironmentContractError, match="taxi was closed"):
            env.reset(seed=0)

    def test_an_error_in_closing_is_told(self, made: Made) -> None:
        env = made("odd_worlds:CannotBeClosed")
        env.tasks("test")
        with pytest.raises(BrokenPromiseError, match="the socket is gone"):
            env.close()

    def test_idle_processes_are_used_again(self, made: Made) -> None:
        idle: list[Any] = []
        first = made("taxi", idle=idle)
        first.reset(seed=0)
        pid = pid_of(first)
        first.close()
        second = made("taxi", idle=idle)
        assert pid_of(second) == pid
        assert second.reset(seed=0)[0] == made("taxi").reset(seed=0)[0]
        second._idle = None


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("hang", r"step\(\) took longer than 1 seconds, so that its process was killed \(hostile_worlds.py, line"),
            ("hang_in_native_code", r"took longer than 1 seconds"),
            ("leave", r"its process ended \(exit code 3\) while it was at step\(\)"),
            ("crash", r"ended \(exit code -11\) while it was at step\(\) \(hostile_worlds.py, line"),
            ("close_all", r"step\(\) took longer than 1 seconds"),
        ],
    )
    def test_the_episode_is_lost_and_the_next_begins(self, made: Made, fault: str, words: str, tmp_path: Path) -> None:
        env = made("hostile_worlds:Faulty", fault=fault, marks=str(tmp_path), most=1, timeout=1.0)
        env.reset(seed=0, options={"task": "0-3"})
        pid = pid_of(env)
        with pytest.raises(WorldLostError, match=f"^hostile_worlds:Faulty: .*{words}"):
            env.step(0)
        assert not group(pid)
        for method in (lambda: env.step(0), env.expert, env.describe):  # until a reset
            with pytest.raises(WorldLostError):
                method()
        assert walk(env, "0-3", 5) == walk(Corridor(), "0-3", 5)
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_reset_that_hangs_is_lost(self, made: Made) -> None:
        env = made("hostile_worlds:Faulty", fault="hang", at=0, task="0-3", timeout=1.0)
        with pytest.raises(WorldLostError, match=r"reset\(\) took longer than 1 seconds"):
            env.reset(options={"task": "0-3"})
        env.reset(options={"task": "0-4"})

    def test_what_a_world_prints_reads_forks_and_leaks_stays_its_own(self, made: Made) -> None:
        env, own = made("hostile_worlds:Rude", memory=5), Corridor()
        pids = set()
        for seed, task in enumerate(own.tasks("test")):
            assert walk(env, task, seed) == walk(own, task, seed)
            pids.add(pid_of(env))
        assert 1 < len(pids) <= len(own.tasks("test")), "a process that grew was replaced"
        env.close()
        assert soon(lambda: not any(group(pid) for pid in pids))

    @pytest.mark.parametrize("fault", ["hang", "hang_in_native_code"])
    def test_no_process_outlives_a_killed_parent(self, fault: str, tmp_path: Path) -> None:
        code = (
            "import sys\n"
            "from reflect_rl.envs.isolated import IsolatedEnv\n"
            f"idle = IsolatedEnv('hostile_worlds:Rude'); idle.reset(seed=0); idle.step(0)\n"
            f"busy = IsolatedEnv('hostile_worlds:Faulty', {{'fault': {fault!r}, 'marks': {str(tmp_path)!r}}})\n"
            "busy.reset(seed=0)\n"
            "print(idle._world.pid, busy._world.pid, flush=True)\n"
            "busy.step(0)\n"
        )
        here = Path(__file__).parent  # the worlds' own folder
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=here) as parent:
            assert parent.stdout is not None
            pids = [int(word) for word in parent.stdout.readline().split()]
            assert soon(lambda: any(tmp_path.iterdir()))
            assert all(group(pid) for pid in pids)
            os.kill(parent.pid, signal.SIGKILL)
        assert soon(lambda: not any(group(pid) for pid in pids))


def outputs(run: RunFolder) -> dict[str, Any]:
    """What RL and evaluation wrote, without times."""
    found = {}
    for name in ("metrics.jsonl", "results.json", "evaluation.jsonl"):
        rows = run.read_jsonl(name, dict) if name.endswith("l") else [run.read_json(name, dict)]
        found[name] = [{key: row[key] for key in row if "seconds" not in key} for row in rows]
    return found


@pytest.fixture
def faulty(tiny: Callable[..., Settings], tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a faulty world, whose faults leave marks."""

    def settings(processes: int = 2, **options: Any) -> Settings:
        (tmp_path / "marks").mkdir(exist_ok=True)
        world = {"slip": 0.1, "marks": str(tmp_path / "marks"), **options}
        own = {"env.name": "hostile_worlds:Faulty", "env.options": world, "collect.episodes": 20, "rl.iterations": 1}
        return tiny(own | {"env.processes": processes, "env.timeout": 5, "evaluate.sampled_episodes": 1})

    return settings


class TestStages:
    def test_the_same_bytes_whatever_the_process_count(
        self, warmed: RunFolder, tiny: Callable[..., Settings], tmp_path: Path, heard: Heard
    ) -> None:
        told = []
        for count in (0, 1, 3):
            run = RunFolder(shutil.copytree(warmed.path, tmp_path / str(count)))
            context = Context(tiny({"env.processes": count, "collect.episodes": 10, "rl.iterations": 1}))
            counts = {stage.__name__: stage(run, context, heard) for stage in (collect, rl, evaluate)}
            context.end_worlds()
            told.append([counts, outputs(run), run.hash("episodes.jsonl"), run.hash("policy")])
        assert told[0] == told[1] == told[2]
        assert not heard.warned

    def test_a_passing_fault_changes_nothing_but_the_count(
        self, faulty: Callable[..., Settings], heard: Heard, tmp_path: Path
    ) -> None:
        run = RunFolder(tmp_path / "collected")
        run.path.mkdir()
        counts = collect(run, Context(faulty(fault="hang", most=2)), heard)
        assert len(list((tmp_path / "marks").iterdir())) == 2 <= counts["lost"]
        assert "hostile_worlds.py, line" in heard.warned[0]
        assert f"begun again: {counts['lost']}; given up" in heard.warned[0]
        episodes = run.read_jsonl("episodes.jsonl", Episode.from_json)
        collect(run, Context(faulty(most=0, processes=0)), heard)
        assert episodes == run.read_jsonl("episodes.jsonl", Episode.from_json)

    def test_a_start_that_is_always_lost_counts_as_a_failure(
        self, warmed: RunFolder, faulty: Callable[..., Settings], heard: Heard
    ) -> None:
        shutil.copytree(warmed / "policy-sft", warmed / "policy")
        told = evaluate(warmed, Context(faulty(task=Corridor().tasks("test")[0])), heard)
        panels = warmed.read_json("results.json", dict)["panels"]
        for panel, lost in (("test", 1), ("valid", 0)):
            for figures in panels[panel].values():
                assert figures["stop_reasons"].get("lost", 0) == lost
                assert sum(figures["stop_reasons"].values()) == figures["episodes"] == 6
        assert told["lost"] == 2 * TRIES
        assert f"begun again: {told['lost']}; given up after 3 tries: 2. The last: " in heard.warned[-1]

    def test_rl_goes_on_without_the_lost_episodes(
        self, warmed: RunFolder, faulty: Callable[..., Settings], heard: Heard
    ) -> None:
        told = rl(warmed, Context(faulty(task=Corridor().tasks("train")[0], fault="crash")), heard)
        rows = warmed.read_jsonl("metrics.jsonl", dict)
        assert told["lost"] == sum(row["lost"] for row in rows) > 0
        for row in rows:
            assert row["episodes"] == sum(row["stop_reasons"].values()) == 16 - row["lost"] // TRIES

    def test_a_world_that_is_always_lost_ends_the_run_with_one_message(
        self, faulty: Callable[..., Settings], heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(losses, "MOST_IN_A_ROW", 4)
        with pytest.raises(EnvironmentContractError, match=r"^4 episodes in a row were lost.*exit code 3"):
            collect(RunFolder(tmp_path), Context(faulty(processes=1)), heard)

    def test_agents_play_on(self, faulty: Callable[..., Settings], tmp_path: Path, heard: Heard) -> None:
        settings = faulty(task=Corridor().tasks("test")[0])
        run = evaluate_agent(Plan(settings, "expert"), tmp_path / "agent", heard)
        figures = run.read_json("results.json", dict)["panels"]["test"]["played"]
        assert figures["episodes"] == 6
        assert figures["stop_reasons"]["lost"] == 1
        rows = run.read_jsonl("episodes.jsonl", dict)
        assert [row["lost"] for row in rows if row["stop"] == "lost"] == [TRIES]

    @pytest.mark.parametrize("agent", ["own_agents:Walker", "own_agents:AsyncWalker", "trained"])
    def test_agents_play_on_where_a_world_never_begins(
        self, warmed: RunFolder, faulty: Callable[..., Settings], tmp_path: Path, heard: Heard, agent: str
    ) -> None:
        settings = faulty(task=Corridor().tasks("test")[1], at=0)
        if agent == "trained":
            shutil.copytree(warmed / "policy-sft", warmed / "policy")
            warmed.write_text("config.yaml", json.dumps(settings.model_dump(mode="json")))
            agent = str(warmed.path)
        run = evaluate_agent(Plan(settings, agent), tmp_path / "agent", heard)
        rows = run.read_jsonl("episodes.jsonl", dict)
        assert len(rows) == 6
        assert [(row["lost"], row["steps"]) for row in rows if row["stop"] == "lost"] == [(TRIES, [])]
