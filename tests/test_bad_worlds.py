"""Worlds that break their contract: one clear message that names the world, what it did and how to look closer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from end_to_end import Ended, reflect_rl, refused, run_small
from reflect_rl import TextEnv
from reflect_rl.errors import TeacherError

OWN = {"env.options": {}, "annotate.teacher": "way", "env.horizon": 8}


def run_world(out: Path, world: str, overrides: dict[str, Any] | None = None, until: str = "annotate") -> Ended:
    return run_small(out, OWN | {"env.name": world} | (overrides or {}), None, "--until", until)


@pytest.mark.parametrize(
    ("world", "parts"),
    [
        ("ExpertOutOfRange", ["expert() gave 99, not an index from 0 to"]),
        ("ExpertSaysAName", ["expert() gave 'left', not an index"]),
        ("ExpertRaises", ["expert() raised KeyError: 'way'", "broken_worlds.py, line"]),
        ("ObservationIsNoText", ["reset(", "observation [0, 1], not text"]),
        ("ResetGivesTextAlone", ["reset(", "not (observation, info)"]),
        ("NoActions", ['no info["actions"]', "non-empty tuple of strings"]),
        ("ActionsAreAList", ["info[\"actions\"] as ['left', 'right']"]),
        ("NoStop", ['info["stop"] None', "StopReason"]),
        ("NoSuccess", ['info["success"] None']),
        ("StepGivesFour", ["step(", "not (observation, reward, terminated, truncated, info)"]),
        ("StepRaises", ["raised ZeroDivisionError: no fuel", "broken_worlds.py, line"]),
        ("RewardIsNotANumber", ["reward nan, not a finite number"]),
        ("NoTasks", ["tasks('train') gave ()"]),
        ("NoTestTasks", ["tasks('test') gave ()"]),
        ("FactsAreNoJson", ["describe() gave", "no JSON"]),
        ("NeverEnds", ["went on after its horizon of 8 steps"]),
        ("TeacherSaysNothing", ["teach(", "gave None, not text"]),
    ],
)
def test_a_world_that_breaks_its_contract_is_named_with_what_it_did(
    world: str, parts: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    message = refused(run_world(run, f"broken_worlds:{world}"), *parts)
    assert "NeverEnds" in world or f"`reflect-rl check broken_worlds:{world}`" in message
    assert (run / "config.yaml").is_file()
    assert not list((run / "manifests").glob("annotate.json"))


@pytest.mark.parametrize(
    ("world", "parts"),
    [
        ("taxy", ["no world 'taxy'", "Did you mean 'taxi'?"]),
        ("nothing_here:World", ["no module 'nothing_here'", "nothing_here.py"]),
        ("corridor:Coridor", ["no class 'Coridor'", "Did you mean 'Corridor'?"]),
        ("corridor:CELLS", ["is not a TextEnv"]),
        ("corridor:", ["module:Class"]),
    ],
)
def test_a_world_that_is_not_there_is_refused(world: str, parts: list[str], tmp_path: Path) -> None:
    refused(run_world(tmp_path / "run", world), *parts)
    refused(reflect_rl("check", world), *parts)


def test_options_and_teachers_that_a_world_does_not_know_are_refused(tmp_path: Path) -> None:
    ended = run_world(tmp_path / "run", "corridor:Corridor", {"env.options": {"slipp": 0.1}})
    refused(ended, "no option 'slipp'", "Did you mean 'slip'?")
    ended = run_world(tmp_path / "other", "corridor:Corridor", {"annotate.teacher": "poem"})
    refused(ended, "no scripted teacher 'poem'", "way")
    assert not (tmp_path / "other").exists(), "it is said before anything is collected"


def test_a_world_that_lists_a_teacher_and_has_none_is_told_so() -> None:
    class Silent(TextEnv):
        teachers = ("brief",)

    with pytest.raises(TeacherError, match=r"lists 'brief' in teachers, and has no teach\(facts, style\)"):
        Silent.teach({}, "brief")


@pytest.mark.parametrize("world", ["ExitsInBegin", "ExitsInAct", "ExitsInTeach", "ExitsWhenMade"])
def test_a_world_cannot_end_the_process_as_if_all_were_well(world: str, tmp_path: Path) -> None:
    ended = run_small(
        tmp_path / "run",
        {"env.options": {}, "annotate.teacher": "plain", "env.name": f"odd_worlds:{world}"},
        None,
        "--until",
        "annotate",
    )
    refused(ended, "SystemExit", "odd_worlds.py, line")
    ended = reflect_rl("check", f"odd_worlds:{world}")
    assert ended.code == 1
    assert "SystemExit" in ended.out
    assert f"odd_worlds:{world} breaks 1 promise." in ended.out


def test_playing_by_hand_refuses_what_a_run_refuses() -> None:
    refused(reflect_rl("play", "odd_worlds:ExitsInBegin"), "raised SystemExit: 0")
    refused(reflect_rl("play", "odd_worlds:NoActionThere", "--task", "no such task"), "no task 'no such task'")


def test_check_says_what_could_not_be_judged_and_what_is_missing(tmp_path: Path) -> None:
    ended = reflect_rl("check", "odd_worlds:NoActionThere")
    assert ended.code == 1
    assert [line.partition(":")[0] for line in ended.out.splitlines()[:-1]] == ["- actions"]
    assert "odd_worlds:NoActionThere breaks 1 promise. Not judged before that is mended: " in ended.out
    ended = reflect_rl("check", "odd_worlds:NoExpert")
    assert ended.code == 0
    assert "note: expert: it has no expert" in ended.out
    said = "collecting needs an action there, in every train task"
    refused(run_world(tmp_path / "run", "odd_worlds:NoExpert", {"annotate.teacher": "plain"}), said)


def test_check_ends_with_1_and_says_what_to_mend() -> None:
    ended = reflect_rl("check", "broken_worlds:ExpertOutOfRange")
    assert (ended.code, ended.err) == (1, "")
    assert "expert() gave 99" in ended.out
    assert "expert() must give an index" in ended.out
    ended = reflect_rl("check", "broken_worlds:StepRaises")
    assert (ended.code, ended.err) == (1, "")
    assert "ZeroDivisionError: no fuel" in ended.out
