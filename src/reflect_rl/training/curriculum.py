"""The task and curriculum stage of each training episode.

Each iteration goes through the train tasks in a new seeded order. Curricula over the world's easier stages: "switch"
gives each stage, easiest first, and then the full task an equal share of the iterations (Reflect-RL's curriculum);
"mix" draws a stage per episode, and the share of the full task grows linearly from an equal share to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from reflect_rl.seeding import stream, stream_seed
from reflect_rl.settings import RlSettings
from reflect_rl.training.rollout import EpisodeSpec


def training_episodes(
    tasks: Sequence[str], stages: Sequence[str], settings: RlSettings, iteration: int, seed: int
) -> list[EpisodeSpec]:
    """The episodes of one iteration, `rl.group` per sampled task and stage."""
    random = stream(seed, "rl tasks", iteration)
    order: list[int] = []
    while len(order) * settings.group < settings.episodes:
        order += random.permutation(len(tasks)).tolist()
    draws = random.random(len(order))
    return [
        EpisodeSpec(
            task=tasks[order[number // settings.group]],
            seed=stream_seed(seed, "rl episode", iteration, number),
            stage=_stage(stages, settings.curriculum, iteration, settings.iterations, draws[number // settings.group]),
            sample=number,
        )
        for number in range(settings.episodes)
    ]


def _stage(stages: Sequence[str], curriculum: str, iteration: int, iterations: int, draw: float) -> str | None:
    levels = [*stages, None]
    if curriculum == "none" or not stages:
        return None
    if curriculum == "switch":
        return levels[min(iteration * len(levels) // iterations, len(stages))]
    equal = 1 / len(levels)
    full = equal + (1 - equal) * iteration / max(1, iterations - 1)
    if draw < full:
        return None
    return stages[min(int((draw - full) / (1 - full) * len(stages)), len(stages) - 1)]
