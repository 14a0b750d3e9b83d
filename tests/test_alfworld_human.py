"""With goals: human the player reads a person's sentence; experts, facts and teacher go by the game's own goal."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from alfworld_games import folder_data, needs_data, needs_real_engine, small_games
from reflect_rl.envs.alfworld.archive import Archive, ArchiveError
from reflect_rl.envs.alfworld.data import TASK_TYPES, AlfworldData
from reflect_rl.envs.alfworld.experts import expert_walks
from reflect_rl.envs.alfworld.facts import read_goal
from reflect_rl.envs.alfworld.game import descriptions
from reflect_rl.envs.alfworld.world import Alfworld
from reflect_rl.envs.check import check
from reflect_rl.errors import EnvironmentContractError

PREFIX = "Your task is to: "
GAME = "train/pick_and_place_simple-Mug-None-Shelf-1/t{}"


def world(data: Any = None, **options: Any) -> Alfworld:
    """A world of human goals, of the folder layout alone unless other data is given."""
    return Alfworld(data=str(data or folder_data().path), **{"goals": "human", **options})


def said(*sentences: Any) -> dict[str, Any]:
    """A trajectory with these sentences of people."""
    return {"turk_annotations": {"anns": [{"task_desc": sentence} for sentence in sentences]}}


def kept(games: tuple[str, ...], folder: Path) -> Path:
    """A folder of these real games."""
    for game in games:
        shutil.copytree(folder_data().path / game, folder / game)
    return folder


def silence(game: Path) -> None:
    """Take away what people wrote for a game."""
    file = game / "traj_data.json"
    file.chmod(0o644)
    file.write_text(json.dumps({**json.loads(file.read_text()), "turk_annotations": {"anns": []}}))


def packed(path: Path, trajectories: dict[str, Any]) -> Path:
    """An archive of games with these trajectories by id."""
    with tarfile.open(path, "w:xz") as tar:
        for game, traj in trajectories.items():
            content = json.dumps({"pddl_problem": "(define (problem p))", "traj": traj}).encode()
            info = tarfile.TarInfo(f"{game}.json")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("Put two sets of KEYS  in teh drawer", "Put two sets of KEYS  in teh drawer"),
        (" Cook a tomato. \n", "Cook a tomato."),
        ("\x08Move the watch.\nMove it\tthere", "Move the watch. Move it there"),
        ("Heat the café’s purée", "Heat the café’s purée"),
        ("Cook\u2028a \ud800tomato", "Cook a  tomato"),
    ],
)
def test_a_sentence_stays_as_typed_but_for_line_breaks_and_what_cannot_be_printed(typed: str, shown: str) -> None:
    assert descriptions(said(typed)) == (shown,)


@pytest.mark.parametrize(
    "traj", [{}, said(), said("", " \n", None, 3), {"turk_annotations": []}, {"turk_annotations": {}}]
)
def test_a_trajectory_may_hold_no_sentence(traj: dict[str, Any]) -> None:
    assert descriptions(traj) == ()


@needs_data
@pytest.mark.parametrize("kind", TASK_TYPES)
@pytest.mark.parametrize("grammar", ["move", "put"])
def test_only_the_line_with_the_task_differs(kind: str, grammar: str) -> None:
    human, plain = (world(goals=goals, grammar=grammar) for goals in ("human", "template"))
    task = small_games(kind, 1)[0]
    written = descriptions(folder_data().load(task).traj)
    shown, usual = (env.reset(seed=4, options={"task": task}) for env in (human, plain))
    line, ended = shown[0].splitlines()[0], False
    assert line.removeprefix(PREFIX) in written
    assert line != usual[0].splitlines()[0]
    while not ended:
        assert shown[0].splitlines() == [line, *usual[0].splitlines()[1:]]
        assert shown[1:] == usual[1:]
        assert human.describe() == plain.describe()
        assert human.expert_set() == plain.expert_set()
        choice = human.expert() or 0
        shown, usual = human.step(choice), plain.step(choice)
        ended = shown[2] or shown[3]
    assert shown[-1]["success"]


@needs_data
def test_the_seed_decides_the_sentence() -> None:
    env, again = world(), world()
    task = small_games("pick_two", 1)[0]
    lines = [env.reset(seed=seed, options={"task": task})[0].splitlines()[0] for seed in range(12)]
    assert lines == [again.reset(seed=seed, options={"task": task})[0].splitlines()[0] for seed in range(12)]
    assert {line.removeprefix(PREFIX) for line in lines} == set(descriptions(folder_data().load(task).traj))


@needs_data
def test_both_experts_win_without_understanding_the_sentence() -> None:
    data = folder_data()
    walks = expert_walks(data.games("valid_seen"), horizon=50, seed=0, data=str(data.path), goals="human")
    assert all(walk.won for walk in walks)


@needs_data
def test_the_note_names_things_as_the_game_does() -> None:
    env, other_words = world(), 0
    for task in env.tasks("test"):
        text, _ = env.reset(seed=0, options={"task": task})
        thing = folder_data().load(task).traj["pddl_params"]["object_target"].lower()
        assert env.teach(env.describe(), "note") == f"At start. Find {thing}."
        other_words += thing not in text.splitlines()[0].lower()
    assert other_words


@needs_data
def test_the_splits_are_those_of_the_templates_and_apart() -> None:
    human, plain = world(), world(goals="template")
    tasks = {split: human.tasks(split) for split in ("train", "valid", "test")}
    assert tasks == {split: plain.tasks(split) for split in tasks}
    assert len(set().union(*tasks.values())) == sum(map(len, tasks.values()))


@needs_data
def test_human_goals_keep_every_promise_of_the_contract() -> None:
    assert not [str(finding) for finding in check(world) if not finding.ok]


@needs_data
def test_games_that_nobody_described_are_left_out_and_refused_by_name(tmp_path: Path) -> None:
    games = folder_data().games("train")[:2]
    data = kept(games, tmp_path)
    silence(data / games[0])
    env = world(data)
    assert env.tasks("train") == games[1:]
    with pytest.raises(EnvironmentContractError, match=rf"Nobody described the game {games[0]}.*goals: template"):
        env.reset(options={"task": games[0]})
    assert world(data, goals="template").tasks("train") == games


@needs_data
def test_a_split_without_any_sentence_is_one_clear_message(tmp_path: Path) -> None:
    game = folder_data().games("train")[0]
    data = kept((game,), tmp_path)
    silence(data / game)
    with pytest.raises(EnvironmentContractError, match=r"Nobody described a game of the split train.*goals: template"):
        world(data).tasks("train")
    with pytest.raises(EnvironmentContractError, match="no game of pick_and_place_simple-Moon"):
        world(data, task_types="pick_and_place_simple-Moon-None-Sofa").tasks("train")


def test_generated_games_and_other_goals_are_refused() -> None:
    with pytest.raises(EnvironmentContractError, match=r"Nobody described the generated games.*goals: template"):
        Alfworld(data="generated", goals="human")
    with pytest.raises(EnvironmentContractError, match="There are: template, human"):
        Alfworld(data="generated", goals="humans")


def test_an_archive_tells_which_games_were_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = packed(tmp_path / "alfworld_games.tar.xz", {GAME.format(1): said("Put a cup away"), GAME.format(2): {}})
    assert AlfworldData(path).described == {GAME.format(1)}
    with pytest.raises(ArchiveError, match="There is no game train/none"):
        list(Archive(path).records([GAME.format(1), "train/none"]))


@needs_data
@needs_real_engine
def test_alfworlds_own_engine_shows_the_same_sentence() -> None:
    task = small_games("look_at", 1)[0]
    fast, real = (world(engine=engine) for engine in ("fast", "textworld"))
    try:
        assert fast.reset(seed=3, options={"task": task}) == real.reset(seed=3, options={"task": task})
        choice = fast.expert() or 0
        assert fast.step(choice) == real.step(choice)
        assert read_goal(real.transcript[0][1]).object
    finally:
        real.close()
