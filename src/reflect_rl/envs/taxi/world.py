"""DangerousTaxi: Gymnasium's Taxi-v4 as text, in which a false move is the end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

import gymnasium

from reflect_rl.envs.gym import ActionMask
from reflect_rl.envs.optional import write_reflection
from reflect_rl.envs.simple import SimpleTextEnv, check_rewards
from reflect_rl.envs.taxi.table import (
    ABOARD,
    ACTIONS,
    DROP_OFF,
    LANDMARKS,
    PICK_UP,
    Plan,
    aboard,
    plan,
    split_tasks,
    starts,
    taxi_table,
)
from reflect_rl.envs.taxi.teacher import STYLES
from reflect_rl.records import StopReason

MOVES = ACTIONS[:4]


class DangerousTaxi(SimpleTextEnv):
    """Fetch a passenger and take them to their destination; any action without effect ends the episode.

    ## Description
    Gymnasium's Taxi-v4 (5x5 grid, walls, four landmarks R, G, Y, B), by its own transition table, seen as text. Every
    action that leaves the state as it was is dangerous: a bump into a wall, a pick up where nobody waits, a drop off
    without a passenger or away from a landmark. It ends the episode, on the first step as on every other.
    After Reflect-RL (arXiv 2402.12621).

    ## Actions
    Six, always admissible: 0 south, 1 north, 2 east, 3 west, 4 pick up, 5 drop off.

    ## Observations
    Text: Gymnasium's `ansi` grid in 7 lines, the taxi as T, or P with the passenger aboard; then "Passenger at R." or
    "Passenger in taxi."; then "Destination G.". No trailing newline.

    ## Starting state
    One of 300 tasks: taxi cell x passenger's landmark x another landmark as destination, named like taxi-r2c3-R-G (row
    2, column 3, passenger at R, destination G; rows from north, columns from west, from 0). A fixed shuffle splits them
    into 200 train, 40 valid and 60 test. Stages: "pick up" ends with success at the pick up; "drop off" begins with the
    passenger aboard.

    ## Rewards
    Arguments of the constructor, which add up: every step `step_reward` -0.02; picking up `pick_up_reward` +0.5;
    putting the passenger down anywhere but at the destination `put_down_reward` -0.5 (or picking up and putting down
    again would pay); success `success_reward` +1; a dangerous action `dangerous_reward` -1.

    ## End
    Terminated: SUCCESS (drop off at the destination; in stage "pick up", the pick up) or DANGEROUS. Truncated: HORIZON,
    after `horizon` steps, 20 by default. Every start can be solved within 18.

    ## Version history
    v1: first version.
    """

    task_text = (
        "Drive the taxi T to the passenger, pick up, drive to the destination, drop off. P is the taxi with the "
        "passenger. An action without effect ends the game."
    )
    actions = ACTIONS
    stages = ("pick up", "drop off")
    teachers = tuple(STYLES)

    def __init__(
        self,
        horizon: int = 20,
        *,
        success_reward: float = 1.0,
        dangerous_reward: float = -1.0,
        pick_up_reward: float = 0.5,
        put_down_reward: float = -0.5,
        step_reward: float = -0.02,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(horizon, render_mode)
        check_rewards(
            success_reward=success_reward,
            dangerous_reward=dangerous_reward,
            pick_up_reward=pick_up_reward,
            put_down_reward=put_down_reward,
            step_reward=step_reward,
        )
        self.success_reward = success_reward
        self.dangerous_reward = dangerous_reward
        self.pick_up_reward = pick_up_reward
        self.put_down_reward = put_down_reward
        self.step_reward = step_reward
        self._table = taxi_table()
        self._state = 0
        self._plan: Plan = plan("drop off")
        self._picking_up = False
        self._nearer: bool | None = None

    @cached_property
    def observation_space(self) -> gymnasium.spaces.Text:  # type: ignore[override]
        """Made when it is asked for: hundreds of environments play side by side without it."""
        shortest, longest, characters = _text_bounds()
        return gymnasium.spaces.Text(longest, min_length=shortest, charset=characters)

    def tasks(self, split: str) -> tuple[str, ...]:
        """The task names of a split. Raises EnvironmentContractError for another name than train, valid or test."""
        self.check_split(split)
        return split_tasks()[split]

    def knows_task(self, task: str) -> bool:
        return task in starts()

    def begin(self, task: str, stage: str | None) -> None:
        start = starts()[task]
        self._state = aboard(start) if stage == "drop off" else start
        self._plan = plan("pick up" if stage == "pick up" else "drop off")
        self._picking_up = stage == "pick up"
        self._nearer = None

    def observe(self) -> str:
        return self._table.texts[self._state]

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        before, state = self._state, self._table.following[self._state][choice]
        if state == before:
            return self.step_reward + self.dangerous_reward, StopReason.DANGEROUS
        self._state = state
        self._nearer = self._plan.steps[state] < self._plan.steps[before]
        if choice == PICK_UP:
            if self._picking_up:
                return self.step_reward + self.pick_up_reward + self.success_reward, StopReason.SUCCESS
            return self.step_reward + self.pick_up_reward, None
        if choice == DROP_OFF:
            if before in self._table.delivers:
                return self.step_reward + self.success_reward, StopReason.SUCCESS
            return self.step_reward + self.put_down_reward, None
        return self.step_reward, None

    def expert(self) -> int:
        """The lowest index of the actions that begin a shortest way to the goal."""
        self.require_playing("expert")
        return self._plan.first[self._state]

    def expert_set(self) -> frozenset[int]:
        """All actions that begin a shortest way to the goal."""
        self.require_playing("expert_set")
        return self._plan.best[self._state]

    def optimal_steps(self) -> int:
        """Fewest steps from the state now to the goal, at least 1."""
        self.require_playing("optimal_steps")
        return self._plan.steps[self._state]

    def describe(self) -> dict[str, Any]:
        """Facts of the state now, JSON-able.

        taxi_row, taxi_column: 0 to 4 from north and west. target: "passenger at R" or "destination G". target_rows,
        target_columns: how far it lies to the south and to the east (negative: north, west). blocked: the moves that
        would bump. next_action: the expert's. last_action: name, None at the start. last_effect: whether that brought
        the goal nearer, by the fewest steps to it (None at the start). passenger_aboard, destination.
        """
        self.require_playing("describe")
        facts = _facts(self._state)
        facts["next_action"] = ACTIONS[self._plan.first[self._state]]
        facts["last_action"] = self.last_action
        facts["last_effect"] = self._nearer
        return facts

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """A reflection in one of the styles of the module `teacher`."""
        return write_reflection(cls, STYLES, facts, style)


class GymnasiumTaxi(ActionMask, DangerousTaxi):
    """DangerousTaxi as `gymnasium.make("reflect_rl/Taxi-v0")` gives it: all of its actions are always admissible."""


def _facts(state: int) -> dict[str, Any]:
    """What does not depend on how the state was reached, nor on the stage."""
    table = taxi_table()
    row, column, passenger, destination = table.parts[state]
    has_passenger = passenger == ABOARD
    target = destination if has_passenger else passenger
    return {
        "taxi_row": row,
        "taxi_column": column,
        "target": f"{'destination' if has_passenger else 'passenger at'} {LANDMARKS[target]}",
        "target_rows": table.landmarks[target][0] - row,
        "target_columns": table.landmarks[target][1] - column,
        "blocked": [move for index, move in enumerate(MOVES) if table.following[state][index] == state],
        "passenger_aboard": has_passenger,
        "destination": LANDMARKS[destination],
    }


@cache
def _text_bounds() -> tuple[int, int, frozenset[str]]:
    """Shortest and longest observation, and the characters they are made of."""
    texts = taxi_table().texts
    return min(map(len, texts)), max(map(len, texts)), frozenset("".join(texts))
