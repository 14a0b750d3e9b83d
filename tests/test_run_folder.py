"""What a run folder promises: whole files or the old ones, clear messages for damage, one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Heard
from reflect_rl.errors import RunFolderError
from reflect_rl.runs.folder import DRAFT, RunFolder, hash_path, set_aside

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.path.iterdir())


@given(rows=st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=4))
def test_rows_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run.write_jsonl("rows.jsonl", rows)
    assert run.read_jsonl("rows.jsonl", dict) == rows


def test_a_write_that_fails_midway_leaves_the_old_file_and_no_litter(run: RunFolder) -> None:
    run.write_text("a.txt", "old")

    def rows():
        yield {"n": 1}
        raise ValueError("broken producer")

    with pytest.raises(ValueError, match="broken producer"):
        run.write_jsonl("a.txt", rows())
    assert (run / "a.txt").read_text() == "old"
    assert names(run) == ["a.txt"]


def test_a_folder_that_fails_midway_leaves_the_old_folder(run: RunFolder) -> None:
    with run.replacing("model") as folder:
        folder.mkdir()
        (folder / "weights").write_text("old")
    with pytest.raises(ValueError, match="no"), run.replacing("model") as folder:
        folder.mkdir()
        (folder / "weights").write_text("new")
        raise ValueError("no")
    assert (run / "model/weights").read_text() == "old"
    assert names(run) == ["model"]


def test_a_folder_is_replaced_as_a_whole(run: RunFolder) -> None:
    for files in (["a", "b"], ["c"]):
        with run.replacing("model") as folder:
            folder.mkdir()
            for name in files:
                (folder / name).write_text(name)
    assert [path.name for path in (run / "model").iterdir()] == ["c"]


@pytest.mark.parametrize("cut", [2, 5, 12])
def test_a_truncated_line_is_named(run: RunFolder, cut: int) -> None:
    run.write_jsonl("rows.jsonl", [{"number": 1}, {"number": 2}, {"number": 3}])
    path = run / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=rf"{re.escape(str(path))} is damaged at line 3 "):
        run.read_jsonl("rows.jsonl", lambda row: row["number"])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line", [rb'{"number": "\ud83d"}', rb'{"number": ["\uDE00 cut"]}', b'{"number": "\xed\xa0\xbd"}']
)
def test_half_of_a_character_is_named_by_its_line(run: RunFolder, line: bytes) -> None:
    (run.path).mkdir(exist_ok=True)
    (run / "rows.jsonl").write_bytes(rb'{"number": "\ud83d\ude00", "more": NaN}' + b"\n" + line + b"\n")
    with pytest.raises(RunFolderError, match="damaged at line 2"):
        run.read_jsonl("rows.jsonl", lambda row: row["number"])


@pytest.mark.parametrize("line", [b"{\n", b"\xff\xfe\n", b"[]\n", b'{"other": 1}\n', b"null\n", b"[" * 100_000 + b"\n"])
def test_a_damaged_line_is_named(run: RunFolder, line: bytes) -> None:
    run.write_text("rows.jsonl", '{"number": 1}\n')
    with (run / "rows.jsonl").open("ab") as file:
        file.write(line + b'{"number": 3}\n')
    with pytest.raises(RunFolderError, match="damaged at line 2"):
        run.read_jsonl("rows.jsonl", lambda row: row["number"])


@pytest.mark.parametrize(
    "content",
    [
        b'{"n": 1}\n{"n": 2}',
        b'\xef\xbb\xbf{"n": 1}\r\n{"n": 2}\r\n',
        b'\n{"n": 1}\n  \n{"n": 2}\n\n',
        b' {"n": 1} \n\t{"n": 2}',
    ],
)
def test_lines_that_somebody_wrote_by_other_means_are_read(run: RunFolder, content: bytes) -> None:
    run.write_text("rows.jsonl", "")
    (run / "rows.jsonl").write_bytes(content)
    assert run.read_jsonl("rows.jsonl", lambda row: row["n"]) == [1, 2]


def test_a_folder_in_place_of_a_file_is_refused(run: RunFolder) -> None:
    (run / "results.json").mkdir(parents=True)
    for read in (run.read_json, lambda name: run.read_jsonl(name, dict)):
        with pytest.raises(RunFolderError, match=r"results\.json should be a file"):
            read("results.json")


@pytest.mark.parametrize("name", ["", ".", "./", "..", "../x", "a/..", "/tmp/x", "a/../../x"])
def test_nothing_but_a_name_inside_the_folder_is_written(run: RunFolder, name: str) -> None:
    run.write_text("inner/canary", "mine")
    before = sorted(run.path.parent.rglob("*"))
    with pytest.raises(RunFolderError, match="is not the name of a file or folder inside of"):
        RunFolder(run / "inner").write_text(name, "x")
    assert sorted(run.path.parent.rglob("*")) == before
    assert (run / "inner/canary").read_text() == "mine"


def test_tidy_leaves_hidden_folders_of_the_user_and_other_runs_alone(run: RunFolder) -> None:
    run.write_text(".foo.abcdefgh/old", "mine")
    run.write_text("other/.lock", "")
    run.write_text(f"other/.model.abcd1234{DRAFT}/model", "at work")
    run.tidy()
    assert (run / ".foo.abcdefgh/old").read_text() == "mine"
    assert (run / f"other/.model.abcd1234{DRAFT}/model").read_text() == "at work"


def test_what_is_set_aside_never_replaces_what_was_set_aside_before(run: RunFolder) -> None:
    asides = []
    for text in ("first", "second", "third"):
        run.write_text("a.txt", text)
        asides.append(set_aside(run / "a.txt", "edited"))
    assert [path.name for path in asides] == ["a.txt.edited", "a.txt.edited-2", "a.txt.edited-3"]
    assert [path.read_text() for path in asides] == ["first", "second", "third"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_announced_and_used(
    run: RunFolder, code: int, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with run.lock(heard):
        run.write_text("a.txt", "x")
    (warning,) = heard.warned
    assert "on a file system without locks" in warning
    assert str(run.path) in warning


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff", b"[" * 100_000])
def test_damaged_json_is_refused_with_its_path(run: RunFolder, content: bytes) -> None:
    run.write_text("results.json", "{}")
    (run / "results.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"results\.json is damaged"):
        run.read_json("results.json")


def test_a_missing_file_says_what_to_do(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"episodes\.jsonl does not exist\. Run the stage"):
        run.read_jsonl("episodes.jsonl", dict)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A real file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_really_full_disk_loses_nothing(small_disk: Path) -> None:
    run = RunFolder(small_disk)
    run.write_text("a.txt", "old")
    with pytest.raises(RunFolderError, match="No space left on device"):
        run.write_text("a.txt", "x" * 200_000)
    assert (run / "a.txt").read_text() == "old"
    assert names(run) == ["a.txt"]
    run.write_text("a.txt", "new")  # the space that the failed attempt took is free again
    assert (run / "a.txt").read_text() == "new"


def test_a_full_disk_under_a_model_is_one_clear_message(small_disk: Path) -> None:
    """safetensors raises its own exception type, which is no OSError."""
    import numpy
    from safetensors.numpy import save_file

    run = RunFolder(small_disk)
    with pytest.raises(RunFolderError, match="No space left on device"), run.replacing("model") as folder:
        folder.mkdir()
        save_file({"weight": numpy.zeros(100_000)}, folder / "model.safetensors")
    assert names(run) == []


def test_a_disk_that_fails_while_flushing_loses_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_text("a.txt", "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        run.write_text("a.txt", "new")
    assert (run / "a.txt").read_text() == "old"
    assert names(run) == ["a.txt"]


def test_tidy_removes_what_a_killed_write_left_and_nothing_else(run: RunFolder) -> None:
    run.write_text("a.txt", "old")
    run.write_text("checkpoints/.keep", "mine")
    context = run.replacing("checkpoints/rl")
    context.__enter__().mkdir()  # killed here: never left
    left = next((run / "checkpoints").glob(".rl.*"))
    run.tidy()
    assert not left.exists()
    assert (run / "checkpoints/.keep").read_text() == "mine"
    assert (run / "a.txt").read_text() == "old"


@pytest.mark.parametrize("new_arrived", [False, True])
def test_tidy_finishes_the_exchange_of_a_folder(run: RunFolder, new_arrived: bool) -> None:
    """Killed between the two renames: the old folder is aside, the new one is whole but not yet in place."""
    temporary = run / f".model.abcd1234{DRAFT}"
    for name, wanted in (("old", True), ("model", new_arrived)):
        if wanted:
            (temporary / name).mkdir(parents=True)
            (temporary / name / "which").write_text(name)
    run.tidy()
    assert (run / "model/which").read_text() == ("model" if new_arrived else "old")
    assert names(run) == ["model"]


def test_two_processes_cannot_work_in_one_folder(run: RunFolder) -> None:
    script = "import sys; from reflect_rl.runs.folder import RunFolder\nwith RunFolder(sys.argv[1]).lock(): print('in')"
    command = [sys.executable, "-c", script, str(run.path)]
    with run.lock():
        other = subprocess.run(command, capture_output=True, text=True)
        assert f"is in use by another process ({os.getpid()})" in other.stderr
        assert other.stdout == ""
    assert subprocess.run(command, capture_output=True, text=True).stdout == "in\n"


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be used as a run folder"), RunFolder(tmp_path / "file").lock():
        pass


def test_a_hash_sees_content_and_names_but_not_hidden_files(tmp_path: Path) -> None:
    for folder, name, text in (("a", "x", "1"), ("b", "y", "1"), ("c", "x", "2"), ("d", "x", "1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    (tmp_path / "d/.hidden").write_text("")
    a, b, c, d = (hash_path(tmp_path / name) for name in "abcd")
    assert len({a, b, c}) == 3
    assert a == d


def test_json_keeps_text_readable(run: RunFolder) -> None:
    run.write_json("a.json", {"text": "größer"})
    assert "größer" in (run / "a.json").read_text(encoding="utf-8")
    assert json.loads((run / "a.json").read_text(encoding="utf-8")) == run.read_json("a.json")
