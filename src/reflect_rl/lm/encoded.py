"""A prompt as token ids, stored compactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import tee

LENGTH_STEP = 16
"""Rows are padded to a multiple of this many tokens, so the length depends on the prompt alone."""
_INTEGERS: dict[int, int] = {}


def compact(numbers: Iterable[int]) -> tuple[int, ...]:
    """Token ids or positions as a tuple of shared integers: 8 bytes each instead of 40."""
    return tuple(map(_INTEGERS.setdefault, *tee(numbers)))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenized prompt.

    prefix, rest: token ids. read: positions in the rest to read, the cue last. actions: number of choices. step: the
    rest is padded to a multiple of this many tokens.
    """

    prefix: tuple[int, ...]
    rest: tuple[int, ...]
    read: tuple[int, ...]
    actions: int
    step: int = LENGTH_STEP

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids of the whole prompt."""
        return self.prefix + self.rest

    @property
    def places(self) -> list[int]:
        """The read positions in the whole prompt."""
        return [len(self.prefix) + place for place in self.read]

    @property
    def length(self) -> int:
        """Padded length of the rest."""
        return -(-len(self.rest) // self.step) * self.step

    @property
    def bucket(self) -> tuple[tuple[int, ...], int, int]:
        """What the rows of a batch have in common: prefix, padded length, number of read positions."""
        return self.prefix, self.length, len(self.read)
