"""What an agent looks like to the episode loop, and the two agents that need nothing: random and expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import expert_choice
from reflect_rl.errors import WorldLostError
from reflect_rl.records import State
from reflect_rl.seeding import stream


@dataclass(frozen=True, slots=True)
class Game:
    """One episode to play.

    panel, number: its place among the fixed episodes. trial: which attempt at this task, from 1. lessons: what the
    agent wrote after earlier trials.
    """

    panel: str
    number: int
    task: str
    seed: int
    trial: int = 1
    lessons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """An agent's turn. state: the observation with all earlier steps, and what the agent reflected in them."""

    game: Game
    state: State
    env: TextEnv


@dataclass(frozen=True, slots=True)
class Move:
    """An agent's move.

    Attributes:
        choice: index into the state's actions; None if the agent named none of them.
        reflection: what it thought, if it says so.
        more: further fields for the record, such as log_prob, probabilities, said (an answer word for word), and the
            tokens and cost of the answer.
    """

    choice: int | None
    reflection: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Played:
    """An episode that ended. steps: as in its record."""

    game: Game
    success: bool
    stop: str
    steps: list[dict[str, Any]]


class Player:
    """An agent as the episode loop sees it.

    Attributes:
        num_envs: how many episodes it plays side by side.
        trials: how often it may try a task.
    """

    num_envs = 1
    trials = 1

    def begin(self, game: Game) -> None:
        """An episode begins; also one that was lost with its world, and begins again."""

    def moves(self, turns: Sequence[Turn]) -> list[Move]:
        """A move in each of several episodes."""
        raise NotImplementedError

    def end(self, played: Sequence[Played]) -> list[dict[str, Any]]:
        """Episodes that began have ended. Returns more fields of their records; "lesson" is told to its next trial."""
        return [{} for _ in played]

    def close(self) -> None:
        """Release what the agent holds."""


class RandomPlayer(Player):
    """Each action is equally likely. Draws depend on the episode and the step alone."""

    def moves(self, turns: Sequence[Turn]) -> list[Move]:
        draws = [stream(turn.game.seed, "random agent", len(turn.state.history)) for turn in turns]
        return [Move(int(draw.integers(len(turn.state.actions)))) for draw, turn in zip(draws, turns, strict=True)]


class ExpertPlayer(Player):
    """The world's own expert."""

    def moves(self, turns: Sequence[Turn]) -> list[Move]:
        return [Move(self._choice(turn)) for turn in turns]

    @staticmethod
    def _choice(turn: Turn) -> int | None:
        try:
            return expert_choice(turn.env, turn.state.actions)
        except WorldLostError:  # the step that follows raises it again
            return None
