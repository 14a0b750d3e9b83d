"""CliffWalking: Gymnasium's CliffWalking-v1 as text, with starts that can be held out."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium

from reflect_rl.envs.gym import ActionMask
from reflect_rl.envs.simple import check_flags
from reflect_rl.envs.toy_text.grid import Grid, GridWorld, split_starts

ROWS = ("O" * 12, "O" * 12, "O" * 12, "S" + "C" * 10 + "G")
START = "r3c0"


class CliffWalking(GridWorld):
    """Walk to the goal along a cliff; who falls begins again at the start.

    ## Description
    Gymnasium's CliffWalking-v1 (4 rows, 12 columns), by its own transition table, seen as text. slippery: if true, a
    move goes where it should with probability 1/3, and to either side of that with 1/3 each.

    ## Actions
    Four, always admissible: 0 up, 1 right, 2 down, 3 left. A move off the grid stays where it is.

    ## Observations
    Text: the map, a line a row with a space between letters (P player, S start, O safe, C cliff, G goal); then "You are
    at row 2, column 1.", from 0 in the upper left corner. No trailing newline.

    ## Starting state
    Every safe cell is a task, named by its place (r2c1). A fixed shuffle splits them into 22 train, 5 valid and 10
    test. Gymnasium's only start, r3c0, is in test.

    ## Rewards
    Gymnasium's: -1 for every step, the last one too; -100 for a fall.

    ## End
    Terminated: SUCCESS at the goal. A fall ends nothing: the player stands at the start S again. Truncated: HORIZON,
    after `horizon` steps, 100 by default (Gymnasium has no limit).

    ## Version history
    v0: first version.
    """

    task_text = "Walk to the goal G. P is you, O is safe, C is the cliff: who steps on it begins again at the start S."
    actions = ("up", "right", "down", "left")
    danger = "C"
    danger_name = "cliff"

    def __init__(self, horizon: int = 100, *, slippery: bool = False, render_mode: str | None = None) -> None:
        check_flags(slippery=slippery)
        super().__init__(horizon, render_mode)
        self.slippery = slippery

    def tasks(self, split: str) -> tuple[str, ...]:
        """The task names of a split. Raises EnvironmentContractError for another name than train, valid or test."""
        self.check_split(split)
        return _splits()[split]

    def situation(self, task: str) -> tuple[Grid, int]:
        row, column = task.removeprefix("r").split("c")
        return _grid(self.slippery), int(row) * len(ROWS[0]) + int(column)


class GymnasiumCliffWalking(ActionMask, CliffWalking):
    """CliffWalking as `gymnasium.make("reflect_rl/CliffWalking-v0")` gives it."""


@cache
def _grid(slippery: bool) -> Grid:
    env: Any = gymnasium.make("CliffWalking-v1", is_slippery=slippery)
    grid = Grid.read(ROWS, env.unwrapped.P)
    env.close()
    return grid


@cache
def _splits() -> dict[str, tuple[str, ...]]:
    cells = ((row, column) for row, line in enumerate(ROWS) for column, letter in enumerate(line) if letter == "O")
    return split_starts(START, [f"r{row}c{column}" for row, column in cells])
