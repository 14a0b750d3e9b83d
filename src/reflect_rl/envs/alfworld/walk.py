"""Walks for comparing engines: random commands, invalid ones, and stretches that an expert guides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from reflect_rl.envs.alfworld.game import TextGame

Guide = Callable[["TextGame"], Sequence[str]]
"""Gives commands that lead from the game's state to its goal; none if it has been reached or cannot be."""

STRETCH = 8
"""Mean steps of a stretch, guided or random."""
NONSENSE = ("", " ", "look around", "fly to the moon", "go to", "go to nowhere 1", "take", "inventory 1", "\n", "LOOK")
NONSENSE += (
    "help me",
    "put all in fridge 1",
    "examine",
    "use",
    "Nothing happens.",
    "{__import__('os')}",
    "\x00",
    "déjà vu",
)


class Walk:
    """Chooses one command after the other.

    invalid: the share of commands that are not admissible, 0 to 1. guided: the share of stretches that follow `guide`.
    """

    def __init__(
        self, rng: np.random.Generator, *, invalid: float = 0.05, guided: float = 0.5, guide: Guide | None = None
    ) -> None:
        self.rng = rng
        self.invalid = invalid
        self.guided = guided if guide is not None else 0.0
        self.guide = guide
        self._left = 0
        self._follows = False
        self._plan: list[str] = []

    def next(self, game: TextGame) -> str:
        """The next command, for the state that `game` is in. The game itself is left as it is."""
        if self.rng.random() < self.invalid:
            return self._invalid(game.admissible)
        if self._left == 0:
            self._left = int(self.rng.geometric(1 / STRETCH))
            self._follows = self.guide is not None and self.rng.random() < self.guided
            self._plan = []
        self._left -= 1
        if self._follows and (command := self._advice(game)) is not None:
            return command
        return self._random(game.admissible)

    def _advice(self, game: TextGame) -> str | None:
        """The next command of the plan; a new plan is made where the old one ended or no longer fits."""
        if not self._plan or self._plan[0] not in game.admissible:
            assert self.guide is not None
            self._plan = list(self.guide(game))
        return self._plan.pop(0) if self._plan else None

    def _random(self, commands: tuple[str, ...]) -> str:
        """A verb, then a command of that verb: else nearly all would be `go to`."""
        verbs = sorted({command.split(" ")[0] for command in commands})
        verb = verbs[int(self.rng.integers(len(verbs)))]
        return self._one([command for command in commands if command.split(" ")[0] == verb])

    def _invalid(self, commands: tuple[str, ...]) -> str:
        """Nonsense, or an admissible command with something wrong (or only with spaces, which is then right)."""
        command = self._one(commands)
        spoilt = (
            command.upper(),
            command + " 1",
            command[:-1],
            command.replace(" ", "  ", 1),
            f" {command}\t",
            "x" + command,
        )
        other = command.translate(str.maketrans("0123456789", "7890123456"))  # another thing, perhaps out of reach
        return self._one((*spoilt, other, other, *NONSENSE[: int(self.rng.integers(1, len(NONSENSE) + 1))]))

    def _one(self, choices: Sequence[str]) -> str:
        return choices[int(self.rng.integers(len(choices)))]
