"""GridWorld: what FrozenLake and CliffWalking share. A player on a grid, by Gymnasium's own transition table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np

from reflect_rl.envs.optional import write_reflection
from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.envs.splits import shuffled, split_in_order
from reflect_rl.envs.toy_text.table import Plan, Table, read_table, solve, success_within
from reflect_rl.envs.toy_text.teacher import GRID_STYLES
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

Policy = Callable[[str], Sequence[float]]
"""From an observation to the probability of each action."""
CHARACTERS = frozenset("PSFHGOC Youareatrow,clumn.0123456789\n")
SLACK = 1e-4
"""How far from 1 the sum of probabilities may lie: those of models are float32."""
STEPS = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """rows: the letters of the map. table: its transitions; state = row * columns + column. texts: what is seen."""

    rows: tuple[str, ...]
    table: Table
    texts: tuple[str, ...]

    @classmethod
    def read(cls, rows: Sequence[str], P: Mapping[int, Mapping[int, list[Any]]]) -> Grid:
        """rows: letters, G the goal. P: Gymnasium's table."""
        letters = "".join(rows)
        texts = tuple(_text(rows, state) for state in range(len(letters)))
        return cls(tuple(rows), read_table(P, letters.index("G")), texts)

    def place(self, state: int) -> tuple[int, int]:
        """(row, column), from 0 in the upper left corner."""
        return divmod(state, len(self.rows[0]))

    def letter(self, state: int) -> str:
        row, column = self.place(state)
        return self.rows[row][column]


@lru_cache(maxsize=1024)
def plan(grid: Grid, horizon: int) -> Plan:
    """The best stationary policy, discounted by 1 - 1/horizon: about the horizon that an episode has."""
    return solve(grid.table, 1 - 1 / horizon)


class GridWorld(SimpleTextEnv):
    """A player who walks over a grid to the goal. Subclasses give the map and the starts of the tasks."""

    teachers = tuple(GRID_STYLES)
    danger: ClassVar[str]
    """The letter of cells that nobody should enter."""
    danger_name: ClassVar[str]

    def __init__(self, horizon: int, render_mode: str | None = None) -> None:
        super().__init__(horizon, render_mode)
        self._state = 0

    def situation(self, task: str) -> tuple[Grid, int]:
        """The grid of a task, and the state it starts in."""
        raise NotImplementedError(f"{type(self).__name__} has no situation(task).")

    def panels(self) -> dict[str, tuple[str, ...]]:
        """What is held out: test, then valid."""
        return {split: self.tasks(split) for split in ("test", "valid")}

    @cached_property
    def observation_space(self) -> gymnasium.spaces.Text:  # type: ignore[override]
        """Made when it is asked for, like the taxi's."""
        grid, _ = self.situation(self.tasks("train")[0])
        return gymnasium.spaces.Text(max(map(len, grid.texts)), min_length=1, charset=CHARACTERS)

    def begin(self, task: str, stage: str | None) -> None:
        self._grid, self._state = self.situation(task)
        self._outcomes, self._texts = self._grid.table.outcomes, self._grid.texts

    def observe(self) -> str:
        return self._texts[self._state]

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        outcomes = self._outcomes[self._state][choice]
        chosen = outcomes[0]
        if len(outcomes) > 1:
            draw = self.np_random.random()
            chosen = next((each for each in outcomes if each[0] > draw), chosen)
        _, self._state, reward, terminated = chosen
        if not terminated:
            return reward, None
        return reward, StopReason.SUCCESS if self._state == self._grid.table.goal else StopReason.FAILURE

    def expert(self) -> int:
        """The lowest index of `expert_set`."""
        self.require_playing("expert")
        return plan(self._grid, self.horizon).first[self._state]

    def expert_set(self) -> frozenset[int]:
        """All actions of the best stationary policy for the return discounted by 1 - 1/horizon (policy iteration)."""
        self.require_playing("expert_set")
        return plan(self._grid, self.horizon).best[self._state]

    def success_probability(self, task: str, policy: Policy | None = None) -> float:
        """The exact probability of success within the horizon, by dynamic programming.

        Args:
            task: One of the world's tasks.
            policy: From an observation to the probability of each action. None: the best policy there is, which may
                depend on the steps left.

        Returns:
            The probability, from 0 to 1.

        Raises:
            EnvironmentContractError: If there is no such task, or if the policy gives no probabilities.
        """
        self._read({"task": task})
        grid, start = self.situation(task)
        policy_SA = (
            None
            if policy is None
            else np.array([probabilities(policy, text, len(self.actions)) for text in grid.texts])
        )
        return float(success_within(grid.table, self.horizon, policy_SA)[start])

    def expert_policy(self, task: str) -> Policy:
        """The expert as a policy for `success_probability`: equally good actions are equally likely."""
        grid, _ = self.situation(task)
        best = dict(zip(grid.texts, plan(grid, self.horizon).best, strict=True))
        return lambda text: [(action in best[text]) / len(best[text]) for action in range(len(self.actions))]

    def describe(self) -> dict[str, Any]:
        """Facts of the state now, JSON-able.

        row, column: of the player, from 0 in the upper left corner. goal_row, goal_column. danger: "holes" or "cliff";
        near: the moves whose cell is dangerous. edges: the moves that lead off the grid. next_actions: the expert's.
        """
        self.require_playing("describe")
        row, column = self._grid.place(self._state)
        goal_row, goal_column = self._grid.place(self._grid.table.goal)
        rows, near, edges = self._grid.rows, [], []
        for move in self.actions:
            down, right = STEPS[move]
            if not (0 <= row + down < len(rows) and 0 <= column + right < len(rows[0])):
                edges.append(move)
            elif rows[row + down][column + right] == self.danger:
                near.append(move)
        best = plan(self._grid, self.horizon).best[self._state]
        return {
            "row": row,
            "column": column,
            "goal_row": goal_row,
            "goal_column": goal_column,
            "danger": self.danger_name,
            "near": near,
            "edges": edges,
            "next_actions": [self.actions[index] for index in sorted(best)],
        }

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """A reflection in one of the styles of the module `teacher`."""
        return write_reflection(cls, GRID_STYLES, facts, style)


def probabilities(policy: Policy, text: str, actions: int) -> list[float]:
    """What a policy gives for an observation. Raises EnvironmentContractError unless these are probabilities."""
    given = [float(each) for each in policy(text)]
    if len(given) != actions or abs(sum(given) - 1) > SLACK or min(given) < 0:
        raise EnvironmentContractError(
            f"The policy gave {given}; give the probability of each of the {actions} actions."
        )
    return given


def split_starts(first: str, others: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """A fixed split of starts: a quarter to test, `first` among them, an eighth to valid, the others to train."""
    names = [first, *shuffled(others)]
    test, valid = -(-len(names) // 4), -(-len(names) // 8)
    dealt = split_in_order(names, {"test": test, "valid": valid, "train": len(names) - test - valid})
    return {split: dealt[split] for split in ("train", "valid", "test")}


def _text(rows: Sequence[str], state: int) -> str:
    """The map, its letters apart, with the player as P; then where the player is."""
    row, column = divmod(state, len(rows[0]))
    lines = [
        " ".join("P" if (i, j) == (row, column) else letter for j, letter in enumerate(line))
        for i, line in enumerate(rows)
    ]
    return "\n".join([*lines, f"You are at row {row}, column {column}."])
