"""The scripted teacher of TextWorld, in short sentences of fixed word order, each from the ones before it.

Of the coin games:

    note    Room parlor. New exits: east. Back: south.
    next    Room parlor. New exits: east. Back: south. Next: go east.

Of the cooking games:

    note    Room kitchen. New exits: none. Back: none. Recipe: read. Get: carrot. To do: fry the carrot, prepare meal.
    next    ... Next: open fridge.

Nothing is told that the player could not have read in this episode, but for the last sentence of "next".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflect_rl.envs.optional import Styles


def _where(facts: Mapping[str, Any]) -> str:
    return f"Room {facts['room']}. New exits: {_listed(facts['new_exits'])}. Back: {facts['back'] or 'none'}."


def _recipe(facts: Mapping[str, Any]) -> str:
    if not facts["cooks"]:
        return ""
    if not facts["has_read"]:
        return " Recipe: unread."
    return f" Recipe: read. Get: {_listed(facts['missing'])}. To do: {_listed(facts['to_do'])}."


def _note(facts: Mapping[str, Any]) -> str:
    return _where(facts) + _recipe(facts)


def _next(facts: Mapping[str, Any]) -> str:
    return f"Next: {facts['next_action'] or 'unknown'}."


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


STYLES: Styles = {"note": (_note,), "next": (_note, _next)}
