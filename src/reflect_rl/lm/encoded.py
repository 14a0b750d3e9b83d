"""A prompt as token ids, in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import tee

LENGTH_STEP = 16
"""Rows are padded to a multiple of this many tokens, which depends on the prompt alone."""
_INTEGERS: dict[int, int] = {}


def compact(numbers: Iterable[int]) -> tuple[int, ...]:
    """Token ids or places as a tuple of integers that all such tuples share: 8 bytes each, not 40."""
    return tuple(map(_INTEGERS.setdefault, *tee(numbers)))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenized prompt: prefix and rest (token ids), positions in the rest to read (the cue last), choices; it is
    padded to a multiple of `step` tokens."""

    prefix: tuple[int, ...]
    rest: tuple[int, ...]
    read: tuple[int, ...]
    actions: int
    step: int = LENGTH_STEP

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the whole prompt."""
        return self.prefix + self.rest

    @property
    def places(self) -> list[int]:
        """The positions to read, in the whole prompt."""
        return [len(self.prefix) + place for place in self.read]

    @property
    def length(self) -> int:
        """Of the rest, padded."""
        return -(-len(self.rest) // self.step) * self.step

    @property
    def bucket(self) -> tuple[tuple[int, ...], int, int]:
        """What one batch must have in common: prefix, padded length, number of positions read."""
        return self.prefix, self.length, len(self.read)
