"""The experts of ALFWorld, played game by game: how often each wins, and in how many steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any
from zlib import crc32

from reflect_rl.envs.alfworld.data import TASK_TYPES, AlfworldData, task_type
from reflect_rl.envs.alfworld.world import EXPERTS, Alfworld
from reflect_rl.seeding import stream, stream_seed, world_seed


@dataclass(frozen=True, slots=True)
class Walk:
    """One game, played by an expert. steps: commands given, also where it did not win."""

    expert: str
    game: str
    won: bool
    steps: int


def expert_walks(games: Sequence[str], *, horizon: int, seed: int, **options: Any) -> Iterator[Walk]:
    """Every expert plays every game, `horizon` steps at the most; the wording of each task is drawn by `seed`.

    options: of the world, such as data or grammar. An expert that gives no action loses.
    """
    worlds = [Alfworld(expert=expert, horizon=horizon, **options) for expert in EXPERTS]
    for game in games:
        for world in worlds:
            yield _walk(world, game, stream_seed(seed, "expert walks", crc32(game.encode())))
    for world in worlds:
        world.close()


def drawn_games(data: AlfworldData, split: str | None, most: int | None, seed: int) -> list[str]:
    """`most` games of a split (None: all that are there), drawn by `seed`."""
    games = list(data.games(split))
    return [games[i] for i in stream(seed, "expert games").permutation(len(games))[: most or len(games)]]


def experts_table(walks: Sequence[Walk], within: Sequence[int]) -> list[tuple[str, ...]]:
    """A row for each expert and task type, and one for all, heading first; "in 15": won in 15 steps or fewer."""
    rows: list[tuple[str, ...]] = [
        ("expert", "type", "games", "won", *(f"in {limit}" for limit in within), "mean steps", "most")
    ]
    for expert in EXPERTS:
        for kind, title in {**TASK_TYPES, "": "all"}.items():
            own = [walk for walk in walks if walk.expert == expert and (not kind or task_type(walk.game) == kind)]
            won = [walk.steps for walk in own if walk.won]
            counts = [len(own), len(won), *(sum(steps <= limit for steps in won) for limit in within)]
            steps = (f"{fmean(won):.2f}", str(max(won))) if won else ("-", "-")
            if own:
                rows.append((expert, title, *map(str, counts), *steps))
    return rows


def _walk(world: Alfworld, game: str, seed: int) -> Walk:
    world.reset(seed=world_seed(seed), options={"task": game})
    for steps in range(world.horizon):
        choice = world.expert()
        if choice is None:
            return Walk(world.expert_name, game, won=False, steps=steps)
        _, _, terminated, truncated, info = world.step(choice)
        if terminated or truncated:
            return Walk(world.expert_name, game, won=bool(info["success"]), steps=steps + 1)
    return Walk(world.expert_name, game, won=False, steps=world.horizon)
