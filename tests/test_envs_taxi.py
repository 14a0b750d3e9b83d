"""DangerousTaxi keeps its promises: what is seen, what is dangerous, what is solvable, what the teacher says."""

from __future__ import annotations

import json
import re

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflect_rl.envs.base import SPLITS
from reflect_rl.envs.taxi.table import ACTIONS, plan, split_tasks, starts, taxi_table
from reflect_rl.envs.taxi.world import DangerousTaxi
from reflect_rl.errors import EnvironmentContractError, TeacherError
from reflect_rl.records import StopReason

SOUTH, NORTH, EAST, WEST, PICK_UP, DROP_OFF = range(6)
ALL_TASKS = [task for split in SPLITS for task in split_tasks()[split]]
FIRST_TRAIN, FIRST_TEST = (
    ("taxi-r2c3-Y-R", "taxi-r0c1-Y-G", "taxi-r3c0-B-G"),
    ("taxi-r1c0-G-R", "taxi-r1c3-G-Y", "taxi-r2c2-B-Y"),
)
tasks = st.sampled_from(ALL_TASKS)
stages = st.sampled_from([None, "pick up", "drop off"])


def begin(task: str, stage: str | None = None, **options) -> DangerousTaxi:
    env = DangerousTaxi(**options)
    env.reset(seed=0, options={"task": task, "stage": stage})
    return env


def test_the_grid_reads_as_promised():
    env = DangerousTaxi()
    text, info = env.reset(options={"task": "taxi-r2c2-R-G"})
    assert text == (
        "+---------+\n|R: | : :G|\n| : | : : |\n| : :T: : |\n| | : | : |\n|Y| : |B: |\n+---------+\n"
        "Passenger at R.\nDestination G."
    )
    assert info == {"actions": ("south", "north", "east", "west", "pick up", "drop off"), "task": "taxi-r2c2-R-G"}


def test_with_the_passenger_aboard_the_taxi_is_a_p():
    env = begin("taxi-r0c0-R-G")
    text, *_ = env.step(PICK_UP)
    assert text.splitlines()[1] == "|P: | : :G|"
    assert text.splitlines()[-2:] == ["Passenger in taxi.", "Destination G."]


def test_the_grid_is_gymnasiums_own_but_for_the_taxi():
    original = gymnasium.make("Taxi-v4", render_mode="ansi")
    world = original.unwrapped
    original.reset(seed=0)
    for state, text in enumerate(taxi_table().texts):
        world.s, world.lastaction = state, None
        plain = re.sub(r"\x1b\[[\d;]*m", "", world.render()).rstrip("\n")
        row, column, *_ = taxi_table().parts[state]
        at = (1 + row) * 12 + 1 + 2 * column
        grid = text[: len(plain)]
        assert grid[at] in "TP"
        assert grid[:at] + grid[at + 1 :] == plain[:at] + plain[at + 1 :]


def test_all_distinct_states_have_distinct_texts():
    assert len(set(taxi_table().texts)) == 500


@settings(max_examples=60, deadline=None)
@given(task=tasks, choices=st.lists(st.integers(0, 5), min_size=1, max_size=25))
def test_the_dynamics_are_gymnasiums_and_no_change_means_dangerous(task, choices):
    env, original = begin(task, horizon=99), gymnasium.make("Taxi-v4").unwrapped
    original.reset(seed=0)
    original.s = state = starts()[task]
    for choice in choices:
        after, _, delivered, _, _ = original.step(choice)
        text, _, terminated, truncated, info = env.step(choice)
        assert text == taxi_table().texts[after]
        assert (info.get("stop") is StopReason.DANGEROUS) == (after == state)
        assert (info.get("stop") is StopReason.SUCCESS) == delivered
        assert terminated == (after == state or delivered)
        assert not truncated
        if terminated:
            assert info["success"] == delivered
            break
        state = after


@settings(max_examples=40, deadline=None)
@given(task=tasks, stage=stages, seed=st.integers(0, 2**62), choices=st.lists(st.integers(0, 5), max_size=25))
def test_the_same_seed_gives_the_same_bytes(task, stage, seed, choices):
    def walk() -> list[object]:
        env = DangerousTaxi()
        seen: list[object] = [env.reset(seed=seed, options={"task": task, "stage": stage})]
        for choice in choices:
            seen += [env.describe(), result := env.step(choice)]
            if result[2] or result[3]:
                break
        return seen

    assert walk() == walk()


def test_without_a_task_one_is_drawn_from_train_by_the_seed():
    env = DangerousTaxi()
    drawn = [env.reset(seed=seed)[1]["task"] for seed in range(60)]
    assert drawn == [env.reset(seed=seed)[1]["task"] for seed in range(60)]
    assert set(drawn) <= set(env.tasks("train"))
    assert len(set(drawn)) > 30
    env.reset(seed=5)
    following = [env.reset()[1]["task"] for _ in range(10)]
    assert len(set(following)) > 3, "without a new seed the stream goes on"


@pytest.mark.parametrize("action", [SOUTH, NORTH, EAST, WEST, PICK_UP, DROP_OFF])
def test_the_first_step_is_as_dangerous_as_every_other(action):
    table = taxi_table()
    task = next(t for t, state in starts().items() if table.following[state][action] == state)
    _, reward, terminated, truncated, info = begin(task).step(action)
    assert (terminated, truncated, info["success"], info["stop"]) == (True, False, False, StopReason.DANGEROUS)
    assert reward == pytest.approx(-1.02)


def test_rewards_add_up_and_putting_down_elsewhere_does_not_pay():
    env = begin("taxi-r0c0-R-G")
    assert env.step(PICK_UP)[1] == pytest.approx(0.48)
    assert env.step(DROP_OFF)[1] == pytest.approx(-0.52)
    assert env.step(PICK_UP)[1] == pytest.approx(0.48)
    env = begin("taxi-r0c4-R-G", "drop off", success_reward=3.0, step_reward=0.0)
    assert env.step(DROP_OFF)[1:4] == (3.0, True, False)


def test_the_horizon_truncates_unless_the_last_step_succeeds():
    env = begin("taxi-r0c0-R-G", horizon=2)
    env.step(SOUTH)
    _, _, terminated, truncated, info = env.step(NORTH)
    assert (terminated, truncated, info["success"], info["stop"]) == (False, True, False, StopReason.HORIZON)
    env = begin("taxi-r0c4-R-G", "drop off", horizon=1)
    assert env.step(DROP_OFF)[4]["stop"] is StopReason.SUCCESS


def test_stages():
    env = begin("taxi-r0c0-R-G", "pick up")
    _, reward, terminated, _, info = env.step(PICK_UP)
    assert (terminated, info["stop"]) == (True, StopReason.SUCCESS)
    assert reward == pytest.approx(1.48)
    env = begin("taxi-r0c0-R-G", "drop off")
    assert "Passenger in taxi." in env.observe()


def test_the_splits_are_200_40_60_and_cover_the_300_starts():
    env = DangerousTaxi()
    assert [len(env.tasks(split)) for split in SPLITS] == [200, 40, 60]
    assert sorted(ALL_TASKS) == sorted(starts())
    assert len(set(ALL_TASKS)) == 300


def test_the_split_never_changes():
    """A change would put test starts into somebody's training: results of different versions could not be compared."""
    assert DangerousTaxi().tasks("train")[:3] == FIRST_TRAIN
    assert DangerousTaxi().tasks("test")[:3] == FIRST_TEST


def test_every_start_is_solvable_within_18_steps():
    steps = [plan("drop off").steps[state] for state in starts().values()]
    assert max(steps) == 18
    assert sum(count <= 15 for count in steps) == 242  # 80.7 %
    assert np.mean(steps) == pytest.approx(13.07)
    assert max(plan("pick up").steps[state] for state in starts().values()) == 9


def test_exactly_400_states_are_reachable():
    table = taxi_table()
    seen, waiting = set(starts().values()), list(starts().values())
    while waiting:
        state = waiting.pop()
        for action, after in enumerate(table.following[state]):
            if after not in seen and not (action == DROP_OFF and state in table.delivers):
                seen.add(after)
                waiting.append(after)
    assert len(seen) == 400


@settings(max_examples=60, deadline=None)
@given(task=tasks, stage=stages)
def test_the_expert_takes_a_shortest_way_and_knows_all_of_them(task, stage):
    env = begin(task, stage)
    left, ended, info = env.optimal_steps(), False, {}
    while not ended:
        assert env.optimal_steps() == left
        assert env.expert() == min(env.expert_set())
        for action in range(6):  # one step further from every state: the best actions, and no others, gain a step
            other = begin(task, stage)
            other._state = env._state
            ends = other.step(action)
            gains = ends[4].get("success", False) or (not ends[2] and other.optimal_steps() == left - 1)
            assert gains == (action in env.expert_set())
        _, _, terminated, truncated, info = env.step(env.expert())
        ended, left = terminated or truncated, left - 1
    assert left == 0
    assert info["stop"] is StopReason.SUCCESS


@pytest.mark.parametrize("wrong", [6, -1, 1.0, "0", True, None, np.bool_(True), np.float32(1)])
def test_a_wrong_choice_is_refused_and_changes_nothing(wrong):
    env = begin("taxi-r2c2-R-G")
    before = env.observe()
    with pytest.raises(EnvironmentContractError, match="index from 0 to 5"):
        env.step(wrong)
    assert env.observe() == before
    env.step(np.int64(SOUTH))
    assert env.observe() != before


def test_nothing_can_be_asked_outside_of_an_episode():
    env = DangerousTaxi()
    for ask in (lambda: env.step(0), env.expert, env.describe, env.optimal_steps, env.expert_set):
        with pytest.raises(EnvironmentContractError, match="before reset"):
            ask()
    env.reset(options={"task": "taxi-r0c0-R-G"})
    env.step(NORTH)
    for ask in (lambda: env.step(0), env.expert, env.describe, env.optimal_steps, env.expert_set):
        with pytest.raises(EnvironmentContractError, match="after the end"):
            ask()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "taxi-r2c9-R-G"}, "Did you mean 'taxi-r2c"),
        ({"task": ["taxi-r2c2-R-G"]}, "no task"),
        ({"stage": "pickup"}, "Did you mean 'pick up'"),
        ({"tsk": "taxi-r2c2-R-G"}, "Did you mean 'task'"),
    ],
)
def test_unknown_reset_options_are_refused_with_a_suggestion(options, said):
    with pytest.raises(EnvironmentContractError, match=re.escape(said)):
        DangerousTaxi().reset(options=options)


@pytest.mark.parametrize("options", [{"horizon": 0}, {"horizon": 2.5}, {"horizon": True}, {"render_mode": "human"}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(EnvironmentContractError, match=next(iter(options))):
        DangerousTaxi(**options)


def test_an_unknown_split_is_refused():
    with pytest.raises(EnvironmentContractError, match="train, valid, test"):
        DangerousTaxi().tasks("tests")


def test_spaces_hold_every_observation():
    env = DangerousTaxi(render_mode="ansi")
    assert all(env.observation_space.contains(text) for text in taxi_table().texts)
    assert not env.observation_space.contains("x")
    assert env.action_space.n == 6
    env.reset(seed=0)
    assert env.render() == env.observe()


def test_facts_of_a_state():
    env = begin("taxi-r2c2-R-G")
    env.step(WEST)
    facts = env.describe()
    assert facts == {
        "taxi_row": 2,
        "taxi_column": 1,
        "target": "passenger at R",
        "target_rows": -2,
        "target_columns": -1,
        "blocked": [],
        "next_action": "north",
        "last_action": "west",
        "last_effect": True,
        "passenger_aboard": False,
        "destination": "G",
    }
    assert json.loads(json.dumps(facts)) == facts
    env.step(EAST)
    assert env.describe()["last_effect"] is False


@settings(max_examples=40, deadline=None)
@given(task=tasks, stage=stages)
def test_blocked_sides_are_those_that_would_bump(task, stage):
    env = begin(task, stage)
    bumps = [move for i, move in enumerate(ACTIONS[:4]) if begin(task, stage).step(i)[4].get("stop") == "dangerous"]
    assert env.describe()["blocked"] == bumps


def test_changing_the_facts_changes_nothing_else():
    env = begin("taxi-r0c0-R-G")
    env.describe()["blocked"].append("up")
    assert env.describe()["blocked"] == ["north", "west"]


def said(env: DangerousTaxi, style: str) -> str:
    return DangerousTaxi.teach(env.describe(), style)


def test_every_style_says_what_it_promises():
    env = begin("taxi-r3c1-R-G")
    facts = said(env, "facts")
    assert "Target R" in facts
    assert "north" in facts
    assert "west" in facts
    assert "south" not in facts
    assert "east" not in facts
    assert said(env, "blocked") == f"{facts} Blocked: west."
    assert said(env, "next") == f"{facts} Blocked: west. Next: north."
    assert said(env, "judge") == f"Last: none. {facts} Blocked: west."
    assert said(begin("taxi-r2c2-R-G"), "blocked").endswith(" Blocked: none.")


def test_the_target_is_the_destination_once_the_passenger_is_aboard():
    env = begin("taxi-r0c0-R-G")
    assert "Target R" in said(env, "facts")
    env.step(PICK_UP)
    assert "Target G" in said(env, "facts")


def test_judge_says_whether_the_last_action_was_good_and_why():
    env = begin("taxi-r3c1-R-G")
    env.step(SOUTH)
    assert said(env, "judge").startswith("Last: south, bad, farther. ")
    env.step(NORTH)
    assert said(env, "judge").startswith("Last: north, good, nearer. ")
    env = begin("taxi-r0c0-R-G")
    env.step(PICK_UP)
    assert said(env, "judge").startswith("Last: pick up, good, aboard. ")
    env.step(DROP_OFF)
    assert said(env, "judge").startswith("Last: drop off, bad, wrong place. ")


def test_the_teacher_has_a_small_closed_vocabulary_and_is_brief():
    env, words = DangerousTaxi(), set()
    for task in ALL_TASKS:
        for stage in (None, "drop off"):
            env.reset(options={"task": task, "stage": stage})
            texts = {style: said(env, style) for style in env.teachers}
            assert len(texts["blocked"].split()) <= 20
            words |= {word for text in texts.values() for word in re.findall(r"\w+|[^\w\s]", text)}
    assert len(words) <= 35


def test_an_unknown_style_is_refused_with_those_there_are():
    with pytest.raises(TeacherError, match="facts, blocked, next, judge"):
        DangerousTaxi.teach({}, "poem")


def test_facts_of_another_world_are_refused():
    with pytest.raises(TeacherError, match="lack"):
        DangerousTaxi.teach({"hp": 3}, "blocked")
