"""Alfworld keeps the contract of a TextEnv: which games there are, what is seen, what pays, what is refused."""

from __future__ import annotations

import json

import pytest

from alfworld_games import PLACE, needs_data, needs_real_engine
from reflect_rl.envs.alfworld.data import TASK_TYPES, AlfworldData, AlfworldDataError
from reflect_rl.envs.alfworld.world import TOMATO, Alfworld
from reflect_rl.envs.check import check
from reflect_rl.errors import EnvironmentContractError, TeacherError
from reflect_rl.records import StopReason

TYPES = tuple(TASK_TYPES)


def official(**options) -> Alfworld:
    return Alfworld(data=str(PLACE), **options)


def first_test_game(**options) -> Alfworld:
    env = official(**options)
    env.reset(seed=0, options={"task": env.tasks("test")[0]})
    return env


def test_generated_games_keep_every_promise_of_the_contract():
    broken = [str(finding) for finding in check(lambda: Alfworld(data="generated")) if not finding.ok]
    assert not broken


@needs_data
def test_official_games_keep_every_promise_of_the_contract():
    broken = [str(finding) for finding in check(official) if not finding.ok]
    assert not broken


@needs_data
def test_splits_are_the_official_ones():
    env = official()
    assert {task.split("/")[0] for task in env.tasks("train")} == {"train"}
    assert {task.split("/")[0] for task in env.tasks("valid")} == {"valid_train"}
    assert {task.split("/")[0] for task in env.tasks("test")} == {"valid_seen"}


@needs_data
def test_a_test_split_that_is_not_there_is_one_clear_message():
    env = official(test_split="valid_unseen")
    if AlfworldData(PLACE).counts()["valid_unseen"] != dict.fromkeys(TYPES, 0):
        pytest.skip("valid_unseen is here")
    with pytest.raises(AlfworldDataError, match="valid_unseen"):
        env.tasks("test")


@needs_data
@pytest.mark.parametrize("kind", TYPES)
def test_a_task_type_is_played_alone(kind):
    for split in ("train", "valid", "test"):
        assert all(f"/{kind}-" in task for task in official(task_types=kind).tasks(split))


@needs_data
def test_tomato_is_the_family_of_the_paper():
    tomato = official(task_types="tomato")
    assert [len(tomato.tasks(split)) for split in ("train", "valid", "test")] == [7, 3, 1]
    assert all(f"/{TOMATO}-" in task for task in tomato.tasks("train"))
    assert tomato.tasks("train") == official(task_types=TOMATO).tasks("train")


def test_task_types_are_named_by_list_or_with_commas():
    both = Alfworld(data="generated", task_types=f"{TYPES[0]}, {TYPES[1]}").tasks("test")
    assert both == Alfworld(data="generated", task_types=[TYPES[0], TYPES[1]]).tasks("test")
    assert len(both) == 20
    assert len(Alfworld(data="generated").tasks("test")) == 60


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"engine": "unity"}, "engine"),
        ({"grammar": "throw"}, "grammar"),
        ({"expert": "oracle"}, "expert"),
        ({"test_split": "train"}, "test_split"),
        ({"task_types": "pick_and_place"}, "task type"),
        ({"task_types": []}, "task_types"),
        ({"task_types": [3]}, "task type"),
        ({"horizon": 0}, "horizon"),
        ({"shuffle": "no"}, "shuffle is 'no'; it is true or false"),
        ({"prior": "off"}, "prior is 'off'; it is true or false"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(options, what):
    with pytest.raises(EnvironmentContractError, match=what):
        Alfworld(data="generated", **options)


def test_a_family_without_games_is_refused(tmp_path):
    with pytest.raises(EnvironmentContractError, match="no game of pick_and_place_simple-Moon"):
        Alfworld(data="generated", task_types="pick_and_place_simple-Moon-None-Sofa").tasks("train")
    with pytest.raises(AlfworldDataError, match="alfworld-download"):
        Alfworld(data=str(tmp_path)).tasks("train")


def test_the_task_stands_above_every_observation():
    env = Alfworld(data="generated")
    text, info = env.reset(seed=0)
    task = text.splitlines()[0]
    assert task.startswith("Your task is to: ")
    assert "you see a" in text
    assert "Welcome" not in text
    text, *_ = env.step(info["actions"].index("look"))
    assert text.startswith(f"{task}\n")
    assert text == f"{task}\n{env.transcript[-1][1]}"


def test_the_actions_are_the_engines_in_its_order():
    env = Alfworld(data="generated")
    _, info = env.reset(seed=3)
    for _ in range(20):
        assert info["actions"] == env.game.admissible == tuple(sorted(info["actions"]))
        *_, ended, _, info = env.step(env.expert() or 0)
        if ended:
            break


def test_winning_pays_and_ends_with_success():
    env = Alfworld(data="generated", success_reward=5.0, step_reward=-0.1)
    env.reset(seed=0)
    rewards, ended = [], False
    while not ended:
        _, reward, ended, truncated, info = env.step(env.expert() or 0)
        rewards.append(reward)
        assert not truncated
    assert info["stop"] is StopReason.SUCCESS
    assert rewards[-1] == pytest.approx(4.9)
    assert set(rewards[:-1]) == {-0.1}


def test_looking_around_ends_at_the_horizon():
    env = Alfworld(data="generated", horizon=3)
    _, info = env.reset(seed=0)
    for step in range(3):
        *_, terminated, truncated, info = env.step(info["actions"].index("look"))
        assert (terminated, truncated) == (False, step == 2)
    assert info["stop"] is StopReason.HORIZON


def test_the_wording_of_a_task_is_drawn_at_reset():
    env = Alfworld(data="generated")
    task = env.tasks("test")[0]
    wordings = {env.reset(seed=seed, options={"task": task})[0].splitlines()[0] for seed in range(12)}
    assert len(wordings) == 2


@needs_data
def test_any_game_of_the_data_can_be_asked_for_by_name():
    env = official(task_types="tomato")
    other = official(task_types="look_at_obj_in_light").tasks("train")[0]
    _, info = env.reset(options={"task": other})
    assert info["task"] == other
    with pytest.raises(EnvironmentContractError, match="no task"):
        env.reset(options={"task": "train/nowhere/trial"})


@needs_data
def test_the_planner_wins_and_is_no_slower_than_the_searcher():
    steps = {}
    for expert in ("planner", "searcher"):
        env = first_test_game(expert=expert)
        ended = False
        while not ended:
            choice = env.expert()
            assert choice is not None
            *_, ended, truncated, info = env.step(choice)
            assert not truncated
        assert info["success"]
        steps[expert] = len(env.transcript)
    assert steps["planner"] <= steps["searcher"]


@needs_data
def test_both_grammars_lead_through_the_same_game():
    kind = "pick_two_obj_and_place"
    env, old = first_test_game(task_types=kind), first_test_game(task_types=kind, grammar="put")
    ended = False
    while not ended:
        action = env.game.admissible[min(env.expert_set())]
        twin = action
        if action.startswith("move "):
            twin = "put " + action.removeprefix("move ").replace(" to ", " in/on ")
        *_, ended, _, info = env.step(env.game.admissible.index(action))
        *_, ended_old, _, _ = old.step(old.game.admissible.index(twin))
        assert ended == ended_old
    assert info["success"]
    assert any(command.startswith("put ") for command, *_ in old.transcript)


def test_facts_are_json_and_every_style_is_written():
    env = Alfworld(data="generated")
    _, info = env.reset(seed=5)
    ended = False
    while not ended:
        facts = json.loads(json.dumps(env.describe()))
        assert len(facts["notes"]) == len(info["actions"])
        assert set(facts["best"]) <= set(info["actions"])
        for style in Alfworld.teachers:
            assert Alfworld.teach(facts, style)
        *_, ended, _, info = env.step(env.expert() or 0)
    with pytest.raises(TeacherError, match="it has: facts, progress"):
        Alfworld.teach(facts, "rhyme")


def test_the_teacher_knows_what_helped():
    env = Alfworld(data="generated")
    _, info = env.reset(seed=5)
    assert env.describe()["helped"] is None
    env.step(env.expert() or 0)
    assert env.describe()["helped"] is True
    *_, info = env.step(env.game.admissible.index("inventory"))
    assert env.describe()["helped"] is False
    assert info["actions"] == env.game.admissible


def test_nothing_is_known_before_the_first_reset():
    env = Alfworld(data="generated")
    for call in (env.expert, env.expert_set, env.describe, lambda: env.game, lambda: env.reader):
        with pytest.raises(EnvironmentContractError, match="reset"):
            call()


def test_closing_twice_is_harmless_and_a_reset_opens_again():
    env = Alfworld(data="generated")
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(EnvironmentContractError):
        env.step(0)
    env.reset(seed=0)
    env.step(0)


@needs_real_engine
@pytest.mark.parametrize("kind", [TYPES[1], TYPES[5]])
def test_alfworlds_own_engine_tells_the_same_generated_game(kind):
    """With the same seed, word by word, until it is won."""
    fast, real = (Alfworld(data="generated", task_types=kind, engine=engine) for engine in ("fast", "textworld"))
    try:
        assert fast.reset(seed=1) == real.reset(seed=1)
        ended = False
        while not ended:
            choice = fast.expert()
            result = fast.step(choice)
            assert result == real.step(choice)
            ended = result[2] or result[3]
        assert result[4]["success"]
    finally:
        real.close()


@needs_data
def test_a_family_of_few_games_is_tested_on_all_that_are_held_out():
    env = official(task_types="tomato", train_types="pick_and_place_simple", test_split="held_out")
    assert len(env.tasks("train")) > 100
    assert set(env.tasks("valid")) < set(env.tasks("test"))
    assert not set(env.tasks("train")) & set(env.tasks("test"))
    assert all(TOMATO in task for task in env.tasks("test"))
    assert list(env.panels()) == ["test", "valid"]
