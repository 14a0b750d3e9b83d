"""`reflect-rl bench worlds`: every small world is measured, and told."""

from __future__ import annotations

from reflect_rl.bench.worlds import WORLDS, bench_worlds, worlds_table
from reflect_rl.progress import Progress


def test_every_world_is_measured():
    figures = bench_worlds(Progress(), steps=200)
    assert set(figures["steps_per_second"]) == set(WORLDS)
    assert min(figures["steps_per_second"].values()) > 1000
    assert len(worlds_table(figures).splitlines()) == 1 + len(WORLDS)
