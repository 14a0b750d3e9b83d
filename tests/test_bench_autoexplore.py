"""The benchmark of AutoExplore measures what it says, and the command line prints it."""

from __future__ import annotations

import json
from functools import partial

import pytest

from reflect_rl.__main__ import run_command
from reflect_rl.bench import autoexplore
from reflect_rl.progress import Progress


def test_the_index_of_a_folder_is_measured() -> None:
    figures = autoexplore.bench_autoexplore(Progress(), files=3000)
    assert figures["index_files"] == 3000
    assert figures["index_nodes"] == 1 + 10 + 100 + 1000 + 3000
    assert 0 < figures["index_seconds"] < 10
    assert 0.1 < figures["index_kept_mb"] <= figures["index_mb"] < 200 * 4111 / 100_000  # the aim, for as many nodes
    assert "index of 3,000 files" in autoexplore.autoexplore_table(figures)


def test_the_command_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(autoexplore, "bench_autoexplore", partial(autoexplore.bench_autoexplore, files=50))
    assert run_command(["bench", "autoexplore", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["index_files"] == 50
