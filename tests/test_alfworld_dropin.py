"""The drop-in for alfworld's AlfredTWEnv: its interface, its order of games, and the same answers as the real one."""

from __future__ import annotations

import copy
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alfworld_games import example, folder_data, needs_data, needs_real_engine, small_games
from reflect_rl.envs.alfworld.batch import BatchEnv
from reflect_rl.envs.alfworld.data import TASK_TYPES, AlfworldDataError
from reflect_rl.envs.alfworld.dropin import AlfredTWEnv, AlfworldConfigError, get_environment
from reflect_rl.envs.alfworld.game import GameFileError
from reflect_rl.envs.alfworld.sweep import sweep
from reflect_rl.envs.alfworld.verify_dropin import DropinPlan, configuration, lay_out, lots, verify_dropin
from reflect_rl.errors import EnvironmentContractError

needs_grammar = needs_real_engine
"""Generated games are played by the rules that alfworld brings."""


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of generated games of all types, as a release lays them out."""
    folder = tmp_path_factory.mktemp("games")
    for number, kind in enumerate(TASK_TYPES):
        lay_out(example(kind, number), "move", folder / kind / "trial", number)
    return folder


def made(folder: Path, batch: int = 3, split: str = "train", **options: Any) -> BatchEnv:
    return AlfredTWEnv(configuration(folder, **options), split).init_env(batch)


def played(env: BatchEnv, steps: int = 12, seed: int = 0) -> list[Any]:
    """Everything that an environment gives to random admissible commands."""
    rng = random.Random(seed)
    answers: list[Any] = [env.reset()]
    for _ in range(steps):
        answers.append(env.step([rng.choice(offered) for offered in answers[-1][-1]["admissible_commands"]]))
    return answers


@needs_grammar
def test_a_batch_answers_in_the_types_of_textworld(games: Path) -> None:
    env = made(games, 2, "eval_in_distribution")
    observations, infos = env.reset()
    assert isinstance(observations, tuple)
    assert "Your task is to: " in observations[0]
    assert set(infos) == {"won", "admissible_commands", "extra.gamefile"}
    assert infos["won"] == [False, False]
    assert all(type(each) is list for each in infos["admissible_commands"])
    assert all(Path(path).is_file() for path in infos["extra.gamefile"])
    observations, scores, dones, infos = env.step(["look", "fly"])
    assert (observations[1], scores, dones, infos["extra.gamefile"]) == (
        "Nothing happens.",
        (0, 0),
        (False, False),
        [None] * 2,
    )


@needs_grammar
def test_games_are_collected_as_the_configuration_says(games: Path) -> None:
    config = configuration(games)
    config["env"]["task_types"] = [2, 6]
    config["dataset"]["sort_games"] = True
    kinds = [Path(path).parent.parent.name for path in get_environment("AlfredTWEnv")(config).game_files]
    assert kinds == ["look_at_obj_in_light", "pick_two_obj_and_place"]
    config["dataset"]["num_train_games"] = 1
    assert AlfredTWEnv(config).num_games == 1
    assert AlfredTWEnv(config, "eval_out_of_distribution").num_games == 2


@needs_grammar
def test_games_that_alfworld_does_not_play_are_left_out(games: Path, tmp_path: Path) -> None:
    game = (games / "pick_and_place_simple" / "trial" / "game.tw-pddl").read_text()
    trajectory = (games / "pick_and_place_simple" / "trial" / "traj_data.json").read_text()
    for name, text in {
        "good": game,
        "unsolvable": game.replace('"solvable": true', '"solvable": false'),
        "unknown": game.replace(', "solvable": true', ""),
        "movable": game,
        "AppleSliced": game,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "game.tw-pddl").write_text(text)
        (tmp_path / name / "traj_data.json").write_text(trajectory)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "traj_data.json").write_text(trajectory)
    assert [Path(path).parent.name for path in AlfredTWEnv(configuration(tmp_path)).game_files] == ["good"]


@needs_grammar
def test_variables_in_paths_are_read(games: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_TEST_GAMES", str(games))
    assert AlfredTWEnv(configuration("$ALFWORLD_TEST_GAMES")).num_games == len(TASK_TYPES)


@needs_real_engine
@pytest.mark.parametrize("seed", [0, 1234, 2**31])
def test_games_come_in_the_order_of_textworld(seed: int) -> None:
    from textworld.gym.envs import TextworldBatchGymEnv  # pyright: ignore[reportMissingImports]

    paths = [f"{number}.tw-pddl" for number in range(7)]
    real, ours = TextworldBatchGymEnv(paths), BatchEnv(paths, 1)
    for environment in (real, ours):
        environment.seed(seed)
        environment.skip(2)
    given: Any = real._gamefiles_iterator
    expected = [next(given) for _ in range(30)]
    assert [ours._order.next() for _ in range(30)] == expected


@needs_grammar
def test_a_finished_game_stays_as_it_is_while_the_others_go_on(games: Path) -> None:
    env = made(games, 2, limit=3)
    env.reset()
    env.step(["look", "look"])
    env.step(["look", "look"])
    last = env.step(["look", "look"])
    assert last[2] == (True, True)
    assert env.step(["inventory", "inventory"]) == last
    assert env.reset()[1]["won"] == [False, False]


@needs_grammar
@pytest.mark.parametrize("expert", ["handcoded", "planner"])
def test_following_the_experts_plan_wins(games: Path, expert: str) -> None:
    config = configuration(games, method="dagger")
    config["env"]["expert_type"] = expert
    env = AlfredTWEnv(config).init_env(len(TASK_TYPES))
    _, infos = env.reset()
    scores: tuple[int, ...] = ()
    for _ in range(50):
        assert all(type(plan) is list and plan for plan in infos["extra.expert_plan"])
        _, scores, _, infos = env.step([plan[0] for plan in infos["extra.expert_plan"]])
    assert infos["won"] == [True] * len(TASK_TYPES)
    assert set(scores) == {1}


@needs_grammar
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])  # noqa: S301 - our own
@pytest.mark.parametrize("method", ["dqn", "dagger"])
def test_a_copy_goes_on_from_where_it_was_made(games: Path, method: str, copied: Any) -> None:
    env = made(games, 3, shuffle=True, method=method)
    played(env, steps=5)
    twin = copied(env)
    commands = [["inventory"] * 3, *([commands] * 3 for commands in ("look", "go to bed 1", "examine desk 1"))]
    assert [env.step(each) for each in commands] == [twin.step(each) for each in commands]
    assert played(env) == played(twin)


@needs_grammar
def test_environments_play_in_threads_and_touch_no_global_generator(games: Path) -> None:
    random.seed(0)
    np.random.seed(0)
    before = random.getstate(), str(np.random.get_state())
    alone = [played(made(games, 3, shuffle=True), seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: played(made(games, 3, shuffle=True), seed=seed), range(8)))
    assert together == alone
    assert (random.getstate(), str(np.random.get_state())) == before


@needs_grammar
def test_what_cannot_work_is_refused(games: Path, tmp_path: Path) -> None:
    config = configuration(games)
    with pytest.raises(AlfworldConfigError, match="AlfredThorEnv"):
        get_environment("AlfredThorEnv")
    with pytest.raises(AlfworldConfigError, match="train_eval"):
        AlfredTWEnv(config, "test")
    with pytest.raises(AlfworldConfigError, match=r"no env\.task_types"):
        AlfredTWEnv({**config, "env": {"goal_desc_human_anns_prob": 0.0}})
    with pytest.raises(AlfworldConfigError, match=r"env\.task_types is 1; it is a list of numbers"):
        AlfredTWEnv({**config, "env": {**config["env"], "task_types": 1}})
    with pytest.raises(AlfworldDataError, match="ALFWORLD_DATA"):
        AlfredTWEnv(configuration(tmp_path))
    with pytest.raises(AlfworldConfigError, match="training method"):
        AlfredTWEnv({**config, "general": {"training_method": "ppo"}}).init_env(1)
    with pytest.raises(EnvironmentContractError, match="batch of 0"):
        AlfredTWEnv(config).init_env(0)
    env = made(games, 2)
    with pytest.raises(EnvironmentContractError, match=r"before reset"):
        env.step(["look", "look"])
    first, _ = env.reset()
    with pytest.raises(EnvironmentContractError, match="list of 2 commands"):
        env.step(["look"])
    with pytest.raises(EnvironmentContractError, match="each a text"):
        env.step(["go to bed 1", None])  # type: ignore[list-item]
    assert [game.text for game in env._playing or ()] == list(first)
    env.close()
    with pytest.raises(EnvironmentContractError, match="closed"):
        env.reset()
    (tmp_path / "game.tw-pddl").write_text('{"pddl_problem": "", "pddl_domain": "mine", "grammar": "mine"}')
    with pytest.raises(GameFileError, match="alfworld's own environment"):
        BatchEnv([str(tmp_path / "game.tw-pddl")], 1).reset()


def test_ignored_goals_are_announced(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["env"]["goal_desc_human_anns_prob"] = 0.5
    with pytest.warns(UserWarning, match="alfworld-generate"), pytest.raises(AlfworldDataError):
        AlfredTWEnv(config)


@needs_data
@needs_real_engine
def test_the_real_environment_gives_the_same_and_reports_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = DropinPlan(grammars=("put", "move"), batch_sizes=(1, 2), steps=4, patched=True)
    names, load = (
        lots(small_games(), plan)[1:3],
        folder_data().load,
    )  # a batch of two by "put", and one by one by "move"
    first, second = sweep(tmp_path / "reports.jsonl", names, plan, compare=verify_dropin, load=load)
    assert (first.errors, first.differences, first.states) == ([], [], 2 * 5)
    assert (second.errors, second.differences, second.states) == ([], [], 2 * 5)
    monkeypatch.setattr("reflect_rl.envs.alfworld.verify_dropin.lay_out", None)  # nothing is left to play
    assert list(sweep(tmp_path / "reports.jsonl", names, plan, compare=verify_dropin, load=load)) == [first, second]


@needs_data
@needs_real_engine
def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = DropinPlan(grammars=("put",), batch_sizes=(1,), steps=1, patched=True)
    monkeypatch.setattr("reflect_rl.envs.alfworld.engine.NOTHING_HAPPENS", "Nothing.")
    monkeypatch.setattr("reflect_rl.envs.alfworld.verify_dropin.Walk.next", lambda self, game: "fly")
    (report,) = verify_dropin(folder_data().load, lots(small_games(count=1), plan), plan)
    assert [(each.step, each.what) for each in report.differences] == [(1, "observations")]
