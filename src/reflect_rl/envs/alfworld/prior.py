"""Where things tend to be: how often receptacles of a class hold an object of a class, counted on train games.

The counts are of the classes' names as the texts give them, in lower case. `prior.json` beside this file is
`count_prior(furniture(game.problem) for ...)` over the 3,553 solvable train games; no game of a validation split had a
part in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files

DOUBT = 0.5
"""Receptacles added to each count, holding the object at the rate of all receptacles: a pair never seen is possible."""

FACT = re.compile(r"\((\w+) ([\w ]+)\)")
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

    def to_json(self) -> dict[str, object]:
        objects = {kind: {place: list(pair) for place, pair in sorted(of.items())} for kind, of in self.objects.items()}
        return {"objects": dict(sorted(objects.items())), "shut": dict(sorted(self.shut.items()))}


NO_PRIOR = Prior()
"""Nothing is known: every place is as likely as any other."""


@cache
def train_prior() -> Prior:
    """The prior that ships."""
    data = json.loads(files("reflect_rl.envs.alfworld").joinpath("prior.json").read_text(encoding="utf-8"))
    objects = {kind: {place: (pair[0], pair[1]) for place, pair in of.items()} for kind, of in data["objects"].items()}
    return Prior(objects, data["shut"])


def count_prior(games: Iterable[tuple[Mapping[str, Iterable[str]], Iterable[str]]]) -> Prior:
    """Count a prior. games: for each, {receptacle: names of the objects in it}, and the openable receptacles.

    Names are those of the texts ("cabinet 10"), or anything else that begins with the class and a blank.
    """
    held: dict[str, dict[str, list[int]]] = {}
    shut: dict[str, list[int]] = {}
    for contents, openable in games:
        places: dict[str, int] = {}
        within: dict[str, dict[str, int]] = {}
        for receptacle, names in contents.items():
            place = receptacle.partition(" ")[0]
            places[place] = places.get(place, 0) + 1
            for kind in {name.partition(" ")[0] for name in names}:
                of = within.setdefault(kind, {})
                of[place] = of.get(place, 0) + 1
        closed = [name.partition(" ")[0] for name in openable]
        for place, total in places.items():
            _add(shut, place, closed.count(place), total)
        for kind, of in within.items():
            for place, total in places.items():
                _add(held.setdefault(kind, {}), place, of.get(place, 0), total)
    objects = {kind: {place: (pair[0], pair[1]) for place, pair in of.items()} for kind, of in held.items()}
    return Prior(objects, {place: round(pair[0] / pair[1], 3) for place, pair in shut.items() if pair[0]})


def furniture(problem: str) -> tuple[dict[str, list[str]], list[str]]:
    """What `count_prior` counts, from a problem file: what is in which receptacle at first, and what can be opened."""
    facts = [(found[1].lower(), found[2].lower().split()) for found in FACT.finditer(problem.partition("(:goal")[0])]
    placed = sorted({args[0] for name, args in facts if name == "receptacleatlocation"})
    contents: dict[str, list[str]] = {_named(each): [] for each in placed}
    for name, args in facts:
        if name == "inreceptacle" and args[1] in placed:
            contents[_named(args[1])].append(_named(args[0]))
    shut = {args[0] for name, args in facts if name == "openable"}
    return contents, [_named(each) for each in placed if each in shut]


def _named(identifier: str) -> str:
    """The id after the class that the texts name it by: basins are told from what they belong to."""
    return f"{identifier.partition('_bar_')[0]}{'basin' if 'basin' in identifier else ''} {identifier}"


def _add(counts: dict[str, list[int]], key: str, part: int, total: int) -> None:
    pair = counts.setdefault(key, [0, 0])
    pair[0] += part
    pair[1] += total
