"""Fixed splits of named tasks: the same for every run and every version of every library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reflect_rl.seeding import stream_seed

SPLIT_SEED = 0


def shuffled(names: Iterable[str]) -> list[str]:
    """The names in a fixed random order, which depends on the names alone."""
    return sorted(names, key=lambda name: stream_seed(SPLIT_SEED, f"split of {name}"))


def split_in_order(names: Iterable[str], sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Deal names out to the splits. sizes: how many each split takes, in this order."""
    left = iter(names)
    return {split: tuple(next(left) for _ in range(size)) for split, size in sizes.items()}
