"""Success replay: after each iteration, one of the newest successful episodes is trained on again.

Method: Reflect-RL keeps 50 successes and adds one update on one of them per iteration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from reflect_rl.players.prompt import Prompt
from reflect_rl.seeding import stream
from reflect_rl.training.advantages import discounted_returns
from reflect_rl.training.rollout import Rollout

Success = dict[str, Any]
"""One stored episode as JSON data: "prompts" (fields of Prompt), "choices" and "returns" (one per step)."""


class SuccessReplay:
    """A ring buffer of `slots` successful episodes; empty with 0 slots."""

    def __init__(self, slots: int, episodes: Sequence[Success] = ()) -> None:
        self.episodes: deque[Success] = deque(episodes, maxlen=slots)

    def add(self, rollout: Rollout, gamma: float) -> None:
        """Store the successes of a rollout, in order."""
        if not self.episodes.maxlen:
            return
        for trajectory in [t for t in rollout.trajectories if t.success][-self.episodes.maxlen :]:
            prompts = [rollout.prompts[row] for row in trajectory.rows]
            self.episodes.append(
                {
                    "prompts": [asdict(prompt) for prompt in prompts],
                    "choices": list(trajectory.choices),
                    "returns": discounted_returns(trajectory.rewards, gamma).tolist(),
                }
            )

    def draw(self, seed: int, iteration: int) -> tuple[list[Prompt], list[int], np.ndarray] | None:
        """(prompts, choices, returns) of a random stored episode, or None if there is none."""
        if not self.episodes:
            return None
        success = self.episodes[int(stream(seed, "replay", iteration).integers(len(self.episodes)))]
        prompts = [_prompt(fields) for fields in success["prompts"]]
        return prompts, success["choices"], np.array(success["returns"])

    def to_json(self) -> list[Success]:
        return list(self.episodes)


def _prompt(fields: Mapping[str, Any]) -> Prompt:
    """A prompt from its fields as JSON gives them back."""
    lists = {"line_ends": tuple(fields["line_ends"]), "controls": tuple(map(tuple, fields.get("controls", ())))}
    return Prompt(**{**fields, **lists})
