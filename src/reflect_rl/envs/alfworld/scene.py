"""A scene: everything about a game that never changes, compiled once and shared by all who play it."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from threading import Lock
from typing import Any

from reflect_rl.envs.alfworld.game import GameFile, GameFileError
from reflect_rl.envs.alfworld.goals import Test, compile_goal, watched
from reflect_rl.envs.alfworld.problem import Problem, read_problem
from reflect_rl.envs.alfworld.rules import Rules

SCENES_KEPT = 512
"""Compiled scenes kept in memory; about 0.1 MB each."""
STATUS = ("isclean", "ishot", "iscool", "istoggled", "ison", "issliced")
APPLIANCES = {
    "move": {"clean": ("sinkbasintype",), "heat": ("microwavetype",), "cool": ("fridgetype",)},
    "put": {"clean": ("sinktype", "sinkbasintype"), "heat": ("microwavetype",), "cool": ("fridgetype",)},
}
"""The receptacle types that each treatment works at, by grammar."""
ABLE = {"clean": "cleanable", "heat": "heatable", "cool": "coolable"}
MADE = {"clean": "isclean", "heat": "ishot", "cool": "iscool", "slice": "issliced"}
"""What each treatment makes of an object."""
KNIVES = ("knifetype", "butterknifetype")


@dataclass(frozen=True)
class Scene:
    """ids: all that facts are about, sorted. receptacles: sorted. places: their locations. at: receptacles by location.

    accepts: for each object, the receptacles that may hold it. treats: for each receptacle, its treatments. able:
    objects by flag ("openable" for receptacles). types: of objects. The rest is the state at the start.
    """

    problem: Problem
    goal: Test
    watched: frozenset[str]
    ids: tuple[str, ...]
    receptacles: tuple[str, ...]
    places: dict[str, tuple[str, ...]]
    at: dict[str, tuple[str, ...]]
    accepts: dict[str, frozenset[str]]
    treats: dict[str, tuple[str, ...]]
    able: dict[str, frozenset[str]]
    types: dict[str, frozenset[str]]
    location: str
    held: str | None
    contents: dict[str, frozenset[str]]
    lies: frozenset[tuple[str, str]]
    opened: frozenset[str]
    status: dict[str, frozenset[str]]
    inside: dict[str, tuple[str, ...]]
    names: dict[str, str] = field(default_factory=dict)
    """The usual display names, filled when they are needed."""
    words: list[Any] = field(default_factory=list)
    """The engine's sentences with the usual names, kept here so that they live as long as the scene."""


_scenes: OrderedDict[bytes, Scene] = OrderedDict()
_lock = Lock()


def scene_of(game: GameFile, rules: Rules) -> Scene:
    """The compiled scene of a game, from the cache if it is there. Raises GameFileError."""
    key = blake2b(f"{rules.grammar}\0{game.problem}".encode(), digest_size=16).digest()
    with _lock:
        if key in _scenes:
            _scenes.move_to_end(key)
            return _scenes[key]
    scene = _compile(read_problem(game.problem, game.id), rules, game.id)
    with _lock:
        _scenes[key] = scene
        while len(_scenes) > SCENES_KEPT:
            _scenes.popitem(last=False)
    return scene


def forget_scenes() -> None:
    """Empty the cache."""
    with _lock:
        _scenes.clear()


def _compile(problem: Problem, rules: Rules, name: str) -> Scene:
    facts = problem.facts
    _check_start(facts, name)
    places = _grouped(facts["receptacleatlocation"])
    at = _grouped((place, receptacle) for receptacle in sorted(places) for place in places[receptacle])
    kinds, types = _grouped(facts["receptacletype"]), _grouped(facts["objecttype"])
    contents = _grouped((receptacle, thing) for thing, receptacle in facts["inreceptacle"])
    inside = _grouped((outer, inner) for inner, outer in facts["inreceptacleobject"])
    treated = APPLIANCES[rules.grammar].items()
    flags = ("openable", "pickupable", "toggleable", "sliceable", "isreceptacleobject", *ABLE.values())
    ids = {argument for its in facts.values() for arguments in its for argument in arguments}
    return Scene(
        problem=problem,
        goal=compile_goal(problem, name),
        watched=watched(problem.goal),
        ids=tuple(sorted(ids)),
        receptacles=tuple(sorted(places)),
        places={receptacle: tuple(its) for receptacle, its in places.items()},
        at={place: tuple(its) for place, its in at.items()},
        accepts=_accepts(_grouped((thing, holder) for holder, thing in facts["cancontain"]), types, kinds),
        treats={r: tuple(verb for verb, wanted in treated if its.keys() & set(wanted)) for r, its in kinds.items()},
        able={flag: frozenset(name for (name,) in facts[flag]) for flag in flags},
        types={thing: frozenset(its) for thing, its in types.items()},
        location=facts["atlocation"][0][1],
        held=facts["holds"][0][1] if facts["holds"] else None,
        contents={receptacle: frozenset(its) for receptacle, its in contents.items()},
        lies=frozenset((thing, place) for thing, place in facts["objectatlocation"]),
        opened=frozenset(name for (name,) in facts["opened"]),
        status={flag: frozenset(name for (name,) in facts[flag]) for flag in STATUS},
        inside={outer: tuple(sorted(inner)) for outer, inner in inside.items()},
    )


def _check_start(facts: dict[str, list[tuple[str, ...]]], name: str) -> None:
    """Raise GameFileError for a start that no released game has, and that the state here cannot tell."""
    holding = {agent for agent, _ in facts["holds"]}
    at_places = set(facts["receptacleatlocation"])
    for is_so, what in (
        (len(set(facts["atlocation"])) != 1, "puts the agent at more than one place, or has two agents"),
        (len({place for place, _ in at_places}) != len(at_places), "has a receptacle at more than one place"),
        (len(set(facts["holds"])) > 1, "has more than one object in hand"),
        (holding != {agent for (agent,) in facts["holdsany"]}, "has holds without holdsAny, or the other way round"),
    ):
        if is_so:
            raise GameFileError(
                f"The problem of {name} {what}, which the fast engine does not know. Play it on the real engine: "
                f"engine='textworld'."
            )


def _grouped(pairs: Iterable[tuple[str, ...]]) -> dict[str, dict[str, None]]:
    """The second words of pairs by their first ones, in order and without repetition."""
    groups: dict[str, dict[str, None]] = {}
    for first, second in pairs:
        groups.setdefault(first, {})[second] = None
    return groups


def _accepts(
    holders: dict[str, dict[str, None]], types: dict[str, dict[str, None]], kinds: dict[str, dict[str, None]]
) -> dict[str, frozenset[str]]:
    """The receptacles that may hold each object. holders: receptacle types by object type."""
    receptacles = _grouped((kind, receptacle) for receptacle, its in kinds.items() for kind in its)
    return {
        thing: frozenset(
            name for kind in its for holder in holders.get(kind, ()) for name in receptacles.get(holder, ())
        )
        for thing, its in types.items()
    }


def names_of(scene: Scene, shuffler: random.Random | None) -> dict[str, str]:
    """Display names: a class and a number, the highest number for the first id.

    shuffler: gives out the numbers in the order into which it shuffles the ids; None: in the ids' own order.
    """
    if shuffler is None:
        if not scene.names:
            scene.names.update(_names(list(scene.ids)))
        return scene.names
    ids = list(scene.ids)
    shuffler.shuffle(ids)
    return _names(ids)


def _names(ids: list[str]) -> dict[str, str]:
    counts = Counter(kind for name in ids if (kind := _kind(name)) is not None)
    names = {}
    for name in ids:
        kind = _kind(name)
        if kind is None:  # an id without a position keeps its own name, and a space after it
            names[name] = f"{_spelled(name)} "
        else:
            names[name] = f"{kind} {counts[kind]}"
            counts[kind] -= 1
    return names


@lru_cache(maxsize=65_536)
def _kind(name: str) -> str | None:
    """The class in an id, None if it has no position. A basin is told from its sink."""
    kind, bar, _ = _spelled(name).partition("|")
    if not bar:
        return None
    return f"{kind}basin" if "basin" in name else kind


def _spelled(name: str) -> str:
    for word, sign in (("_bar_", "|"), ("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        name = name.replace(word, sign)
    return name
