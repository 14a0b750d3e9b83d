"""The scripted teacher of BabyAI, in short sentences of fixed word order, each from the ones before it.

    note    Go to red ball 2 forward 1 left. Ahead: nothing. Carry: nothing.
    next    Go to red ball 2 forward 1 left. Ahead: nothing. Carry: nothing. Next: go forward.

The first sentence is what minigrid's bot is about: "Look around", "Go to", "Pick up", "Drop", "Open", "Close". A place
that was seen before is told also when it is out of sight; where several things fit the mission, it is the one to aim
for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflect_rl.envs.babyai.view import place
from reflect_rl.envs.optional import Styles


def _aim(facts: Mapping[str, Any]) -> str:
    if not facts["verb"]:
        return "No way is known."
    if facts["verb"] == "Explore":
        return "Look around."
    name = f" {facts['target']}" if facts["target"] else ""
    return f"{facts['verb']}{name} {place(facts['forward'], facts['left'])}."


def _around(facts: Mapping[str, Any]) -> str:
    return f"Ahead: {facts['ahead']}. Carry: {facts['carried'] or 'nothing'}."


def _next(facts: Mapping[str, Any]) -> str:
    return f"Next: {facts['next_action'] or 'unknown'}."


STYLES: Styles = {"note": (_aim, _around), "next": (_aim, _around, _next)}
