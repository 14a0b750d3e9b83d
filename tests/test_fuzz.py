"""A short form of `scripts/fuzz.py`: odd inputs of every kind end in a result or in one message."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import pytest

from fuzzing import FUZZERS, prepare

EACH = 25


@pytest.mark.parametrize("name", FUZZERS)
def test_an_odd_input_is_a_result_or_one_message(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    prepare(tmp_path / "folder")
    for seed in range(EACH):
        FUZZERS[name](tmp_path / "folder", Random(f"{name} {seed}"))
