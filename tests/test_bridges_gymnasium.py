"""An existing Gymnasium environment becomes a TextEnv."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from reflect_rl.envs.bridges.gymnasium import from_gymnasium
from reflect_rl.envs.check import check
from reflect_rl.envs.checked import begin
from reflect_rl.envs.registry import make
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

LAKE = ("left", "down", "right", "up")


def frozen_lake(**options):
    return from_gymnasium(
        lambda: gymnasium.make("FrozenLake-v1", **options),
        render=lambda observation, env: f"Cell {observation}.",
        actions=LAKE,
        tasks=(5, 3, 4),
        horizon=30,
        task_text="Cross the lake.",
        name="FrozenLake",
    )


def cliff():
    return from_gymnasium(
        "CliffWalking-v1",
        render=lambda observation, env: f"Row {observation // 12}, column {observation % 12}.",
        actions=("up", "right", "down", "left"),
        success=lambda observation, reward, terminated: terminated,
        tasks=(2, 1, 1),
    )


@pytest.mark.parametrize("world", [frozen_lake(), frozen_lake(is_slippery=False), cliff()])
def test_an_adapted_environment_keeps_every_promise(world):
    assert [str(finding) for finding in check(world) if not finding.ok] == []


def test_success_is_a_rewarded_end_and_a_hole_is_a_failure():
    env = frozen_lake(is_slippery=False)()
    for path, stop in (("ddrdrr", StopReason.SUCCESS), ("rd", StopReason.FAILURE)):
        env.reset(seed=0)
        for letter in path:
            _, _, terminated, truncated, info = env.step(next(i for i, name in enumerate(LAKE) if name[0] == letter))
        assert (terminated, truncated, info["stop"]) == (True, False, stop)
        assert info["success"] == (stop is StopReason.SUCCESS)


class Vector(gymnasium.Env):
    """Its observation is a vector that numpy would shorten."""

    observation_space = gymnasium.spaces.Box(0, 1, (2000,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"seen": np.arange(2000)}, {}


def test_by_default_a_long_vector_is_shown_whole():
    text, _ = from_gymnasium(Vector, actions=("left", "right"))().reset(seed=0)
    assert "..." not in text
    assert " 777, " in text


def test_a_success_of_ones_own_decides():
    env = cliff()()
    text, info = env.reset(seed=0)
    assert text == "Row 3, column 0."
    for choice in [0, *[1] * 11, 2]:
        _, reward, _, _, info = env.step(choice)
    assert reward == -1
    assert info["stop"] is StopReason.SUCCESS


def last_of(world, horizon):
    env = world(horizon=horizon)
    env.reset(seed=0)
    results = [env.step(0) for _ in range(horizon)]
    assert [result[3] for result in results] == [False] * (horizon - 1) + [True]
    return results[-1][4]["stop"]


def test_an_episode_ends_at_the_horizon_whatever_limit_its_id_has():
    assert last_of(cliff(), 3) is StopReason.HORIZON
    lake = from_gymnasium("FrozenLake-v1", actions=LAKE)
    assert gymnasium.spec("FrozenLake-v1").max_episode_steps == 100
    env = lake(horizon=150)
    env.reset(seed=0)
    env.wrapped.unwrapped.P = {cell: {0: [(1.0, cell, 0.0, False)]} for cell in range(16)}  # it stays where it is
    assert [env.step(0)[3] for _ in range(150)] == [False] * 149 + [True]


def test_a_time_limit_below_the_horizon_is_refused_since_results_name_the_horizon():
    assert last_of(frozen_lake(is_slippery=False, max_episode_steps=4), 4) is StopReason.HORIZON
    with pytest.raises(EnvironmentContractError, match=r"stop after 2 steps, its TimeLimit, .* a horizon of 30"):
        frozen_lake(max_episode_steps=2)()


def test_tasks_are_seeds_and_chance_after_the_start_is_the_episodes_own():
    env = frozen_lake()()
    assert env.tasks("train") == ("seed-0", "seed-1", "seed-2", "seed-3", "seed-4")
    assert env.tasks("test") == ("seed-8", "seed-9", "seed-10", "seed-11")

    def slides(seed: int) -> list[str]:
        seen = [env.reset(seed=seed, options={"task": "seed-0"})[0]]
        for _ in range(8):
            seen.append((result := env.step(0))[0])
            if result[2]:
                break
        return seen

    assert slides(1) == slides(1)
    assert len({tuple(slides(seed)) for seed in range(12)}) > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"actions": ("left", "left")}, "distinct"),
        ({"actions": ()}, "distinct"),
        ({"tasks": (3, 0, 1)}, "tasks is"),
    ],
)
def test_impossible_descriptions_are_refused(change, said):
    options = {"render": lambda observation, env: "x", "actions": LAKE, **change}
    with pytest.raises(EnvironmentContractError, match=said):
        from_gymnasium("FrozenLake-v1", **options)


@pytest.mark.parametrize(("env", "actions"), [("FrozenLake-v1", ("left", "right")), ("Pendulum-v1", ("a", "b"))])
def test_action_names_must_fit_the_action_space(env, actions):
    world = from_gymnasium(env, render=lambda observation, env: "x", actions=actions)
    with pytest.raises(EnvironmentContractError, match="one name for each"):
        world()


def test_a_message_names_the_environment_as_its_user_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd_lakes.py").write_text(
        "from reflect_rl import from_gymnasium\n"
        "Silent = from_gymnasium('FrozenLake-v1', render=lambda seen, env: 5, actions=('a', 'b', 'c', 'd'))\n"
    )
    with pytest.raises(EnvironmentContractError, match="`reflect-rl check odd_lakes:Silent` looks for more"):
        begin(make("odd_lakes:Silent"), 0, {})
