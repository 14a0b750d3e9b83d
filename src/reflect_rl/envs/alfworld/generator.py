"""Small generated games in ALFWorld's domain, for tests and for users without the released ones.

They are no part of ALFWorld, and figures measured on them say nothing about ALFWorld's own games: names, counts and
places are drawn here, and ids and problem texts say "generated". Every game can be solved. They have the oddities of
released games: an object in two receptacles, or listed elsewhere than it is; objects cool from the start; facts stated
twice; several receptacles at one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from reflect_rl.envs.alfworld.data import TASK_TYPES, TREATMENTS, AlfworldDataError
from reflect_rl.envs.alfworld.game import GameFile
from reflect_rl.envs.alfworld.generator_things import APPLIANCE, BEDROOM, FIXTURES, KITCHEN, LAMP, OPENABLE, Room
from reflect_rl.envs.simple import unknown
from reflect_rl.seeding import stream

SPLITS = {"train": 300, "valid": 60, "test": 60}
"""Games by split; a multiple of the six task types each."""
STATES = {"heat": ("heatable", "isHot"), "cool": ("coolable", "isCool"), "clean": ("cleanable", "isClean")}
RARELY = 0.15
"""How often each oddity occurs."""


class GeneratedData:
    """The generated games, as `AlfworldData` gives those of a folder. An id reads generated/split/type/number."""

    splits = frozenset(SPLITS)
    described: frozenset[str] = frozenset()
    """No person described a generated game."""

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """All ids, split by split."""
        kinds = tuple(TASK_TYPES)
        numbered = ((split, number) for split, count in SPLITS.items() for number in range(count))
        return tuple(f"generated/{split}/{kinds[number % len(kinds)]}/{number:03d}" for split, number in numbered)

    @cached_property
    def known(self) -> frozenset[str]:
        """All ids, to look one up."""
        return frozenset(self.ids)

    def games(self, split: str | None = None) -> tuple[str, ...]:
        """The ids of a split ("train", "valid" or "test"), or of all."""
        return tuple(each for each in self.ids if split in (None, each.split("/")[1]))

    def load(self, game_id: str) -> GameFile:
        """The game of an id. Raises AlfworldDataError for any other string."""
        if game_id not in self.known:
            raise AlfworldDataError(unknown("generated game", game_id, self.ids))
        _, split, kind, number = game_id.split("/")
        return generate(kind, stream(int(number), f"alfworld {split}"), game_id)


def generate(kind: str, random: np.random.Generator, game_id: str) -> GameFile:
    """Draw a game of this task type. It carries neither domain nor grammar: the engine takes those it has."""
    room = _Draft(kind, random)
    target, thing = room.target, room.thing
    lamp = LAMP if kind == "look_at_obj_in_light" else ""
    traj = {
        "task_type": kind,
        "task_id": game_id,
        "pddl_params": {
            "object_target": thing,
            "parent_target": "" if lamp else target,
            "toggle_target": lamp,
            "mrecep_target": "",
            "object_sliced": False,
        },
        "turk_annotations": {"anns": [{"task_desc": f"A generated game: {TASK_TYPES[kind]}, {thing}."}]},
        "scene": {"floor_plan": "generated", "scene_num": 0, "random_seed": 0},
    }
    return GameFile(id=game_id, problem=room.problem(game_id), traj=traj)


class _Draft:
    """A room being furnished: what is where, as ids of the problem file."""

    def __init__(self, kind: str, random: np.random.Generator) -> None:
        self.kind = kind
        self.random = random
        self.room = self._room()
        self.thing, self.target = self._goal()
        self.receptacles = self._receptacles()
        self.locations: dict[str, str] = {}
        self.contents: dict[str, list[str]] = {name: [] for name in self.receptacles}
        self.cool: set[str] = set()
        self.strayed: dict[str, str] = {}
        self._place_receptacles()
        self._place_things()
        self.start = self._location()

    def _room(self) -> Room:
        if self.kind in TREATMENTS:
            return KITCHEN
        if self.kind == "look_at_obj_in_light":
            return BEDROOM
        return self._pick((KITCHEN, BEDROOM))

    def _goal(self) -> tuple[str, str]:
        """The object class, and the receptacle class it is to be put in."""
        treatment = TREATMENTS.get(self.kind)
        fit = [
            name for name, thing in self.room.things.items() if name != LAMP and treatment in (None, *sorted(thing.can))
        ]
        thing = self._pick(fit)
        places = [place for place in self.room.things[thing].places if place != APPLIANCE.get(treatment or "")]
        return thing, self._pick(places)

    def _receptacles(self) -> dict[str, str]:
        """{id: class}, among them those that the goal needs, and one more place that the object may be in."""
        others = [place for place in self.room.things[self.thing].places if place != self.target]
        needed = {*self.room.always, self.target, self._pick(others)}
        receptacles = {}
        for place, most in self.room.receptacles.items():
            for _ in range(int(self.random.integers(1 if place in needed else 0, most + 1))):
                receptacles[self._id(place)] = place
        return receptacles

    def _place_receptacles(self) -> None:
        """Each at a location, some at that of another."""
        for name in self.receptacles:
            shares = bool(self.locations) and self.random.random() < 2 * RARELY
            self.locations[name] = self._pick(list(self.locations.values())) if shares else self._location()

    def _place_things(self) -> None:
        """The objects of the goal outside its target, a lamp in a bedroom, and others anywhere they may be."""
        wanted = 2 if self.kind == "pick_two_obj_and_place" else 1
        for _ in range(wanted + int(self.random.random() < 2 * RARELY)):
            self._place(self.thing, avoid=self.target)
        if self.room is BEDROOM:
            self._place(LAMP)
        others = [name for name in self.room.things if name not in (self.thing, LAMP)]
        for _ in range(int(self.random.integers(4, 13))):
            self._place(self._pick(others))

    def _place(self, thing: str, avoid: str = "") -> None:
        allowed = self.room.things[thing].places
        places = [name for name, place in self.receptacles.items() if place in allowed and place != avoid]
        if not places:
            return
        name = self._id(thing)
        self.contents[self._pick(places)].append(name)
        if thing == LAMP:
            return
        if len(places) > 1 and self.random.random() < RARELY:  # in two receptacles, as scenes have it
            other = self._pick(places)
            self.contents[other] += [name] if name not in self.contents[other] else []
        if self.random.random() < RARELY:
            self.strayed[name] = self._location()
        if thing != self.thing and "cool" in self.room.things[thing].can and self.random.random() < RARELY:
            self.cool.add(name)

    def _id(self, kind: str) -> str:
        """An id such as the released games have: the class, then a position; a basin belongs to its sink."""
        where = "_bar_".join(
            f"{'minus' if value < 0 else 'plus'}_{abs(value) // 100:02d}_dot_{abs(value) % 100:02d}"
            for value in map(int, self.random.integers(-499, 500, size=3))
        ).replace("_bar_", "_bar__")
        whole = "Sink" if kind == "SinkBasin" else kind
        return f"{whole}_bar__{where}" + ("_bar_SinkBasin" if kind == "SinkBasin" else "")

    def _location(self) -> str:
        return "loc_bar_" + "_bar_".join(map(str, map(int, self.random.integers(0, 100, size=4))))

    def _pick(self, among: Any) -> Any:
        return among[int(self.random.integers(len(among)))]

    def problem(self, game_id: str) -> str:
        """The problem file. Its facts are stated in a shuffled order, some of them twice."""
        fixtures = {self._id(name): name for name in FIXTURES}
        things = {name: name.partition("_bar_")[0] for held in self.contents.values() for name in held}
        facts = [*self._facts(things), *(f"objectAtLocation {name} {self._location()}" for name in fixtures)]
        facts += [f"objectType {name} {kind}Type" for name, kind in fixtures.items()]
        facts += [fact for fact in facts if self.random.random() < RARELY]
        order = self.random.permutation(len(facts))
        lines = "\n".join(f"        ({facts[index]})" for index in order)
        title = game_id.replace("/", "_")
        objects = "\n".join(f"        {line}" for line in self._objects({**things, **fixtures}, facts))
        return (
            f"(define (problem {title})\n(:domain alfred)\n(:objects\n{objects}\n)\n"
            f"(:init\n{lines}\n)\n(:goal\n{self._goal_text()}\n)\n)\n"
        )

    def _objects(self, things: dict[str, str], facts: list[str]) -> Iterator[str]:
        """The declarations: every type that the domain or a fact mentions, then what there is."""
        yield "agent1 - agent"
        kinds = {*KITCHEN.things, *BEDROOM.things, *FIXTURES}
        yield from (f"{kind}Type - otype" for kind in sorted(kinds))
        yield from (f"{place}Type - rtype" for place in sorted({*KITCHEN.receptacles, *BEDROOM.receptacles}))
        yield from (f"{name} - object" for name in sorted(things))
        yield from (f"{name} - receptacle" for name in sorted(self.receptacles))
        yield from (f"{word} - location" for word in sorted({w for f in facts for w in f.split() if w[:4] == "loc_"}))

    def _facts(self, things: dict[str, str]) -> Iterator[str]:
        yield f"atLocation agent1 {self.start}"
        for name, place in self.receptacles.items():
            yield f"receptacleType {name} {place}Type"
            yield f"receptacleAtLocation {name} {self.locations[name]}"
            if place in OPENABLE and (place in ("Fridge", "Microwave") or self.random.random() > RARELY):
                yield f"openable {name}"
        for kind, thing in self.room.things.items():
            yield from (f"canContain {place}Type {kind}Type" for place in thing.places)
        for receptacle, held in self.contents.items():
            for name in held:
                yield f"inReceptacle {name} {receptacle}"
                yield f"objectAtLocation {name} {self.strayed.get(name, self.locations[receptacle])}"
        for name, kind in things.items():
            can = self.room.things[kind].can
            yield f"objectType {name} {kind}Type"
            yield f"toggleable {name}" if kind == LAMP else f"pickupable {name}"
            yield from (f"{STATES[verb][0]} {name}" for verb in STATES if verb in can)
            yield from (f"sliceable {name}" for _ in can & {"slice"})
            yield from (f"isReceptacleObject {name}" for _ in can & {"hold"})
        yield from (f"isCool {name}" for name in sorted(self.cool))

    def _goal_text(self) -> str:
        """The goal, in the terms of the domain."""
        thing, target = f"(objectType ?o {self.thing}Type)", f"(receptacleType ?r {self.target}Type)"
        if self.kind == "look_at_obj_in_light":
            return (
                f"(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?ot {LAMP}Type)"
                f" (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l) (atLocation ?a ?l)"
                f" (inReceptacle ?ot ?r))) (exists (?o - object ?a - agent) (and {thing} (holds ?a ?o))))"
            )
        inside = f"{thing} {target} (inReceptacle ?o ?r)"
        if self.kind == "pick_two_obj_and_place":
            second = f"(and (not (= ?o ?o2)) (objectType ?o2 {self.thing}Type) (inReceptacle ?o2 ?r))"
            inside += f" (exists (?o2 - object) {second})"
        elif verb := TREATMENTS.get(self.kind):
            inside += "".join(f" ({predicate} ?o)" for predicate in STATES[verb])
        return f"(and (exists (?r - receptacle) (exists (?o - object) (and {inside}))))"
