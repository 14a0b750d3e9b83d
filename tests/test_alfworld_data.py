"""Finding ALFWorld's games, listing the solvable ones by split and type, and reading them, whatever is on the disk."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from alfworld_games import PLACE, folder_data, needs_data
from reflect_rl.envs.alfworld.archive import Archive, ArchiveError
from reflect_rl.envs.alfworld.data import (
    MAX_GAME_BYTES,
    PUBLISHED,
    SPLITS,
    TASK_TYPES,
    AlfworldData,
    AlfworldDataError,
    find_archive,
    find_data,
    task_type,
)

PICK = "pick_and_place_simple-Mug-None-Shelf-1"
RECORD = {"pddl_problem": "(define (problem p))", "traj": {"task_type": "pick_and_place_simple"}, "walkthrough": None}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def add_game(
    root: Path, game_id: str, solvable: object = True, trajectory: bool = True, text: str | None = None
) -> None:
    folder = root / game_id
    folder.mkdir(parents=True)
    game = {"pddl_domain": "d", "grammar": 'a "solvable": false }', "pddl_problem": "p" * 2000, "solvable": solvable}
    (folder / "game.tw-pddl").write_text(json.dumps(game) if text is None else text)
    if trajectory:
        (folder / "traj_data.json").write_text(json.dumps({"task_type": game_id.split("/")[1].partition("-")[0]}))


def add_archive(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_absent_games_are_explained_with_the_command_that_gets_them(tmp_path: Path) -> None:
    with pytest.raises(AlfworldDataError, match=r"home/\.cache/alfworld.*pip install .*alfworld-download"):
        find_data()
    (tmp_path / "empty").mkdir()
    with pytest.raises(AlfworldDataError, match=r"no ALFWorld games in .*empty.*alfworld-download"):
        find_data(tmp_path / "empty")


def test_the_variable_is_obeyed_and_a_given_path_comes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_game(tmp_path / "a" / "json_2.1.1", f"train/{PICK}/t1")
    add_game(tmp_path / "b", f"train/{PICK}/t2")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "a"))
    assert AlfworldData().ids == (f"train/{PICK}/t1",)
    assert AlfworldData(tmp_path / "b").ids == (f"train/{PICK}/t2",)


def test_only_solvable_games_that_alfworld_plays_are_listed_in_order(tmp_path: Path) -> None:
    add_game(tmp_path, f"valid_seen/{PICK}/t1")
    add_game(tmp_path, f"train/{PICK}/t2")
    add_game(tmp_path, f"train/{PICK}/t1")
    add_game(tmp_path, f"train/{PICK}/unsolvable", solvable=False)
    add_game(tmp_path, f"train/{PICK}/unchecked", text=json.dumps({"grammar": '"solvable": true}'}))
    add_game(tmp_path, f"train/{PICK}/alone", trajectory=False)
    add_game(tmp_path, "train/pick_and_place_simple-AppleSliced-None-Shelf-1/t1")
    add_game(tmp_path, "train/pick_and_place_with_movable_recep-Pen-Bowl-Shelf-1/t1")
    add_game(tmp_path, "train/juggle-Pen-None-Shelf-1/t1")
    assert AlfworldData(tmp_path).ids == (f"train/{PICK}/t1", f"train/{PICK}/t2", f"valid_seen/{PICK}/t1")


def test_unknown_splits_and_games_are_named_with_those_there_are(tmp_path: Path) -> None:
    add_game(tmp_path, f"train/{PICK}/t1")
    data = AlfworldData(tmp_path)
    assert data.games("train") == data.ids
    for ask, words in (
        (lambda: data.games("test"), "valid_unseen"),
        (lambda: data.games("valid_unseen"), "no solvable game of the split valid_unseen.*alfworld-download"),
        (lambda: data.load("train/none/t1"), f"train/{PICK}/t1"),
    ):
        with pytest.raises(AlfworldDataError, match=words):
            ask()


def test_a_file_far_too_large_is_refused_unread(tmp_path: Path) -> None:
    add_game(tmp_path, f"train/{PICK}/t1")
    with (tmp_path / f"train/{PICK}/t1/game.tw-pddl").open("r+b") as file:
        file.truncate(MAX_GAME_BYTES + 1)
    with pytest.raises(AlfworldDataError, match="20 MB; ALFWorld's games have"):
        _ = AlfworldData(tmp_path).ids


def test_an_archive_gives_its_games_and_nothing_else_of_it_reaches_the_disk(tmp_path: Path) -> None:
    game = json.dumps(RECORD).encode()
    names = [f"train/{PICK}/t1.json", f"./valid_seen/{PICK}/t1.json", "../../evil.json", "/train/a/b.json", "notes.txt"]
    path = add_archive(tmp_path / "data" / "alfworld_2.1.1_games.tar.xz", dict.fromkeys(names, game))
    archive = Archive(path)
    assert archive.ids == (f"train/{PICK}/t1", f"valid_seen/{PICK}/t1")
    assert archive.read(archive.ids[0]) == RECORD
    assert AlfworldData(path).ids == AlfworldData(path.parent).ids == archive.ids
    assert not list(tmp_path.rglob("*evil*"))
    assert len(list((tmp_path / "cache").rglob("*.*"))) == 1


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"pddl_problem": 3, "traj": {}}', b'{"pddl_problem": ""}', b"\xff"])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    archive = Archive(add_archive(tmp_path / "a.tar.xz", {f"train/{PICK}/t1.json": content}))
    with pytest.raises(ArchiveError, match=f"train/{PICK}/t1 in .*a.tar.xz"):
        archive.read(archive.ids[0])


@pytest.mark.parametrize("keep", [0, 10, 100])
def test_a_cut_archive_is_refused_and_leaves_nothing_behind(tmp_path: Path, keep: int) -> None:
    path = add_archive(tmp_path / "a.tar.xz", {f"train/{PICK}/t1.json": json.dumps(RECORD).encode()})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArchiveError, match="damaged"):
        _ = Archive(path).ids
    assert not list((tmp_path / "cache").rglob("*.zip"))


def test_the_published_counts_are_those_of_the_paper() -> None:
    """Shridhar et al. 2021, table 1, which has pick, examine, clean, heat, cool, pick two."""
    paper = {
        "train": {"pick": 790, "look": 308, "clean": 650, "heat": 459, "cool": 533, "two": 813},
        "valid_seen": {"pick": 35, "look": 13, "clean": 27, "heat": 16, "cool": 25, "two": 24},
        "valid_unseen": {"pick": 24, "look": 18, "clean": 31, "heat": 23, "cool": 21, "two": 17},
    }
    kinds = ("pick_and", "look_at", "pick_clean", "pick_heat", "pick_cool", "pick_two")
    assert all(name.startswith(kind) for name, kind in zip(TASK_TYPES, kinds, strict=True))
    assert {split: PUBLISHED[split] for split in paper} == {split: tuple(by.values()) for split, by in paper.items()}


def test_the_published_counts_add_up() -> None:
    assert {split: sum(counts) for split, counts in PUBLISHED.items()} == {
        "train": 3553,
        "valid_seen": 140,
        "valid_unseen": 134,
        "valid_train": 199,
    }


@needs_data
def test_every_real_game_is_read_with_the_task_type_its_name_tells() -> None:
    data = folder_data()
    for game_id in data.ids:
        game = data.load(game_id)
        assert game.id == game_id
        assert game.traj["task_type"] == task_type(game_id)


@needs_data
@pytest.mark.skipif(find_archive(PLACE) is None, reason=f"no archive of all games at {PLACE}")
def test_the_real_archive_has_the_published_number_of_games_of_every_type() -> None:
    data = AlfworldData(PLACE)
    archive = find_archive(PLACE)
    assert archive is not None
    assert [row[0] for row in data.table()[1:]] == list(SPLITS)
    complete = {row[0] for row in data.table()[1:] if row[-1] == "complete"}
    assert {"train", "valid_seen", "valid_train"} <= complete
    assert set(folder_data().ids) <= set(data.ids)
    packed = next(each for each in data.games("train") if each not in folder_data().ids)
    game = data.load(packed)
    assert game.grammar is not None
    assert game.grammar.count("UNKNOWN GOAL") == 1
    assert set(data.counts()["train"]) == set(TASK_TYPES)
