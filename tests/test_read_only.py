"""A finished run where nothing may be written, such as a shared one: its agent acts, is exported and evaluated."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import reflect_rl as rr
from conftest import Heard
from end_to_end import files, reflect_rl, refused
from reflect_rl.runs.folder import RunFolder


@pytest.fixture
def locked(whole: Path, disk: Path) -> Path:
    shutil.copytree(whole, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    return disk / "run"


def act_on_something_new(run: Path, heard: Heard) -> None:
    agent = rr.Agent.load(run, heard)
    decision = agent.act("Never seen before.", ["go", "stay"])
    assert decision.action in ("go", "stay")
    assert ["may not be written to" in text for text in heard.warned] == [True]


def test_its_agent_acts_on_what_it_has_not_seen(locked: Path, heard: Heard) -> None:
    assert (locked / "reflections.sqlite").exists()
    act_on_something_new(locked, heard)


def test_its_memo_may_be_missing(whole: Path, disk: Path, heard: Heard) -> None:
    shutil.copytree(whole, disk / "run", ignore=shutil.ignore_patterns("reflections.sqlite*", ".lock"))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    act_on_something_new(disk / "run", heard)


def test_it_is_exported_and_evaluated_into_other_folders(locked: Path, tmp_path: Path) -> None:
    before = files(locked)
    exported = reflect_rl("export", str(locked), "--to", str(tmp_path / "export"))
    assert exported.code == 0, exported.err
    evaluated = reflect_rl("evaluate", str(locked), "--out", str(tmp_path / "copy"))
    assert evaluated.code == 0, evaluated.err
    refused(reflect_rl("evaluate", str(locked)), "Read-only file system (.lock)", "--out")
    assert files(locked) == before


def test_readers_wait_for_no_reader_but_for_a_writer(locked: Path, disk: Path) -> None:
    run = RunFolder(locked)
    with run.lock_to_read(), run.lock_to_read():
        pass
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    with run.lock():
        refused(reflect_rl("export", str(locked), "--to", str(disk / "export")), "is in use")
