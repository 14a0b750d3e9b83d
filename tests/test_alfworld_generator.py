"""Generated games are games of ALFWorld's domain: seeded, labelled, not won at the start, and always to be won."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alfworld_games import example, needs_real_engine, write
from reflect_rl.envs.alfworld import generator
from reflect_rl.envs.alfworld.data import TASK_TYPES, AlfworldDataError
from reflect_rl.envs.alfworld.facts import read_goal
from reflect_rl.envs.alfworld.world import Alfworld

DATA = generator.GeneratedData()
kinds = st.sampled_from(list(TASK_TYPES))
seeds = st.integers(0, 10_000)


def declared(problem: str) -> dict[str, str]:
    """Every declared name with its type."""
    objects = problem.partition("(:objects")[2].partition("(:init")[0]
    return dict(re.findall(r"(\S+) - (\w+)", objects))


def facts_of(problem: str) -> list[tuple[str, ...]]:
    init = problem.partition("(:init")[2].partition("(:goal")[0]
    return [tuple(found.split()) for found in re.findall(r"\(([^()]*)\)", init)]


@given(kinds, seeds)
def test_the_same_seed_is_the_same_game(kind, seed):
    one = example(kind, seed)
    example.cache_clear()
    assert example(kind, seed) == one


@given(kinds, seeds)
def test_facts_speak_of_declared_names_alone(kind, seed):
    problem = example(kind, seed).problem
    names = declared(problem)
    assert problem.count("(") == problem.count(")")
    for _, *arguments in facts_of(problem):
        assert set(arguments) <= set(names)
    assert set(re.findall(r"\w+Type", problem.partition("(:goal")[2])) <= {"objectType", "receptacleType", *names}


@given(kinds, seeds)
def test_every_object_is_of_one_type_and_every_receptacle_has_one_place(kind, seed):
    facts = facts_of(example(kind, seed).problem)
    for name in ("objectType", "receptacleType", "receptacleAtLocation", "objectAtLocation"):
        known: dict[str, str] = {}
        for _, subject, value in (fact for fact in facts if fact[0] == name):
            assert known.setdefault(subject, value) == value or name == "objectAtLocation"


@given(kinds, seeds)
def test_a_generated_game_says_so(kind, seed):
    game = example(kind, seed)
    assert game.id.startswith("generated/")
    assert "(define (problem generated_" in game.problem
    assert game.traj["task_id"] == game.id
    assert "generated" in game.traj["turk_annotations"]["anns"][0]["task_desc"]


@given(kinds, seeds)
def test_a_generated_game_is_open_at_the_start_and_can_be_won(kind, seed):
    """By the searching expert, within 100 steps, on the fast engine."""
    from reflect_rl.envs.alfworld.engine import FastAlfred
    from reflect_rl.envs.alfworld.prior import train_prior
    from reflect_rl.envs.alfworld.searcher import Reader, Searcher

    game = FastAlfred(example(kind, seed), seed=seed)
    reader = Reader(Searcher(train_prior()), game.reset(), game.admissible)
    assert not game.won
    for _ in range(100):
        command = reader.best()[0]
        reader.hear(command, game.step(command), game.admissible)
        if game.won:
            return
    pytest.fail(f"{kind}, seed {seed}: not won within 100 steps")


def test_every_split_has_every_type_equally_often_and_no_game_twice():
    everything = DATA.games()
    assert len(set(everything)) == len(everything) == 420
    for split, count in generator.SPLITS.items():
        for kind in TASK_TYPES:
            assert sum(f"/{kind}/" in game for game in DATA.games(split)) == count // len(TASK_TYPES)


def test_games_of_a_split_differ():
    problems = {DATA.load(game).problem.partition(":objects")[2] for game in DATA.games("test")}
    assert len(problems) == 60


@pytest.mark.parametrize(
    "name", ["generated/test/moon/000", "generated/test", "train/x/y", "generated/test/../../x", ""]
)
def test_an_unknown_game_is_refused_by_name(name):
    with pytest.raises(AlfworldDataError, match="generated game"):
        DATA.load(name)


def test_what_is_odd_in_released_games_is_found_in_generated_ones():
    twice = strayed = cool = shared = repeated = 0
    for game in DATA.games("train"):
        facts = facts_of(DATA.load(game).problem)
        held = {fact for fact in facts if fact[0] == "inReceptacle"}
        places = {fact[1]: fact[2] for fact in facts if fact[0] == "receptacleAtLocation"}
        objects = {fact[1]: fact[2] for fact in facts if fact[0] == "objectAtLocation"}
        repeated += len(set(facts)) < len(facts)
        twice += len({fact[1] for fact in held}) < len(held)
        strayed += any(objects[name] != places[receptacle] for _, name, receptacle in held)
        cool += any(fact[0] == "isCool" for fact in facts)
        shared += len(set(places.values())) < len(places)
    assert min(twice, strayed, cool, shared, repeated) > 20


def test_a_written_game_has_the_layout_of_the_release(tmp_path):
    kind = next(iter(TASK_TYPES))
    game = example(kind)
    path = write(game, tmp_path / "train" / "task" / "trial", "a domain", "a grammar")
    written = json.loads(path.read_text())
    assert path.name == "game.tw-pddl"
    assert (written["pddl_domain"], written["grammar"], written["solvable"]) == ("a domain", "a grammar", True)
    assert written["pddl_problem"] == game.problem
    assert json.loads((path.parent / "traj_data.json").read_text())["task_type"] == kind


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_the_task_of_a_generated_game_is_that_of_its_type(kind):
    env = Alfworld(data="generated", task_types=kind)
    text, info = env.reset(seed=2)
    goal = read_goal(text.splitlines()[0])
    thing = DATA.load(info["task"]).traj["pddl_params"]["object_target"].lower()
    assert goal.object == thing
    assert (goal.count == 2) == (kind == "pick_two_obj_and_place")
    assert bool(goal.lamp) == (kind == "look_at_obj_in_light")
    assert f"pick_{goal.treatment}_then_place_in_recep" == kind or goal.treatment is None


@needs_real_engine
@pytest.mark.parametrize("kind", TASK_TYPES)
def test_alfworlds_own_engine_accepts_a_generated_game(kind):
    from reflect_rl.envs.alfworld.real import RealAlfred

    game = RealAlfred(example(kind))
    try:
        assert "Your task is to" in game.reset()
        assert not game.won
    finally:
        game.close()
