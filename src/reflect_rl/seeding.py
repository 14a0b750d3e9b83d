"""Random number streams, each derived from (run seed, purpose, indices) and never from a global generator.

A stream depends on nothing else, so results do not depend on worker count, batch size or timing.
"""

from __future__ import annotations

import hashlib

import numpy as np

LARGEST_WORLD_SEED = 2**31 - 1


def stream_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for the stream (seed, purpose, indices)."""
    name = "\x1f".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """The generator of the stream (seed, purpose, indices)."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, purpose, *indices)))


def world_seed(seed: int) -> int:
    """The low 31 bits of a seed, for worlds: many pass their seed to a generator that takes a C int."""
    return seed & LARGEST_WORLD_SEED
