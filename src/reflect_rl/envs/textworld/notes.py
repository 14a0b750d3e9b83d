"""What a player of a TextWorld game could have noted down: the rooms and exits, the recipe, and what is left of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

COOKED = {"fry": "stove", "roast": "oven", "grill": "BBQ"}
"""What a recipe's way of cooking is done with."""
CUT = ("slice", "dice", "chop")
HEADER = re.compile(r"-= (.+?) =-")
RECIPE = re.compile(r"Ingredients:\s*(.*?)\s*Directions:\s*(.*?)\s*$", re.DOTALL)


class Notes:
    """Notes of one episode, written from what the engine says."""

    def __init__(self) -> None:
        self.room = ""
        self.back = ""
        """The exit that leads back to the room before."""
        self.ingredients: tuple[str, ...] = ()
        self.directions: tuple[str, ...] = ()
        self._left: dict[str, set[str]] = {}

    def hear(self, command: str, said: str) -> None:
        """command: "" at the start. said: what the engine answered."""
        way = command.removeprefix("go ") if command.startswith("go ") else ""
        if found := HEADER.search(said):
            if way:
                self._left.setdefault(self.room, set()).add(way)
                self.back = OPPOSITE[way]
            self.room = found[1].lower()
        if command.endswith("cookbook") and (recipe := RECIPE.search(said)):
            self.ingredients, self.directions = _lines(recipe[1]), _lines(recipe[2])

    def facts(self, actions: Sequence[str], plan: Sequence[str]) -> dict[str, Any]:
        """Facts of the state now; see `TextWorld.describe`. plan: the commands that lead to the goal."""
        exits = [action.removeprefix("go ") for action in actions if action.startswith("go ")]
        left = self._left.get(self.room, set())
        commands = " | ".join(plan)
        return {
            "room": self.room,
            "new_exits": [exit_ for exit_ in exits if exit_ not in left and exit_ != self.back],
            "back": self.back if self.back in exits else "",
            "has_read": bool(self.directions),
            "missing": [food for food in self.ingredients if f"take {food}" in commands],
            "to_do": [step for step in self.directions if _command(step) in commands],
            "next_action": plan[0] if plan else None,
        }


OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def _lines(text: str) -> tuple[str, ...]:
    return tuple(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _command(step: str) -> str:
    """The beginning of the command that does a step of a recipe: "fry the carrot" is "cook carrot with stove"."""
    verb, _, food = step.partition(" the ")
    if verb in COOKED:
        return f"cook {food} with {COOKED[verb]}"
    return f"{verb} {food} with" if verb in CUT else step
