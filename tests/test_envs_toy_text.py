"""FrozenLake, CliffWalking and Blackjack: Gymnasium's worlds step for step, experts that are exact, honest splits."""

from __future__ import annotations

import json
from collections import Counter

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from reflect_rl.envs.base import SPLITS
from reflect_rl.envs.check import check
from reflect_rl.envs.checked import facts_of, taught
from reflect_rl.envs.registry import make
from reflect_rl.envs.toy_text.frozenlake import FrozenLake
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

LAKES = [{"map": name, "size": 5, "slippery": slips} for name in ("4x4", "8x8", "random") for slips in (False, True)]
WORLDS = [
    *(("frozenlake", lake) for lake in LAKES),
    *(("cliffwalking", {"slippery": slippery}) for slippery in (False, True)),
    *(("blackjack", rules) for rules in ({}, {"natural": True, "sab": False}, {"sab": False})),
]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in WORLDS]
worlds = pytest.mark.parametrize(("name", "options"), WORLDS, ids=IDS)
choices = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@worlds
def test_the_contract_is_kept(name, options):
    assert [str(finding) for finding in check(lambda **more: make(name, **options, **more)) if not finding.ok] == []


@worlds
def test_the_splits_share_nothing(name, options):
    env = make(name, **options)
    starts = Counter()
    for split in SPLITS:
        for task in env.tasks(split):
            starts[env.reset(seed=0, options={"task": task})[0]] += 1
    assert max(starts.values()) == 1, "two tasks begin alike"


@pytest.mark.parametrize("name", ["FrozenLake", "CliffWalking", "Blackjack"])
@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_checker_passes(name):
    import reflect_rl.envs.gym  # noqa: F401

    check_env(gymnasium.make(f"reflect_rl/{name}-v0").unwrapped)


def beside(env, original, choice):
    """One step of both with the same chance."""
    original.np_random = np.random.Generator(np.random.PCG64())
    original.np_random.bit_generator.state = env.np_random.bit_generator.state
    return env.step(choice), original.step(choice)


def play_beside(env, original, task, plan, seen):
    """Play ours beside Gymnasium's. seen: from Gymnasium's observation to ours."""
    for choice in plan:
        (text, reward, terminated, _, info), (observed, paid, ended, *_) = beside(env, original, choice)
        assert seen(text, observed)
        assert (reward, terminated) == (paid, ended), task
        if terminated:
            assert info["success"] == (info["stop"] is StopReason.SUCCESS)
            return info["success"]
    return None


@settings(max_examples=60, deadline=None)
@given(lake=st.sampled_from(LAKES), seed=st.integers(0, 2**31 - 1), plan=choices)
def test_frozen_lake_is_gymnasiums(lake, seed, plan):
    env = make("frozenlake", **lake)
    _, info = env.reset(seed=seed)
    grid, start = env.situation(info["task"])
    original = gymnasium.make("FrozenLake-v1", desc=list(grid.rows), is_slippery=lake["slippery"]).unwrapped
    original.reset(seed=0)
    original.s = start
    success = play_beside(env, original, info["task"], plan, lambda text, state: text == grid.texts[state])
    assert success is None or success == (original.desc.ravel()[original.s] == b"G")


@settings(max_examples=30, deadline=None)
@given(slippery=st.booleans(), seed=st.integers(0, 2**31 - 1), plan=choices)
def test_cliff_walking_is_gymnasiums(slippery, seed, plan):
    env = make("cliffwalking", slippery=slippery)
    _, info = env.reset(seed=seed)
    grid, start = env.situation(info["task"])
    original = gymnasium.make("CliffWalking-v1", is_slippery=slippery).unwrapped
    original.reset(seed=0)
    original.s = start
    play_beside(env, original, info["task"], plan, lambda text, state: text == grid.texts[state])


@settings(max_examples=120, deadline=None)
@given(
    rules=st.sampled_from([{"natural": natural, "sab": sab} for natural in (False, True) for sab in (False, True)]),
    seed=st.integers(0, 2**31 - 1),
    plan=st.lists(st.integers(0, 1), min_size=25, max_size=25),
    natural=st.booleans(),
)
def test_blackjack_is_gymnasiums(rules, seed, plan, natural):
    env = make("blackjack", **rules)
    options = {"task": "soft-21-vs-10"} if natural else None
    _, info = env.reset(seed=seed, options=options)
    original = gymnasium.make("Blackjack-v1", **rules).unwrapped
    original.reset(seed=0)
    total, ace = env._hand
    original.player = [1, total - 11] if ace else [total // 2, total - total // 2]
    original.dealer = [env._shown, env._hidden]

    def seen(text, observed):
        held = f"You hold {observed[0]} with{'' if observed[2] else 'out'} a usable ace."
        return text.startswith(f"{held}\nThe dealer shows {'ace' if observed[1] == 1 else observed[1]}.")

    assert play_beside(env, original, info["task"], plan, seen) is not None


def test_what_the_player_reads():
    env = make("frozenlake")
    text, info = env.reset(seed=0, options={"task": "r2c1"})
    assert text == "S F F F\nF H F H\nF P F H\nH F F G\nYou are at row 2, column 1."
    assert info["actions"] == ("left", "down", "right", "up")
    text, _ = make("cliffwalking").reset(seed=0, options={"task": "r3c0"})
    assert text.splitlines()[3:] == ["P C C C C C C C C C C G", "You are at row 3, column 0."]
    env = make("blackjack")
    text, _ = env.reset(seed=0, options={"task": "hard-20-vs-ace"})
    assert text == "You hold 20 without a usable ace.\nThe dealer shows ace."
    assert env.step(0)[0].splitlines()[2].startswith("The dealer holds ")


def test_the_static_splits_never_change():
    """A change would put test starts into somebody's training."""
    env = make("frozenlake", map="8x8")
    assert [len(env.tasks(split)) for split in SPLITS] == [32, 7, 14]
    assert env.tasks("test")[:3] == ("r0c0", "r5c5", "r7c1")
    assert [len(make("frozenlake").tasks(split)) for split in SPLITS] == [6, 2, 3]
    assert make("frozenlake", map="random").tasks("train")[:3] == ("map-0", "map-1", "map-2")
    assert make("cliffwalking").tasks("test")[:3] == ("r3c0", "r0c11", "r2c7")
    assert make("blackjack").tasks("test")[:2] == ("soft-17-vs-ace", "hard-5-vs-2")


@pytest.mark.parametrize(("name", "options"), [each for each in WORLDS if each[1].get("slippery") is False])
def test_without_chance_the_expert_takes_a_shortest_way(name, options):
    env = make(name, **options)
    for task in env.tasks("test")[:5]:
        env.reset(seed=0, options={"task": task})
        grid, start = env.situation(task)
        distance, steps, ended, info = ways(grid), 0, False, {}
        while not ended:
            after = [outcomes[0][1] for outcomes in grid.table.outcomes[env._state]]
            left = distance[env._state] - 1
            assert env.expert_set() == {a for a in range(4) if distance.get(after[a]) == left}
            _, _, ended, _, info = env.step(env.expert())
            steps += 1
        assert info["success"]
        assert steps == distance[start]
        assert env.success_probability(task) == env.success_probability(task, env.expert_policy(task)) == 1


def ways(grid):
    """Fewest steps to the goal by search from it, through safe cells only."""
    outcomes, goal = grid.table.outcomes, grid.table.goal
    distance, ring = {goal: 0}, [goal]
    while ring:
        ring = [
            state
            for state in range(len(outcomes))
            if state not in distance
            and grid.letter(state) not in "HC"
            and any(after[0][1] in ring and after[0][1] != state for after in outcomes[state])
        ]
        distance |= dict.fromkeys(ring, max(distance.values()) + 1)
    return distance


def test_success_probabilities_are_those_of_playing():
    env = make("frozenlake", slippery=True, horizon=30)
    policy = env.expert_policy("r0c0")
    exact, best = env.success_probability("r0c0", policy), env.success_probability("r0c0")
    assert 0 < exact <= best < 1
    random, wins = np.random.default_rng(0), 0
    for seed in range(2000):
        text, _ = env.reset(seed=seed, options={"task": "r0c0"})
        ended = False
        while not ended:
            text, _, terminated, truncated, info = env.step(int(random.choice(4, p=policy(text))))
            ended = terminated or truncated
        wins += info["success"]
    assert wins / 2000 == pytest.approx(exact, abs=0.04)


@pytest.mark.parametrize(("horizon", "exact", "known"), [(100, 0.7402, 0.7442), (200, 0.8164, 0.8167)])
def test_the_slippery_expert_is_within_half_a_point_of_the_optimum_on_4x4(horizon, exact, known):
    env = make("frozenlake", slippery=True, horizon=horizon)
    assert env.success_probability("r0c0", env.expert_policy("r0c0")) == pytest.approx(exact, abs=1e-4)
    assert env.success_probability("r0c0") == pytest.approx(known, abs=1e-4)


def test_blackjacks_best_play_is_the_known_one():
    """Wins, and the hard hands to stand on, as published for an infinite deck (Sutton and Barto, figure 5.2)."""
    env = make("blackjack")
    assert env.success_probability() == pytest.approx(0.4329, abs=1e-4)
    assert make("blackjack", sab=False).success_probability() == pytest.approx(0.4295, abs=1e-4)
    stands = {}
    for shown in (*map(str, range(2, 11)), "ace"):
        for total in range(20, 11, -1):
            env.reset(seed=0, options={"task": f"hard-{total}-vs-{shown}"})
            if env.expert_set() == {0}:
                stands[shown] = total
    assert stands == dict.fromkeys(["2", "3"], 13) | dict.fromkeys("456", 12) | dict.fromkeys(
        ["7", "8", "9", "10", "ace"], 17
    )


def test_the_chance_of_winning_is_that_of_playing():
    env = make("blackjack")

    def stands_on_17(text):
        return [1, 0] if int(text.split()[2]) >= 17 else [0, 1]

    exact, wins = env.success_probability("hard-12-vs-6", stands_on_17), 0
    for seed in range(4000):
        text, _ = env.reset(seed=seed, options={"task": "hard-12-vs-6"})
        ended = False
        while not ended:
            text, _, ended, _, info = env.step(stands_on_17(text).index(1))
        wins += info["success"]
    assert wins / 4000 == pytest.approx(exact, abs=0.03)
    assert env.success_probability("hard-12-vs-6", lambda text: [0, 1]) == 0, "who never sticks never wins"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("frozenlake", {"map": "5x5"}, "no map '5x5'"),
        ("frozenlake", {"map": "random", "size": 3}, "from 4 to 16"),
        ("frozenlake", {"slippery": 1}, "true or false"),
        ("cliffwalking", {"slippery": "yes"}, "true or false"),
        ("blackjack", {"sab": None}, "true or false"),
        ("blackjack", {"horizon": 0}, "horizon"),
    ],
)
def test_impossible_options_are_refused(name, options, said):
    with pytest.raises(EnvironmentContractError, match=said):
        make(name, **options)


def test_what_is_no_probability_is_refused():
    env = make("frozenlake", slippery=True)
    with pytest.raises(EnvironmentContractError, match="probability of each of the 4 actions"):
        env.success_probability("r0c0", lambda text: [0.5, 0.5, 0.5, 0])
    with pytest.raises(EnvironmentContractError, match="no task"):
        env.success_probability("r1c1")


def said(env, style):
    return taught(type(env), facts_of(env), style)


def test_what_the_teachers_say():
    env = make("frozenlake")
    env.reset(seed=0, options={"task": "r2c1"})
    facts = "Player row 2 column 1. Goal row 3 column 3. Go down, right."
    assert said(env, "facts") == facts
    assert said(env, "danger") == f"{facts} Holes: up. Edges: none."
    assert said(env, "next") == f"{facts} Holes: up. Edges: none. Next: down, right."
    env = make("cliffwalking")
    env.reset(seed=0, options={"task": "r3c0"})
    assert said(env, "danger").endswith("Go right. Cliff: right. Edges: down, left.")
    env = make("blackjack")
    env.reset(seed=0, options={"task": "hard-16-vs-10"})
    assert said(env, "next") == "Hand hard 16. Dealer 10. A hit busts 8 of 13. Dealer busts 21 percent. Next: hit."
    assert json.loads(json.dumps(env.describe())) == env.describe()


def test_a_horizon_is_gymnasiums_unless_given():
    assert [FrozenLake(map=name).horizon for name in ("4x4", "8x8", "random")] == [100, 200, 200]
    assert FrozenLake(horizon=7).horizon == 7
