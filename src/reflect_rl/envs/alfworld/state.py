"""The part of a game that actions change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class State:
    """What actions change, by internal ids. contents: objects in each receptacle. lies: (object, location). absent:
    (object, receptacle) of which it was stated that the one is not in the other, by taking it out."""

    location: str
    held: str | None
    contents: dict[str, set[str]]
    lies: set[tuple[str, str]]
    opened: set[str]
    status: dict[str, set[str]]
    absent: set[tuple[str, str]]
