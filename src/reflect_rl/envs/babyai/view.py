"""What the agent of a BabyAI level sees, as text. Places are relative to the agent: steps forward, then to one side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

TYPES = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
DOORS = ("open", "closed", "locked")
"""minigrid's codes, in their order."""
WALL, DOOR, LAVA = TYPES.index("wall"), TYPES.index("door"), TYPES.index("lava")
THINGS = frozenset(TYPES.index(name) for name in ("door", "key", "ball", "box", "goal", "lava"))


class Thing(NamedTuple):
    """forward, left: steps from the agent to the thing; left is negative to the right. name: such as "red ball"."""

    forward: int
    left: int
    name: str


class View(NamedTuple):
    """things: all in sight, the nearest first. walls: (steps, direction) of the nearest walls. carried: "" or a name.

    ahead: what is on the next cell: a thing's name, "wall" or "nothing".
    """

    things: tuple[Thing, ...]
    walls: tuple[tuple[int, str], ...]
    carried: str
    ahead: str


def read_view(image: np.ndarray) -> View:
    """Read minigrid's observation.

    image: type, colour and state of each cell, (columns, rows, 3). The agent is in the middle of the last row, with
    what it carries on its own cell.
    """
    columns, rows, _ = image.shape
    middle, last = columns // 2, rows - 1
    cells = image.tolist()
    things = [
        Thing(last - row, middle - column, thing_name(*cells[column][row]))
        for column in range(columns)
        for row in range(rows)
        if cells[column][row][0] in THINGS and (column, row) != (middle, last)
    ]
    things.sort(key=lambda thing: (thing.forward + abs(thing.left), thing.forward, -thing.left))
    lines = {
        "forward": [cells[middle][last - steps][0] for steps in range(1, rows)],
        "left": [cells[middle - steps][last][0] for steps in range(1, middle + 1)],
        "right": [cells[middle + steps][last][0] for steps in range(1, columns - middle)],
    }
    walls = tuple((line.index(WALL) + 1, side) for side, line in lines.items() if WALL in line)
    kind, color, state = cells[middle][last]
    carried = thing_name(kind, color, state) if kind in THINGS else ""
    ahead = next((thing.name for thing in things if (thing.forward, thing.left) == (1, 0)), None)
    return View(tuple(things), walls, carried, ahead or ("wall" if (1, "forward") in walls else "nothing"))


def tell(mission: str, view: View) -> str:
    """The observation: a line for the mission, one for each thing, one for the walls, one for what is carried."""
    lines = [f"Mission: {mission}.", "You see:" if view.things else "You see: nothing."]
    lines += [f"{thing.name} {place(thing.forward, thing.left)}" for thing in view.things]
    lines.append(f"Walls: {_listed(f'{steps} {side}' for steps, side in view.walls)}.")
    lines.append(f"You carry: {view.carried or 'nothing'}.")
    return "\n".join(lines)


def place(forward: int, left: int) -> str:
    """Where something is: "2 forward 1 left", "3 right", "1 back"."""
    parts = [f"{abs(forward)} {'forward' if forward > 0 else 'back'}"] if forward else []
    parts += [f"{abs(left)} {'left' if left > 0 else 'right'}"] if left else []
    return " ".join(parts) or "here"


def thing_name(kind: int, color: int, state: int) -> str:
    """The name of what minigrid encodes like this: "red ball", "locked green door"."""
    name = TYPES[kind] if kind in (WALL, LAVA) else f"{COLORS[color]} {TYPES[kind]}"
    return f"{DOORS[state]} {name}" if kind == DOOR else name


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(parts) or "none in sight"
