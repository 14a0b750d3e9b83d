"""Episodes that are lost with the process of their world: how they are begun again, counted, and told of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from reflect_rl.errors import EnvironmentContractError, WorldLostError
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream_seed

TRIES = 3
"""How often a start is tried before its episode is given up."""
MOST_IN_A_ROW = 12
"""Losses without a finished episode between them, after which the world itself is held to be broken."""


def seed_of(seed: int, losses: int) -> int:
    """The seed of an episode that was lost so often.

    The first repeat begins as the episode did, so that a passing fault changes no result; later ones have new seeds.
    """
    return seed if losses < 2 else stream_seed(seed, "again", losses)


@dataclass(slots=True)
class Losses:
    """The losses among some episodes. told: a message for each."""

    told: list[str] = field(default_factory=list)
    _in_a_row: int = 0
    _lock: Lock = field(default_factory=Lock)

    def lost(self, error: WorldLostError) -> None:
        """Count a loss, in any thread. Raises EnvironmentContractError if nothing but losses came for long."""
        with self._lock:
            self.told.append(str(error))
            self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            raise EnvironmentContractError(
                f"{self._in_a_row} episodes in a row were lost, because the world hung or died. The last: {error}"
            ) from error

    def finished(self) -> None:
        """Note that an episode came to its end."""
        self._in_a_row = 0


def warn_of_losses(progress: Progress, told: Sequence[str], given_up: int) -> None:
    """Tell the user how many episodes were lost, if any. given_up: those lost in every try."""
    if told:
        progress.warn(
            f"Episodes lost because the world hung or died, and begun again: {len(told)}; given up after {TRIES} "
            f"tries: {given_up}. The last: {told[-1]}"
        )
