"""FrozenLake: Gymnasium's FrozenLake-v1 as text, with starts that can be held out."""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import count
from typing import Any

import gymnasium
from gymnasium.envs.toy_text.frozen_lake import MAPS, generate_random_map

from reflect_rl.envs.gym import ActionMask
from reflect_rl.envs.simple import check_flags, unknown
from reflect_rl.envs.splits import split_in_order
from reflect_rl.envs.toy_text.grid import Grid, GridWorld, plan, split_starts
from reflect_rl.errors import EnvironmentContractError

RANDOM = "random"
RANDOM_SIZES = {"train": 200, "valid": 40, "test": 60}
LEAST_SIZE, MOST_SIZE = 4, 16
"""Smaller squares have too few maps for three splits."""
HORIZONS = {"4x4": 100, "8x8": 200}
"""Gymnasium's limits of steps."""


class FrozenLake(GridWorld):
    """Cross a frozen lake from start to goal without falling into a hole.

    ## Description
    Gymnasium's FrozenLake-v1, by its own transition table, seen as text. map: "4x4" or "8x8", Gymnasium's two maps; or
    "random", maps of `size` x `size` cells by Gymnasium's generator, each of which has a way to the goal. slippery: if
    true, a move goes where it should with probability 1/3, and to either side of that with 1/3 each; by default the ice
    is not slippery.

    ## Actions
    Four, always admissible: 0 left, 1 down, 2 right, 3 up. A move off the grid stays where it is.

    ## Observations
    Text: the map, a line a row with a space between letters (P player, S start, F frozen, H hole, G goal); then "You
    are at row 2, column 1.", from 0 in the upper left corner. No trailing newline.

    ## Starting state
    On the maps 4x4 and 8x8, every safe cell from which the goal can be reached is a task, named by its place (r2c1). A
    fixed shuffle splits them: 6 train, 2 valid and 3 test on 4x4; 32, 7 and 14 on 8x8. Gymnasium's only start, r0c0, is
    in test. With "random", a task is a map, named by its seed (map-17), and starts in its upper left corner: 200 train,
    40 valid, 60 test, all different.

    ## Rewards
    Gymnasium's: 1 at the goal, 0 for every other step.

    ## End
    Terminated: SUCCESS at the goal, FAILURE in a hole. Truncated: HORIZON, after `horizon` steps; by default
    Gymnasium's limits, 100 steps on 4x4 and 200 on all others.

    ## Version history
    v0: first version.
    """

    task_text = "Walk over the frozen lake to the goal G. P is you, F is safe ice, H is a hole: it ends the game."
    actions = ("left", "down", "right", "up")
    danger = "H"
    danger_name = "holes"

    def __init__(
        self,
        horizon: int | None = None,
        *,
        map: str = "4x4",  # noqa: A002  what everybody calls it
        size: int = 8,
        slippery: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if map not in (*MAPS, RANDOM):
            raise EnvironmentContractError(unknown("map", map, (*MAPS, RANDOM)))
        if isinstance(size, bool) or not isinstance(size, int) or not LEAST_SIZE <= size <= MOST_SIZE:
            raise EnvironmentContractError(
                f"size is {size!r}; it is the number of rows and columns of random maps, an integer from {LEAST_SIZE} "
                f"to {MOST_SIZE}."
            )
        check_flags(slippery=slippery)
        super().__init__(HORIZONS.get(map, 200) if horizon is None else horizon, render_mode)
        self.map, self.size, self.slippery = map, size, slippery

    def tasks(self, split: str) -> tuple[str, ...]:
        """The task names of a split. Raises EnvironmentContractError for another name than train, valid or test."""
        self.check_split(split)
        if self.map == RANDOM:
            return _random_splits(self.size)[split]
        return _static_splits(self.map)[split]

    def situation(self, task: str) -> tuple[Grid, int]:
        if self.map == RANDOM:
            return _grid(_random_map(self.size, int(task.removeprefix("map-"))), self.slippery), 0
        grid = _grid(tuple(MAPS[self.map]), self.slippery)
        row, column = task.removeprefix("r").split("c")
        return grid, int(row) * len(grid.rows[0]) + int(column)


class GymnasiumFrozenLake(ActionMask, FrozenLake):
    """FrozenLake as `gymnasium.make("reflect_rl/FrozenLake-v0")` gives it."""


@lru_cache(maxsize=1024)
def _grid(rows: tuple[str, ...], slippery: bool) -> Grid:
    env: Any = gymnasium.make("FrozenLake-v1", desc=list(rows), is_slippery=slippery)
    grid = Grid.read(rows, env.unwrapped.P)
    env.close()
    return grid


@lru_cache(maxsize=1024)
def _random_map(size: int, seed: int) -> tuple[str, ...]:
    return tuple(generate_random_map(size=size, seed=seed))


@cache
def _static_splits(name: str) -> dict[str, tuple[str, ...]]:
    grid = _grid(tuple(MAPS[name]), False)
    values = plan(grid, HORIZONS[name]).values
    starts = [state for state, value in enumerate(values) if value > 0]
    first, *others = ["r{}c{}".format(*grid.place(state)) for state in starts]
    return split_starts(first, others)


@cache
def _random_splits(size: int) -> dict[str, tuple[str, ...]]:
    """The first seeds whose maps differ from those of all lower seeds."""
    names: dict[tuple[str, ...], str] = {}
    seeds = count()
    while len(names) < sum(RANDOM_SIZES.values()):
        seed = next(seeds)
        names.setdefault(_random_map(size, seed), f"map-{seed}")
    return split_in_order(names.values(), RANDOM_SIZES)
