"""A prior of where things are: how often receptacles of a class hold an object of a class, counted on train games.

Classes are named as in the texts, in lower case. `scripts/write_alfworld_prior.py` writes prior.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files

DOUBT = 0.5
"""Receptacles added to each count, holding the object at the rate of all receptacles: a pair never seen is possible."""

ANYWHERE = ""
"""Stands for a receptacle class that was never seen in a room with the object."""


@dataclass(frozen=True)
class Prior:
    """objects: {object class: {receptacle class: (receptacles that hold one, receptacles)}}, over games with such an
    object. shut: {receptacle class: share of its receptacles that are closed at first}.
    """

    objects: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    shut: Mapping[str, float] = field(default_factory=dict)

    def likely(self, kind: str, receptacle: str) -> float:
        """How likely a receptacle of this class holds an object of class `kind`: above 0; 1 if nothing is known."""
        shares = self._shares.get(kind)
        return 1.0 if shares is None else shares.get(receptacle, shares[ANYWHERE])

    @cached_property
    def _shares(self) -> dict[str, dict[str, float]]:
        shares = {}
        for kind, counts in self.objects.items():
            overall = sum(held for held, _ in counts.values()) / max(1, sum(total for _, total in counts.values()))
            shares[kind] = {ANYWHERE: overall}
            for place, (held, total) in counts.items():
                shares[kind][place] = (held + DOUBT * overall) / (total + DOUBT)
        return shares

    def closed(self, receptacle: str) -> float:
        """How likely a receptacle of this class is closed at first; one half if nothing is known of any class."""
        return self.shut.get(receptacle, 0.0) if self.shut else 0.5


NO_PRIOR = Prior()
"""Nothing is known: every place is as likely as any other."""


@cache
def train_prior() -> Prior:
    """The prior that ships."""
    data = json.loads(files("reflect_rl.envs.alfworld").joinpath("prior.json").read_text(encoding="utf-8"))
    objects = {kind: {place: (pair[0], pair[1]) for place, pair in of.items()} for kind, of in data["objects"].items()}
    return Prior(objects, data["shut"])
