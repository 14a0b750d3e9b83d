"""Agents as users write them, for tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from corridor import Corridor
from reflect_rl.envs.base import TextEnv


def toward_the_item(observation: str, actions: Sequence[str]) -> str:
    """Walks the corridor to its item: a function is an agent that remembers nothing."""
    if "x" in observation:
        return "take"
    return "right" if observation.index("i") > observation.index("P") else "left"


class Walker:
    """Takes turns: what it does depends on how often it acted since `reset`."""

    def reset(self) -> None:
        self.acted = 0

    def act(self, observation: str, actions: Sequence[str]) -> int:
        self.acted += 1
        return self.acted % len(actions)


class AsyncWalker(Walker):
    """The same, waiting a moment for each answer, as a client of a server does."""

    side_by_side = most = 0

    async def act(self, observation: str, actions: Sequence[str]) -> int:  # type: ignore[override]
        cls = AsyncWalker
        cls.side_by_side += 1
        cls.most = max(cls.most, cls.side_by_side)
        await asyncio.sleep(0.001)
        cls.side_by_side -= 1
        return super().act(observation, actions)


class BatchWalker:
    """The same, in one batch, with a memory for each episode."""

    largest = 0

    def reset(self) -> None:
        self.acted: dict[int, int] = {}

    def act_batch(
        self, observations: Sequence[str], actions: Sequence[Sequence[str]], episodes: Sequence[int]
    ) -> list[np.int64]:
        BatchWalker.largest = max(BatchWalker.largest, len(observations))
        for episode in episodes:
            self.acted[episode] = self.acted.get(episode, 0) + 1
        return [np.int64(self.acted[e] % len(offered)) for e, offered in zip(episodes, actions, strict=True)]


class Seeded:
    """Draws from the seed of the episode."""

    def reset(self, seed: int) -> None:
        self.draws = np.random.default_rng(seed)

    def act(self, observation: str, actions: Sequence[str]) -> int:
        return int(self.draws.integers(len(actions)))


@dataclass
class Decided:
    choice: Any
    reflection: str = "Left is the way."
    probabilities: list[float] = field(default_factory=list)


class Clumsy:
    """Some of its answers name no action."""

    answers: tuple[Any, ...] = ("jump", None, True, 99, -1, 1.0, Decided("nowhere"), [0])

    def reset(self) -> None:
        self.given = iter(self.answers)

    def act(self, observation: str, actions: Sequence[str]) -> Any:
        return next(self.given)


class Fails:
    """Raises in its third episode, unless the file `mended` is there."""

    begun = 0

    def reset(self) -> None:
        Fails.begun += 1

    def act(self, observation: str, actions: Sequence[str]) -> int:
        if Fails.begun >= 3 and not os.path.exists("mended"):
            raise ValueError("no idea")
        return 0


class Dies:
    """Ends its process."""

    def act(self, observation: str, actions: Sequence[str]) -> int:
        os._exit(1)


class Odd:
    """Tells besides its choice what no record can hold."""

    told: ClassVar[dict[str, Any]] = {}

    def act(self, observation: str, actions: Sequence[str]) -> Decided:
        return Decided(0, **self.told)


class Short:
    def act_batch(self, observations: Sequence[str], actions: Sequence[Sequence[str]]) -> list[int]:
        return [0] * (len(observations) - 1)


class NoAgent:
    pass


class Unled(Corridor):
    """A world that defines no expert."""

    expert = TextEnv.expert
