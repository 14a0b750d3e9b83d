"""Files that no stage wrote, in a run folder: they are used as they are or kept aside, never lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reflect_rl.errors import RunFolderError
from reflect_rl.runs import attempt as attempt_module
from toy_stages import TOYS, Heard, Toy, down, go, stopped


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_files_that_no_stage_wrote_are_used_as_they_are_or_kept_aside(out: Path) -> None:
    out.mkdir()
    (out / "config.yaml").write_text("env: {name: taxi}\n")
    mine = '{"episode": 7}\n'
    (out / "episodes.jsonl").write_text(mine)
    assert go(out, only=("train",)) == ["train"]
    assert (out / "episodes.jsonl").read_text() == mine
    heard = Heard()
    assert go(out, heard=heard) == ["gather", "train", "judge"]
    assert (out / "episodes.jsonl.edited").read_text() == mine
    assert "was not written by gather; it is kept as episodes.jsonl.edited" in heard.text


def failing(function: str) -> Sequence[Toy]:
    return (replace(TOYS[0], does={"down": down, "stopped": stopped}[function]), *TOYS[1:])


@pytest.mark.parametrize("function", ["down", "stopped"])
def test_a_file_put_where_a_stage_had_failed_is_the_users(out: Path, function: str) -> None:
    with pytest.raises(RunFolderError, match="server is down"):
        go(out, failing(function))
    mine = '{"episode": 7}\n'
    (out / "episodes.jsonl").write_text(mine)
    heard = Heard()
    assert go(out, heard=heard)[0] == "gather"
    assert (out / "episodes.jsonl.edited").read_text() == mine
    assert "was not written by gather; it is kept as episodes.jsonl.edited" in heard.text


def test_what_a_failed_stage_wrote_itself_is_not_kept(out: Path) -> None:
    with pytest.raises(RunFolderError, match="server is down"):
        go(out, failing("stopped"))
    go(out)
    assert not list(out.glob("*.edited*"))


@pytest.mark.parametrize("settings", [{}, {"collect__episodes": 7}])
def test_a_file_put_over_one_of_an_attempt_is_kept_whatever_runs_next(out: Path, settings: dict[str, int]) -> None:
    with pytest.raises(RunFolderError, match="server is down"):
        go(out, failing("stopped"), **settings)
    (out / "episodes.jsonl").unlink()
    (out / "episodes.jsonl").symlink_to("nowhere")
    go(out)
    assert os.readlink(out / "episodes.jsonl.edited") == "nowhere"


def test_every_edit_is_kept_beside_those_before(out: Path) -> None:
    go(out)
    for number in range(3):
        (out / "episodes.jsonl").write_text(f"mine {number}\n")
        go(out)
    kept = [(out / f"episodes.jsonl.edited{number}").read_text() for number in ("", "-2", "-3")]
    assert kept == ["mine 0\n", "mine 1\n", "mine 2\n"]


def test_a_folder_of_the_user_among_the_checkpoints_is_kept(out: Path) -> None:
    go(out)
    (out / "checkpoints/train").mkdir(parents=True)
    (out / "checkpoints/train/notes").write_text("mine")
    go(out)
    assert (out / "checkpoints/train/notes").read_text() == "mine"
    go(out, rl__lr=0.25)
    assert (out / "checkpoints/train.edited/notes").read_text() == "mine"


def test_a_kill_while_former_outputs_are_put_back_makes_no_edit(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the output is back and before its manifest is: the output is nobody's edit."""
    go(out)
    with monkeypatch.context() as patch:
        patch.setattr("reflect_rl.runs.attempt._move", _dies_at("manifests/gather.json"))
        with pytest.raises(SystemExit):
            go(out, failing("down"), collect__episodes=7, only=("gather",))
    assert not (out / "manifests/gather.json").exists()
    assert go(out, collect__episodes=7, only=("gather",)) == ["gather"]
    assert not list(out.rglob("*.edited*"))


def _dies_at(name: str) -> Any:
    """`_move` until something is to be moved back to this name."""
    real = attempt_module._move

    def move(path: Path, to: Path) -> None:
        if str(to).endswith(name) and ".former" not in str(to):
            raise SystemExit
        real(path, to)

    return move
