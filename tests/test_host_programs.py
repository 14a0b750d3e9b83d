"""What a program that uses the library may rely on: its state is its own, and so is every file in its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from end_to_end import reflect_rl
from reflect_rl.errors import PromptError
from reflect_rl.memo import Memo
from reflect_rl.players.agent import Agent

SHADOWS = (
    "yaml",
    "json",
    "typing",
    "torch",
    "numpy",
    "cyclopts",
    "pydantic",
    "signal",
    "inspect",
    "errno",
    "tqdm",
    "re",
)
"""Names of libraries that commands use. (What Python imports before it looks for `-m` is beyond us.)"""
SHADOWED = 'raise SystemExit("a file of the current folder was run")'
WORLD = """
from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.records import StopReason

class Stay(SimpleTextEnv):
    actions = ("stay", "go")
    def tasks(self, split):
        return (split,)
    def begin(self, task, stage):
        from own_helper import WORD  # beside this file, and only when it plays
        self.word = WORD
    def observe(self):
        return self.word
    def act(self, choice):
        return 1.0, StopReason.SUCCESS
"""

LEFT_AS_IT_WAS = """
import gc, json, logging, os, random, signal, sys, warnings
import numpy, torch, transformers, gymnasium.spaces  # what they change when they are imported is theirs
import torch._dynamo, transformers.models.gpt2.modeling_gpt2, accelerate
from transformers.utils import logging as bars

def state():
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "gradients": torch.is_grad_enabled(),
        "collector": [gc.get_freeze_count(), gc.isenabled()],
        "random": hash(random.getstate()),
        "numpy": str(numpy.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "path": [*sys.path, *map(str, sys.meta_path), os.getcwd()],
        "warnings": list(map(str, warnings.filters)),
        "logging": [bars.get_verbosity(), bars.is_progress_bar_enabled(), logging.getLogger().level],
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
    }

torch.set_num_threads(2)
before = state()
def changed():
    after = state()
    return [name for name in before if before[name] != after[name]]
"""


def in_host(script: str, *arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=240, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loading_acting_and_running_leave_the_process_as_it_was(run: Path) -> None:
    script = """
import reflect_rl.players.agent, reflect_rl.evaluation.evaluate
before = state()
from reflect_rl import Agent, make
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.trained import read_config
agent = Agent.load(sys.argv[1])
observation, info = make("taxi").reset(seed=0)
agent.act(observation, info["actions"])
acted = changed()
settings = read_config(RunFolder(sys.argv[1]))
run_pipeline(settings, sys.argv[1], only=("evaluate",), force=True)
print(json.dumps([acted, changed()]))
"""
    assert json.loads(in_host(LEFT_AS_IT_WAS + script, str(run))) == [[], []]


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A folder whose files have the names of libraries, and a world of its own."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(SHADOWED)
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers/__init__.py").write_text(SHADOWED)
    (tmp_path / "own_world.py").write_text(WORLD)
    (tmp_path / "own_helper.py").write_text("WORD = 'beside'")
    return tmp_path


SCRIPT = "import sys; sys.path[0] = '/'; from reflect_rl.__main__ import main; main()"
"""As the console script does: its own folder stands first on the path."""


@pytest.mark.parametrize("start", [("-m", "reflect_rl"), ("-c", SCRIPT)], ids=["-m", "script"])
@pytest.mark.parametrize("command", ["recipes", "check own_world:Stay", "play own_world:Stay"])
def test_a_command_runs_nothing_of_the_current_folder_but_the_module_named(
    shadowed: Path, start: tuple[str, str], command: str
) -> None:
    done = subprocess.run(
        [sys.executable, *start, *command.split()], cwd=shadowed, input="", capture_output=True, text=True, timeout=120
    )
    assert "was run" not in done.stdout + done.stderr
    assert done.returncode == 0 or "own_world:Stay breaks" in done.stdout, done.stderr
    assert ("beside" in done.stdout) == command.startswith("play")


def test_importing_the_library_and_making_a_world_run_nothing_else_of_the_current_folder(shadowed: Path) -> None:
    script = """
import os, sys
sys.path = [place for place in sys.path if place]
os.chdir(sys.argv[1])
path = list(sys.path)
from reflect_rl import make
env = make("own_world:Stay")
print(type(env).__name__, sys.path == path, sys.modules["own_world"].__file__)
"""
    assert in_host(script, str(shadowed)).split() == ["Stay", "True", str(shadowed / "own_world.py")]


def test_the_module_named_wins_over_an_installed_one_of_its_name(shadowed: Path, tmp_path_factory) -> None:
    installed = tmp_path_factory.mktemp("installed")
    (installed / "own_world.py").write_text(SHADOWED)
    given = filter(None, [os.environ.get("PYTHONPATH")])  # an empty entry would be the current folder
    done = subprocess.run(
        [sys.executable, "-m", "reflect_rl", "play", "own_world:Stay"],
        cwd=shadowed,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *given])},
        input="",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, "beside" in done.stdout) == (0, True), done.stderr


def test_a_world_named_like_a_module_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(WORLD)
    ended = reflect_rl("check", "json:Stay", cwd=tmp_path)
    assert ended.code == 2
    assert "another one of this name is in use already" in ended.err
    assert "Give yours another name" in ended.err


def test_a_world_can_be_named_by_its_file(shadowed: Path) -> None:
    assert "beside" in reflect_rl("play", "./own_world.py:Stay", cwd=shadowed).out
    assert "does not lie in" in reflect_rl("play", "../own_world.py:Stay", cwd=shadowed).err


def test_workers_run_nothing_of_the_current_folder_either(shadowed: Path) -> None:
    (shadowed / "multiprocessing.py").write_text(SHADOWED)
    (shadowed / "pickle.py").write_text(SHADOWED)
    script = """
import os, sys
sys.path = [place for place in sys.path if place]
import operator, pickle
from reflect_rl.pipeline.workers import worker_pool
os.chdir(sys.argv[1])
with worker_pool(1) as pool:
    print(pool.submit(operator.add, 1, 2).result(), pool.submit(os.getenv, "PYTHONSAFEPATH").result())
print("PYTHONSAFEPATH" in os.environ)
"""
    assert in_host(script, str(shadowed)).split() == ["3", "None", "False"]


def test_an_agent_acts_from_any_thread_and_from_several(run: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        agent = pool.submit(Agent.load, run).result()
    world = agent.world
    states = [world.reset(seed=seed) for seed in range(6)]

    def act(state):
        return agent.act(state[0], state[1]["actions"]).choice

    alone = []
    for state in states:
        agent.reset()
        alone.append(act(state))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(act, states * 3))
    assert len(alone) == len(states)
    assert all(0 <= choice < 6 for choice in together)


def test_a_memo_is_read_and_written_by_several_threads(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo.sqlite", "model")

    def remember(number: int) -> str:
        memo.put({(f"prompt {number}", 0): f"text {number}"})
        return Memo(tmp_path / "memo.sqlite", "model").get([(f"prompt {number}", 0)])[f"prompt {number}", 0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(remember, range(40))) == [f"text {number}" for number in range(40)]


@pytest.fixture(scope="module")
def agent(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    import shutil

    return Agent.load(shutil.copytree(whole, tmp_path_factory.mktemp("acting") / "run"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("grid", []), "The actions are []"),
        (("grid", ()), "The actions are ()"),
        (("grid", "left"), "The actions are 'left'"),
        (("grid", None), "The actions are None"),
        (("grid", 3), "The actions are 3"),
        (("grid", ["left", "left"]), "distinct"),
        (("grid", ["left", 2]), "The actions are ['left', 2]"),
        (("grid", ["left", "\ud800"]), "The actions are"),
        ((None, ["left"]), "The observation is None"),
        ((7, ["left"]), "The observation is 7"),
        ((b"grid", ["left"]), "The observation is b'grid'"),
        (("\udcff", ["left"]), "lone surrogates"),
        (("grid", ["left"], ["facts"]), "The facts are ['facts']"),
        (("grid", [f"go {i}" for i in range(5000)]), "5000 actions"),
    ],
)
def test_what_is_no_state_is_one_message_and_leaves_the_episode_as_it_was(agent: Agent, arguments, said: str) -> None:
    agent.reset()
    observation, info = agent.world.reset(seed=1)
    first = agent.act(observation, info["actions"])
    with pytest.raises(PromptError) as caught:
        agent.act(*arguments)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400
    second = agent.act(observation, info["actions"])
    agent.reset()
    assert agent.act(observation, info["actions"]) == first
    assert agent.act(observation, info["actions"]) == second
