"""The scripted teacher of DangerousTaxi: a reflection from a state's facts, in short sentences of fixed word order.

The vocabulary is small and closed, and every sentence follows from the ones before it, so that models of a hundred
thousand parameters learn to write it: where the taxi is, where it has to go, hence which ways. The styles:

    facts    Taxi row 2 column 1. Target G row 0 column 4. Go north, east.
    blocked  Taxi row 2 column 1. Target G row 0 column 4. Go north, east. Blocked: south, west.
    next     Taxi row 2 column 1. Target G row 0 column 4. Go north, east. Blocked: south, west. Next: north.
    judge    Last: east, bad, farther. Taxi row 2 column 1. Target G row 0 column 4. Go north, east. Blocked: south.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflect_rl.envs.optional import Styles


def _target(facts: Mapping[str, Any]) -> str:
    """Where the taxi is, where its target lies, and which ways lead there, rows first."""
    row, column, rows, columns = (facts[key] for key in ("taxi_row", "taxi_column", "target_rows", "target_columns"))
    ways = [name for name, offset in (("north", -rows), ("south", rows)) if offset > 0]
    ways += [name for name, offset in (("west", -columns), ("east", columns)) if offset > 0]
    here = "drop off" if facts["passenger_aboard"] else "pick up"
    return (
        f"Taxi row {row} column {column}. Target {facts['target'][-1]} row {row + rows} column {column + columns}. "
        f"Go {', '.join(ways) or here}."
    )


def _blocked(facts: Mapping[str, Any]) -> str:
    return f"Blocked: {', '.join(facts['blocked']) or 'none'}."


def _next(facts: Mapping[str, Any]) -> str:
    return f"Next: {facts['next_action']}."


def _judge(facts: Mapping[str, Any]) -> str:
    """Whether the last action was good, and why: by the fewest steps to go, before and after it."""
    action = facts["last_action"]
    if action is None:
        return "Last: none."
    why = {"pick up": "aboard", "drop off": "wrong place"}.get(action)
    return f"Last: {action}, {'good' if facts['last_effect'] else 'bad'}, " + (
        f"{why or ('nearer' if facts['last_effect'] else 'farther')}."
    )


STYLES: Styles = {
    "facts": (_target,),
    "blocked": (_target, _blocked),
    "next": (_target, _blocked, _next),
    "judge": (_judge, _target, _blocked),
}
