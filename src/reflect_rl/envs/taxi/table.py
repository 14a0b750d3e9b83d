"""What is known of Gymnasium's Taxi-v4 before anybody drives: its transition table, its texts, its shortest ways.

The dynamics are Gymnasium's own table, read once a process. A state is Gymnasium's integer from 0 to 499.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium

from reflect_rl.envs.splits import shuffled, split_in_order

ACTIONS = ("south", "north", "east", "west", "pick up", "drop off")
PICK_UP, DROP_OFF = 4, 5
ABOARD = 4
"""Gymnasium's passenger location for "in the taxi"; 0 to 3 are the landmarks."""
LANDMARKS = "RGYB"
SPLIT_SIZES = {"train": 200, "valid": 40, "test": 60}
UNREACHABLE = 10**6


@dataclass(frozen=True, slots=True)
class TaxiTable:
    """following: the state after [state][action]. delivers: the states in which dropping off ends the ride.

    parts: row, column, passenger, destination of each state. landmarks: (row, column) of R, G, Y, B. texts: what is
    seen of each state.
    """

    following: tuple[tuple[int, ...], ...]
    delivers: frozenset[int]
    parts: tuple[tuple[int, int, int, int], ...]
    landmarks: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """steps: fewest steps to the goal from each state. best: the actions that begin a shortest way to it."""

    steps: tuple[int, ...]
    best: tuple[frozenset[int], ...]
    first: tuple[int, ...]
    """The lowest of `best`; -1 where there is none."""


@cache
def taxi_table() -> TaxiTable:
    """Gymnasium's table, with the texts of its states."""
    env = gymnasium.make("Taxi-v4")
    world: Any = env.unwrapped
    states, actions = range(len(world.P)), range(len(ACTIONS))
    parts = tuple(tuple(int(part) for part in world.decode(state)) for state in states)
    table = TaxiTable(
        following=tuple(tuple(int(world.P[state][action][0][1]) for action in actions) for state in states),
        delivers=frozenset(state for state in states if world.P[state][DROP_OFF][0][3]),
        parts=parts,  # type: ignore[arg-type]
        landmarks=tuple((int(row), int(column)) for row, column in world.locs),
        texts=tuple(_text([line.tobytes().decode() for line in world.desc], *part) for part in parts),
    )
    env.close()
    return table


def _text(lines: list[str], row: int, column: int, passenger: int, destination: int) -> str:
    """Gymnasium's `ansi` grid, the taxi as T (or P, with the passenger aboard), and a line each for the two goals."""
    grid = [list(line) for line in lines]
    grid[1 + row][1 + 2 * column] = "P" if passenger == ABOARD else "T"
    where = "in taxi" if passenger == ABOARD else f"at {LANDMARKS[passenger]}"
    told = [f"Passenger {where}.", f"Destination {LANDMARKS[destination]}."]
    return "\n".join(["".join(line) for line in grid] + told)


@cache
def plan(goal: str) -> Plan:
    """Shortest ways from every state to the "pick up" or to the "drop off" at the destination.

    Exact: value iteration with unit costs on the table, until nothing changes.
    """
    table = taxi_table()
    states = range(len(table.following))
    steps = [UNREACHABLE] * len(states)

    def after(state: int, action: int) -> int:
        """Steps still to go after an action."""
        following = table.following[state][action]
        if following == state:
            return UNREACHABLE
        if action == PICK_UP if goal == "pick up" else action == DROP_OFF and state in table.delivers:
            return 0
        return steps[following]

    changed = True
    while changed:
        changed = False
        for state in states:
            fewest = min(1 + min(after(state, action) for action in range(len(ACTIONS))), UNREACHABLE)
            if fewest < steps[state]:
                steps[state], changed = fewest, True
    best = tuple(frozenset(a for a in range(len(ACTIONS)) if after(s, a) == steps[s] - 1) for s in states)
    return Plan(tuple(steps), best, tuple(min(choices, default=-1) for choices in best))


@cache
def starts() -> dict[str, int]:
    """The 300 starts by task name: "taxi-r2c3-R-G" is taxi in row 2, column 3, passenger at R, destination G."""
    return {
        f"taxi-r{row}c{column}-{LANDMARKS[passenger]}-{LANDMARKS[destination]}": state
        for state, (row, column, passenger, destination) in enumerate(taxi_table().parts)
        if passenger not in (ABOARD, destination)
    }


@cache
def split_tasks() -> dict[str, tuple[str, ...]]:
    """The task names of each split: a fixed shuffle, the same for every run and every version of every library."""
    return split_in_order(shuffled(starts()), SPLIT_SIZES)


@cache
def aboard(state: int) -> int:
    """The same state, but with the passenger in the taxi."""
    row, column, _, destination = taxi_table().parts[state]
    return taxi_table().parts.index((row, column, ABOARD, destination))
