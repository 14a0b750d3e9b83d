"""Games side by side, as textworld.gym plays them for alfworld: batches of observations, scores, dones and infos."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reflect_rl.envs.alfworld.engine import FastAlfred
from reflect_rl.envs.alfworld.game import read_game
from reflect_rl.envs.alfworld.planner import plan
from reflect_rl.envs.alfworld.prior import train_prior
from reflect_rl.envs.alfworld.rules import own_grammar
from reflect_rl.envs.alfworld.searcher import Reader, Searcher, is_lost
from reflect_rl.envs.simple import unknown
from reflect_rl.errors import EnvironmentContractError

FIRST_SEED = 1234
"""What textworld.gym seeds a new environment with."""
EXPERTS = ("handcoded", "planner")
NO_ADVICE = ["look"]
"""The plan where the expert has none."""
Infos = dict[str, list[Any]]
"""`won` (bool), `admissible_commands` (list of str), `extra.gamefile` (the path at reset, None after a step), and
`extra.expert_plan` (list of str) where there is an expert: an entry for each game of the batch."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How games are played.

    Attributes:
        shuffle: numbers in names are given out in a random order (alfworld's domain randomisation).
        limit: steps after which a game is done; 0 for none.
        expert: whose plan the infos hold: "handcoded", "planner", or None for no plan.
    """

    shuffle: bool = False
    limit: int = 0
    expert: str | None = None


class BatchEnv:
    """A batch of games, as `textworld.gym.make` gives it for alfworld's registered games.

    Each environment has generators of its own, so that several can be played in threads; it can be pickled and copied
    at any moment, and the copy goes on from there.
    """

    def __init__(self, gamefiles: Sequence[str], batch_size: int, terms: Terms = Terms()) -> None:
        """Args: gamefiles: paths of game.tw-pddl, at least one. batch_size: games side by side, at least 1."""
        if not gamefiles or isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise EnvironmentContractError(
                f"A batch of {batch_size!r} games from {len(gamefiles)} files cannot be played: both are 1 or more."
            )
        if terms.expert not in (None, *EXPERTS):
            raise EnvironmentContractError(unknown("expert type", terms.expert, EXPERTS))
        self.gamefiles = gamefiles
        self.batch_size = batch_size
        self.terms = terms
        self._playing: list[_Playing] | None = []
        self.seed(FIRST_SEED)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Begin anew with the games in another order. With `shuffle`, names are drawn from this seed too."""
        self._order = _Cycle(self.gamefiles, np.random.RandomState(seed))
        self._names = random.Random(None if seed is None else int(seed))
        return [seed]

    def skip(self, nb_games: int = 1) -> None:
        """Leave out the next games."""
        for _ in range(nb_games):
            self._order.next()

    def reset(self) -> tuple[tuple[str, ...], Infos]:
        """Begin the next games. Raises GameFileError for one that cannot be played."""
        self._begun(at_reset=True)
        paths = [self._order.next() for _ in range(self.batch_size)]
        self._playing = [_Playing(path, self.terms, self._names) for path in paths]
        return tuple([game.text for game in self._playing]), self._infos(self._playing) | {"extra.gamefile": paths}

    def step(self, commands: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...], tuple[bool, ...], Infos]:
        """Give each game a command; a game that is done stays as it is.

        Returns:
            Observations, scores (0 or 1), dones and infos.
        """
        games = self._begun()
        are_texts = isinstance(commands, list | tuple) and all(isinstance(command, str) for command in commands)
        if not are_texts or len(commands) != len(games):
            raise EnvironmentContractError(
                f"step() was given {commands!r:.200}; it takes a list of {len(games)} commands, each a text."
            )
        for game, command in zip(games, commands, strict=True):
            if not game.done:
                game.step(command)
        return (
            tuple([game.text for game in games]),
            tuple([game.engine.score for game in games]),
            tuple([game.done for game in games]),
            self._infos(games),
        )

    @property
    def games(self) -> tuple[FastAlfred, ...]:
        """The games under way."""
        return tuple(game.engine for game in self._begun())

    def close(self) -> None:
        """End all games. The environment cannot be used any more."""
        self._playing = None

    def _begun(self, at_reset: bool = False) -> list[_Playing]:
        if self._playing is None:
            raise EnvironmentContractError("The environment has been closed. Make another one with init_env().")
        if not self._playing and not at_reset:
            raise EnvironmentContractError("step() was called before reset(). Call reset() to begin the games.")
        return self._playing

    def _infos(self, games: Sequence[_Playing]) -> Infos:
        infos: Infos = {
            "won": [game.engine.won for game in games],
            "admissible_commands": [list(game.engine.admissible) for game in games],
            "extra.gamefile": [None] * len(games),
        }
        if self.terms.expert is not None:
            infos["extra.expert_plan"] = [game.plan() for game in games]
        return infos


class _Playing:
    """One game under way. text: the last observation. done: it is won, or at its limit of steps."""

    def __init__(self, path: str, terms: Terms, names: random.Random) -> None:
        game = read_game(path)
        self.engine = FastAlfred(game, grammar=own_grammar(game), seed=names, shuffle=terms.shuffle)
        self.text = self.engine.reset()
        self.done = False
        self._terms = terms
        self._commands = 0
        self._reader = None
        if terms.expert == "handcoded":
            self._reader = Reader(Searcher(train_prior()), self.text, self.engine.admissible)

    def step(self, command: str) -> None:
        self.text = self.engine.step(command)
        self._commands += 1
        self.done = self.engine.done or 0 < self._terms.limit <= self._commands
        if self._reader is not None:
            self._reader.hear(command, self.text, self.engine.admissible)

    def plan(self) -> list[str]:
        """The expert's next commands."""
        if self.engine.won:
            return NO_ADVICE.copy()
        if self._reader is None:
            return plan(self.engine) or NO_ADVICE.copy()
        return NO_ADVICE.copy() if is_lost(self._reader.memory()) else [*self._reader.best()[:1]]


class _Cycle:
    """Paths without end, in an order that is shuffled once at the start and again whenever all have been given out."""

    def __init__(self, paths: Sequence[str], rng: np.random.RandomState) -> None:
        self._paths, self._rng, self._given = list(paths), rng, 0
        rng.shuffle(self._paths)

    def next(self) -> str:
        if self._given == len(self._paths):
            self._rng.shuffle(self._paths)
            self._given = 0
        self._given += 1
        return self._paths[self._given - 1]
