"""The fast ALFWorld engine: whatever is said to it, whatever it is given, and what the design notes call quirks."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alfworld_games import example, folder_data, needs_data, needs_real_engine, small_games
from reflect_rl.envs.alfworld import FastAlfred, GameFile, GameFileError, read_game
from reflect_rl.envs.alfworld.engine import NOTHING_HAPPENS, forget_scenes
from reflect_rl.envs.alfworld.planner import plan
from reflect_rl.envs.alfworld.scene import SCENES_KEPT, _scenes

KIND = "pick_heat_then_place_in_recep"


@cache
def released() -> GameFile:
    return folder_data().load(small_games(KIND)[0])


def walk(game: FastAlfred, choices: list[int]) -> list[tuple[str, tuple[str, ...], bool]]:
    """Every state of a walk over admissible commands."""
    seen = [(game.reset(), game.admissible, game.won)]
    for choice in choices:
        commands = game.admissible
        seen.append((game.step(commands[choice % len(commands)]), game.admissible, game.won))
    return seen


@needs_data
@given(st.text(max_size=60) | st.sampled_from(["", " ", "go to", "take  from ", "GO TO FRIDGE 1", "look\x00", "%(r)s"]))
def test_no_string_raises_and_what_is_not_admissible_changes_nothing(command: str) -> None:
    game = FastAlfred(released(), grammar="put")
    game.reset()
    before = game.admissible
    text = game.step(command)
    if command.strip() not in before:
        assert text == NOTHING_HAPPENS
        assert game.admissible == before
        assert game.steps == 0


@needs_data
@given(st.lists(st.integers(0, 999), max_size=60))
def test_admissible_commands_are_sorted_distinct_and_answered(choices: list[int]) -> None:
    for text, commands, _ in walk(FastAlfred(released(), grammar="put"), choices):
        assert text != NOTHING_HAPPENS
        assert list(commands) == sorted(set(commands))


@needs_data
@given(st.lists(st.integers(0, 999), max_size=40))
def test_games_of_one_scene_do_not_disturb_each_other_and_a_reset_forgets(choices: list[int]) -> None:
    first, other = (FastAlfred(released(), grammar="put") for _ in range(2))
    seen = walk(first, choices)
    assert walk(other, choices) == seen
    forget_scenes()
    assert walk(FastAlfred(released(), grammar="put"), choices) == seen
    assert walk(first, choices) == seen


@needs_data
def test_what_the_released_engine_does_oddly() -> None:
    game = FastAlfred(released(), grammar="put")
    assert "around you, you see a" in game.reset()
    assert game.step("look").endswith("you see nothing.")  # though the first text lists what is in the room
    went = next(command for command in game.admissible if command.startswith("go to"))
    assert game.step(f"  {went}  ").startswith("You arrive at loc ")
    assert went not in game.admissible
    assert game.step(went) == NOTHING_HAPPENS
    assert game.step(went.upper()) == NOTHING_HAPPENS


@needs_data
def test_what_was_taken_and_put_elsewhere_at_the_same_place_shows_on_the_floor() -> None:
    """Two receptacles at one place, an object from the one put into the other: the real engine lists it as beside."""
    facts = (
        "(atLocation a loc_bar_0) (receptacleAtLocation shelf_bar_1 loc_bar_1)"
        "(receptacleAtLocation desk_bar_1 loc_bar_1) (receptacleType shelf_bar_1 ShelfType) "
        " (receptacleType desk_bar_1 DeskType) (objectType pen_bar_1 PenType)"
        "(canContain DeskType PenType) (canContain ShelfType PenType) (pickupable pen_bar_1)"
        "(inReceptacle pen_bar_1 desk_bar_1) (objectAtLocation pen_bar_1 loc_bar_1)"
    )
    objects = (
        "a - agent loc_bar_0 loc_bar_1 - location shelf_bar_1 desk_bar_1 - receptacle pen_bar_1 - object "
        "ShelfType DeskType - rtype PenType - otype"
    )
    goal = "(exists (?r - receptacle) (exists (?o - object) (and (inReceptacle ?o ?r) (receptacleType ?r ShelfType))))"
    problem = f"(define (problem p) (:domain alfred) (:objects {objects}) (:init {facts}) (:goal {goal}))"
    game = FastAlfred(GameFile("p", problem, {}, None, released().domain, released().grammar), grammar="put")
    game.reset()
    for command in ("go to shelf 1", "take pen 1 from desk 1"):
        game.step(command)
    assert game.step("look").endswith("Next to it, you see nothing.")
    assert not game.won
    game.step("put pen 1 in/on shelf 1")
    assert game.won
    assert game.step("look") == "You are facing the desk 1, and shelf 1. Next to it, you see a pen 1."


@needs_data
def test_a_task_stated_in_the_file_is_kept_and_shuffling_renumbers() -> None:
    game = FastAlfred(released(), grammar="put", seed=5)
    assert f"Your task is to: {game.task}" in game.reset()
    shuffled = {FastAlfred(released(), grammar="put", seed=seed, shuffle=True).reset() for seed in range(4)}
    assert len(shuffled) > 1
    assert FastAlfred(released(), grammar="put", seed=3, shuffle=True).reset() in shuffled


def test_memory_is_bounded() -> None:
    pytest.importorskip("alfworld", reason="the grammar 'move' is read from the alfworld package")
    for seed in range(SCENES_KEPT + 5):
        game = example(KIND, seed % 60)
        FastAlfred(GameFile(game.id, game.problem + f"; {seed}", game.traj))
    assert len(_scenes) == SCENES_KEPT


@needs_data
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[: len(text) // 2], "truncated|lacks one of|cut off"),
        (lambda text: text.replace("(:goal", "(:aim"), "lacks one of"),
        (lambda text: text.replace("alfred", "blocks"), "domain is not alfred"),
        (lambda text: text.replace("(:init", "(:init (flies a b)"), "is no fact of the domain"),
        (lambda text: text.replace("(:init", "(:init (openable nobody)"), "nobody, which is not declared"),
        (lambda text: text.replace("(:init", "(:init loose"), "more than facts"),
        (lambda text: text.replace("- agent", "- robot"), "'robot' is no type"),
        (lambda text: text.replace("(:goal", "(:goal" + "(and" * 99), "brackets do not close"),
        (lambda text: text.replace("(:goal", "(:goal" + "(and" * 99) + ")" * 99, "nested too deeply"),
        (lambda text: "", "lacks one of"),
        (lambda text: "\x00\xff" * 50, "lacks one of"),
    ],
)
def test_a_malformed_problem_is_one_clear_message(change: Any, says: str) -> None:
    game = released()
    broken = GameFile("broken", change(game.problem), game.traj, None, game.domain, game.grammar)
    with pytest.raises(GameFileError, match=rf"broken cannot be read.*({says})"):
        FastAlfred(broken, grammar="put")


@needs_data
@given(st.data())
def test_a_problem_damaged_anywhere_is_played_or_refused(data: st.DataObject) -> None:
    game = released()
    text, goal = game.problem, game.problem.index("(:goal")
    at = data.draw(st.integers(0, len(text)) | st.integers(goal, len(text)))
    damaged = text[:at] + data.draw(st.text("()?;:- aA\n", max_size=4)) + text[at + data.draw(st.integers(0, 30)) :]
    with suppress(GameFileError):
        assert FastAlfred(replace(game, problem=damaged), grammar="put").reset()


def with_goal(goal: str) -> GameFile:
    """A released game with another goal."""
    game = released()
    return replace(game, id="changed", problem=f"{game.problem.partition('(:goal')[0]}(:goal {goal}))")


@needs_data
@pytest.mark.parametrize(
    "goal",
    [
        "(exists (?a - agent ?l - location) (atLocation ?a (f ?l)))",  # an argument is no word
        "(exists (?o - object ?r - receptacle) (and (pickupable ?o ?r) (inReceptacle ?o ?r)))",  # one too many
        "(exists (?o - object) (and ((x) ?o)))",  # a predicate is no word
        "(exists (?o - object) ())",
        "(exists (?o - object) (and ()))",
        "(exists (?o - robot) (isHot ?o))",
        "(exists (?o) (isHot ?o))",
        "(exists ((?o) - object) (isHot ?o))",
        "(exists (?o - object) (inReceptacle ?o nowhere))",
        "(isHot ?o)",  # bound nowhere
        "(or (exists (?o - object) (isHot ?o)))",
        "(exists (?r - receptacle) (checked ?r))",  # looking changes it, but no text tells
        "()",
    ],
)
def test_a_goal_of_another_kind_is_refused(goal: str) -> None:
    with pytest.raises(GameFileError, match="goal of changed has a part that the fast engine does not know"):
        FastAlfred(with_goal(goal), grammar="put")


@needs_data
@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ("(atLocation agent1 {there})", "more than one place, or has two agents"),
        ("(receptacleAtLocation {receptacle} {elsewhere})", "a receptacle at more than one place"),
        ("(holds agent1 {one}) (holds agent1 {other}) (holdsAny agent1)", "more than one object in hand"),
        ("(holds agent1 {one})", "holds without holdsAny"),
        ("(holdsAny agent1)", "or the other way round"),
    ],
)
def test_a_start_that_the_state_cannot_tell_is_refused(facts: str, says: str) -> None:
    scene, problem = FastAlfred(released(), grammar="put").scene, released().problem
    receptacle, (there,) = next(iter(scene.places.items()))
    elsewhere = next(place for (place,) in scene.places.values() if place != there)
    one, other = sorted(scene.able["pickupable"])[:2]
    added = facts.format(receptacle=receptacle, there=there, elsewhere=elsewhere, one=one, other=other)
    changed = replace(released(), problem=problem.replace("(:init", f"(:init {added}", 1))
    with pytest.raises(GameFileError, match=rf"{says}.*engine='textworld'"):
        FastAlfred(changed, grammar="put")


@needs_data
@pytest.mark.parametrize("command", ["look", "fly", ""])
def test_a_game_won_from_the_start_is_done_after_any_command(command: str) -> None:
    game = FastAlfred(with_goal("(exists (?o - object) (pickupable ?o))"), grammar="put")
    game.reset()
    assert (game.won, game.score, game.done) == (True, 0, False)
    game.step(command)
    assert (game.won, game.score, game.done) == (True, 1, True)
    game.reset()
    assert (game.won, game.score, game.done) == (True, 0, False)


@needs_data
def test_a_goal_about_one_place_holds_there_alone() -> None:
    game = FastAlfred(released(), grammar="put")
    receptacle = next(each for each in game.scene.receptacles if game.scene.places[each] != (game.scene.location,))
    there = FastAlfred(
        with_goal(
            f"(exists (?a - agent ?l - location) (and (atLocation ?a ?l) (receptacleAtLocation {receptacle} ?l)))"
        ),
        grammar="put",
    )
    there.reset()
    assert not there.won
    there.step(there.command("go", "", receptacle))
    assert there.won
    elsewhere = next(each for each in there.scene.receptacles if there.scene.places[each] != (there.state.location,))
    there.step(there.command("go", "", elsewhere))
    assert not there.won


def test_a_bad_file_is_one_clear_message(tmp_path: Path) -> None:
    for content, says in (
        ("{", "not a whole JSON file"),
        ("[1]", "holds a list"),
        ("{}", "no 'pddl_problem'"),
        (json.dumps({"pddl_problem": "x", "grammar": 3}), "int for 'grammar'"),
    ):
        (tmp_path / "game.tw-pddl").write_text(content)
        with pytest.raises(GameFileError, match=says):
            read_game(tmp_path / "game.tw-pddl")
    with (tmp_path / "big.tw-pddl").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(GameFileError, match="100 MB"):
        read_game(tmp_path / "big.tw-pddl")
    with pytest.raises(GameFileError, match="cannot be read"):
        read_game(tmp_path / "absent.tw-pddl")


@needs_data
def test_rules_that_are_not_known_are_refused() -> None:
    game = released()
    other = GameFile("other", game.problem, game.traj, None, f"{game.domain};", game.grammar)
    with pytest.raises(GameFileError, match="none that the fast engine knows"):
        FastAlfred(other, grammar="put")
    with pytest.raises(GameFileError, match="no grammar 'old'"):
        FastAlfred(game, grammar="old")
    with pytest.raises(GameFileError, match="carries no rules"):
        FastAlfred(GameFile("bare", game.problem, game.traj), grammar="put")


@needs_data
@pytest.mark.parametrize(
    "traj",
    [
        {},
        {"pddl_params": [], "task_type": KIND},
        {"task_type": "juggle", "pddl_params": {"object_target": "", "parent_target": "", "toggle_target": ""}},
    ],
)
def test_the_planner_says_so_when_it_cannot_know_the_task(traj: dict[str, Any]) -> None:
    game = FastAlfred(replace(released(), traj=traj), grammar="put")
    game.reset()
    with pytest.raises(GameFileError, match="The planner cannot play"):
        plan(game)


@needs_data
def test_the_planner_wins_games_of_every_type_from_anywhere() -> None:
    data = folder_data()
    for game_id in data.ids[::3]:
        game = FastAlfred(data.load(game_id), grammar="put")
        game.reset()
        for number in range(5):
            game.step(game.admissible[number * 7 % len(game.admissible)])
        for _ in range(40):
            if game.won:
                break
            commands = plan(game)
            assert commands
            assert commands[0] in game.admissible
            game.step(commands[0])
        assert game.won
        assert plan(game) == []


@needs_real_engine
def test_the_grammar_of_the_installed_package_is_known() -> None:
    game = FastAlfred(example(KIND))
    assert game.grammar == "move"
    assert "help" in game.admissible
    game.reset()
    assert game.step("help").startswith("Available commands:")
