"""The scripted teachers of the toy text worlds: short sentences of fixed word order, each from the ones before it.

The grid worlds (FrozenLake, CliffWalking):

    facts   Player row 2 column 1. Goal row 3 column 3. Go down, right.
    danger  Player row 2 column 1. Goal row 3 column 3. Go down, right. Holes: left. Edges: none.
    next    Player row 2 column 1. Goal row 3 column 3. Go down, right. Holes: left. Edges: none. Next: down, right.

Blackjack:

    hand    Hand hard 16. Dealer 10.
    odds    Hand hard 16. Dealer 10. A hit busts 8 of 13. Dealer busts 21 percent.
    next    Hand hard 16. Dealer 10. A hit busts 8 of 13. Dealer busts 21 percent. Next: hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflect_rl.envs.optional import Styles


def _where(facts: Mapping[str, Any]) -> str:
    """Where the player and the goal are, and which ways lead there, rows first."""
    row, column, goal_row, goal_column = (facts[key] for key in ("row", "column", "goal_row", "goal_column"))
    ways = [way for way, is_one in (("down", goal_row > row), ("up", goal_row < row)) if is_one]
    ways += [way for way, is_one in (("right", goal_column > column), ("left", goal_column < column)) if is_one]
    return f"Player row {row} column {column}. Goal row {goal_row} column {goal_column}. Go {_listed(ways)}."


def _danger(facts: Mapping[str, Any]) -> str:
    return f"{facts['danger'].capitalize()}: {_listed(facts['near'])}. Edges: {_listed(facts['edges'])}."


def _next(facts: Mapping[str, Any]) -> str:
    return f"Next: {_listed(facts['next_actions'])}."


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


GRID_STYLES: Styles = {"facts": (_where,), "danger": (_where, _danger), "next": (_where, _danger, _next)}


def _hand(facts: Mapping[str, Any]) -> str:
    return f"Hand {'soft' if facts['usable_ace'] else 'hard'} {facts['sum']}. Dealer {facts['dealer']}."


def _odds(facts: Mapping[str, Any]) -> str:
    return f"A hit busts {facts['bust_cards']} of 13. Dealer busts {facts['dealer_bust_percent']} percent."


BLACKJACK_STYLES: Styles = {"hand": (_hand,), "odds": (_hand, _odds), "next": (_hand, _odds, _next)}
