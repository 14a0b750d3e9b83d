"""The worlds that ship are Gymnasium's too: made by id, alone and side by side, and past its own checker."""

from __future__ import annotations

import doctest
import re
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from alfworld_games import folder_data, needs_data
from reflect_rl.envs import base
from reflect_rl.envs.alfworld.data import AlfworldDataError
from reflect_rl.envs.alfworld.world import Alfworld
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.check import check
from reflect_rl.envs.gym import ActionMask
from reflect_rl.envs.taxi.world import DangerousTaxi
from reflect_rl.errors import EnvironmentContractError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "environments.md"
WORLDS = [("reflect_rl/Taxi-v0", {}, DangerousTaxi), ("reflect_rl/ALFWorld-v0", {"data": "generated"}, Alfworld)]
worlds = pytest.mark.parametrize(("name", "options", "world"), WORLDS, ids=[name for name, *_ in WORLDS])


@worlds
@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_checker_passes_without_a_warning(name, options, world):
    env = gymnasium.make(name, **options)
    assert isinstance(env.unwrapped, world)
    check_env(env.unwrapped)
    assert gymnasium.make(name, render_mode="ansi", **options).unwrapped.render_mode == "ansi"


@worlds
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_several_are_played_side_by_side_by_their_masks(name, options, world, mode):
    extra = {"shared_memory": False} if mode == "async" else {}
    envs = gymnasium.make_vec(name, num_envs=3, vectorization_mode=mode, vector_kwargs=extra, **options)
    alone = gymnasium.make(name, **options)
    observations, infos = envs.reset(seed=5)
    assert observations[0] == alone.reset(seed=5)[0]
    envs.action_space.seed(0)
    for _ in range(30):
        for mask, actions in zip(infos["action_mask"], infos["actions"], strict=True):
            assert (mask.dtype, int(mask.sum())) == (np.int8, len(actions))
        choices = envs.action_space.sample(mask=tuple(infos["action_mask"]))
        observations, _, _, _, infos = envs.step(choices)
        assert all(isinstance(text, str) and text for text in observations)
    envs.close()


def test_an_inadmissible_action_is_a_step_in_which_nothing_happens():
    env = gymnasium.make("reflect_rl/ALFWorld-v0", data="generated", horizon=2, step_reward=-0.5).unwrapped
    _, info = env.reset(seed=0)
    beyond = len(info["actions"])
    assert list(info["action_mask"][beyond - 1 : beyond + 1]) == [1, 0]
    text, reward, terminated, truncated, after = env.step(beyond)
    assert text.splitlines()[-1] == "Nothing happens."
    assert (reward, terminated, truncated, after["actions"]) == (-0.5, False, False, info["actions"])
    assert env.step(np.int64(999))[3]
    for choice in (0, beyond):
        with pytest.raises(EnvironmentContractError, match="after the end"):
            env.step(choice)
    env.reset(seed=0)
    for wrong in (1000, -1, 0.5):
        with pytest.raises(EnvironmentContractError, match="it takes an index"):
            env.step(wrong)


def test_tasks_are_drawn_from_the_split_that_was_asked_for():
    for split in ("train", "valid", "test"):
        env: Any = gymnasium.make("reflect_rl/ALFWorld-v0", data="generated", split=split).unwrapped
        drawn = {env.reset(seed=seed)[1]["task"] for seed in range(20)}
        assert len(drawn) > 5
        assert drawn <= set(env.tasks(split))
    with pytest.raises(EnvironmentContractError, match="Did you mean 'valid_unseen'"):
        gymnasium.make("reflect_rl/ALFWorld-v0", split="valid_unsen")


@needs_data
def test_a_split_may_be_named_as_in_the_data():
    env = gymnasium.make("reflect_rl/ALFWorld-v0", data=str(folder_data().path), split="valid_seen").unwrapped
    assert env.reset(seed=0)[1]["task"].startswith("valid_seen/")
    with pytest.raises(AlfworldDataError, match="valid_unseen"):
        gymnasium.make("reflect_rl/ALFWorld-v0", data=str(folder_data().path), split="valid_unseen").reset()


@pytest.mark.parametrize(
    "script",
    [
        "import gymnasium, reflect_rl; gymnasium.spec('reflect_rl/Taxi-v0')",
        "import reflect_rl.envs.gym, gymnasium; gymnasium.spec('reflect_rl/ALFWorld-v0')",
        "import gymnasium; gymnasium.make('reflect_rl.envs.gym:reflect_rl/Taxi-v0')",
    ],
)
def test_importing_registers_the_worlds_and_loads_no_model_library(script):
    after = "; import sys; assert not {'torch', 'transformers', 'reflect_rl.envs.alfworld.world'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script + after], check=True, timeout=60)


def test_the_documented_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [block] = [block for block in blocks if "import reflect_rl.envs.gym" in block]
    exec(block, {})  # noqa: S102


@pytest.mark.filterwarnings("error")
def test_a_world_of_ones_own_is_fitted_by_the_mixin(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from examples.my_environment import Corridor

    class MaskedCorridor(ActionMask, Corridor):
        observation_space = gymnasium.spaces.Text(20, charset=string.printable)

    gymnasium.register("Corridor-v0", MaskedCorridor)
    try:
        check_env(gymnasium.make("Corridor-v0").unwrapped)
    finally:
        del gymnasium.registry["Corridor-v0"]


def test_the_example_of_the_contract_keeps_it():
    examples = doctest.DocTestFinder().find(TextEnv, globs=vars(base).copy())
    [example] = [each for each in examples if each.name == "TextEnv"]
    runner = doctest.DocTestRunner()
    runner.run(example, clear_globs=False)
    assert (runner.failures, runner.tries) == (0, 5)
    assert [str(finding) for finding in check(example.globs["Cups"]) if not finding.ok] == []
