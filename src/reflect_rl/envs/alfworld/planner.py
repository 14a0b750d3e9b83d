"""The privileged expert: it knows the whole game, enumerates the ways to its goal, and takes the shortest.

A useless object in hand is put down first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from reflect_rl.envs.alfworld.data import TASK_TYPES, TREATMENTS
from reflect_rl.envs.alfworld.engine import FastAlfred
from reflect_rl.envs.alfworld.game import GameFileError, TextGame
from reflect_rl.envs.alfworld.scene import ABLE, MADE
from reflect_rl.errors import EnvironmentContractError


def plan(game: TextGame) -> list[str]:
    """A shortest way found to the goal from the state now; [] if it holds, or if there is none.

    Raises EnvironmentContractError for a game on another engine, whose state it cannot see, and GameFileError for one
    whose trajectory does not say what its task is.
    """
    if not isinstance(game, FastAlfred):
        raise EnvironmentContractError(
            "The planner sees the fast engine's state only. Use engine='fast', or expert='searcher'."
        )
    if game.won:
        return []
    kind, object_type, target_type, lamp_type = _task(game)
    wanted = sorted(thing for thing, types in game.scene.types.items() if object_type in types)
    if kind == "look_at_obj_in_light":
        ways = _to_light(game, wanted, lamp_type)
    else:
        targets = [r for r, t in game.scene.problem.facts["receptacletype"] if t == target_type]
        targets = [r for r in dict.fromkeys(targets) if r in game.scene.places]
        count = 2 if kind == "pick_two_obj_and_place" else 1
        ways = _to_place(game, wanted, targets, TREATMENTS.get(kind), count)
    return min((way.commands for way in ways if way is not None), key=len, default=[])


def _task(game: FastAlfred) -> tuple[str, str, str, str]:
    """What the trajectory says of the task: its kind, and the types of object, receptacle and lamp."""
    try:
        params, kind = game.game_file.traj["pddl_params"], game.game_file.traj["task_type"]
        wanted, target, lamp = (f"{params[f'{name}_target']}type".lower() for name in ("object", "parent", "toggle"))
    except (KeyError, TypeError) as error:
        raise GameFileError(
            f"The planner cannot play {game.game_file.id}: its trajectory does not say what the task is ({error}). "
            f"Keep the traj_data.json of a game beside its game.tw-pddl."
        ) from error
    if kind not in TASK_TYPES:
        raise GameFileError(
            f"The planner cannot play {game.game_file.id}: its task type is {kind!r}. It plays {', '.join(TASK_TYPES)}."
        )
    return kind, wanted, target, lamp


@dataclass(slots=True)
class _Way:
    """A way under construction: where it has come to, and its commands."""

    game: FastAlfred
    location: str
    held: str | None
    opened: frozenset[str]
    commands: list[str]

    @classmethod
    def start(cls, game: FastAlfred) -> _Way:
        return cls(game, game.state.location, game.state.held, frozenset(game.state.opened), [])

    def say(self, verb: str, thing: str = "", receptacle: str = "") -> None:
        self.commands.append(self.game.command(verb, thing, receptacle))

    def go(self, receptacle: str) -> None:
        places = self.game.scene.places[receptacle]
        if self.location not in places:
            self.say("go", "", receptacle)
            self.location = places[0]

    def reach(self, receptacle: str) -> None:
        self.go(receptacle)
        if receptacle in self.game.scene.able["openable"] and receptacle not in self.opened:
            self.say("open", "", receptacle)
            self.opened |= {receptacle}

    def put(self, receptacle: str) -> bool:
        """Put down what is held; False if it does not fit."""
        if self.held is None or receptacle not in self.game.scene.accepts.get(self.held, ()):
            return False
        self.reach(receptacle)
        self.say("put", self.held, receptacle)
        self.held = None
        return True

    def fetch(self, thing: str, source: str) -> bool:
        """Take a thing; whatever else is held goes down first, here if that is possible. False if it cannot be."""
        if self.held == thing:
            return True
        if not source or thing not in self.game.scene.able["pickupable"]:
            return False  # it was in hand and has been put down for another: the other order is no worse
        if self.held is not None and not self.drop():
            return False
        self.reach(source)
        self.say("take", thing, source)
        self.held = thing
        return True

    def drop(self) -> bool:
        assert self.held is not None
        fits = sorted(self.game.scene.accepts.get(self.held, frozenset()) & set(self.game.scene.places))
        shut = self.game.scene.able["openable"] - self.opened
        cost = {r: (self.location not in self.game.scene.places[r]) + (r in shut) for r in fits}
        return bool(fits) and self.put(min(fits, key=lambda receptacle: cost[receptacle]))

    def treat(self, verb: str) -> bool:
        """Heat, cool or clean what is held, if that has not been done."""
        thing, scene = self.held, self.game.scene
        if thing is None or thing not in scene.able[ABLE[verb]]:
            return False
        if thing in self.game.state.status[MADE[verb]]:
            return True
        appliances = sorted(r for r, verbs in scene.treats.items() if verb in verbs and r in scene.places)
        if not appliances:
            return False
        here = [r for r in appliances if self.location in scene.places[r]]
        chosen = (here or appliances)[0]
        self.go(chosen)
        self.say(verb, thing, chosen)
        return True


def _sources(game: FastAlfred, thing: str) -> list[str]:
    """The receptacles a thing can be taken from; "" if it is in hand."""
    if game.state.held == thing:
        return [""]
    return sorted(r for r, its in game.state.contents.items() if thing in its and r in game.scene.places)


def _to_light(game: FastAlfred, wanted: Sequence[str], lamp_type: str) -> Iterator[_Way | None]:
    lamps = [t for t in sorted(game.scene.able["toggleable"]) if lamp_type in game.scene.types.get(t, ())]
    for thing in wanted:
        for source in _sources(game, thing):
            for lamp in lamps:
                for stand in _sources(game, lamp):
                    way = _Way.start(game)
                    if not way.fetch(thing, source):
                        continue
                    way.go(stand)
                    if lamp not in game.state.status["istoggled"]:
                        way.say("use", lamp)
                    yield way


def _to_place(
    game: FastAlfred, wanted: Sequence[str], targets: Sequence[str], verb: str | None, count: int
) -> Iterator[_Way | None]:
    for target in targets:
        there = game.state.contents.get(target, set())
        fits = [thing for thing in wanted if thing in there or target in game.scene.accepts.get(thing, ())]
        done = [t for t in fits if t in there and (verb is None or t in game.state.status[MADE[verb]])]
        left = [thing for thing in fits if thing not in done]
        for chosen in permutations(left, max(0, count - len(done))):
            yield from _carried(game, chosen, target, verb)


def _carried(game: FastAlfred, things: Sequence[str], target: str, verb: str | None) -> Iterator[_Way | None]:
    """The things brought to the target one after the other, the first from wherever it is shortest."""
    starts: list[list[str]] = [_sources(game, thing) for thing in things]
    if not all(starts):
        return
    for first in starts[0]:
        way, possible = _Way.start(game), True
        for number, thing in enumerate(things):
            source = first if number == 0 else starts[number][0]
            possible = possible and way.fetch(thing, source) and (verb is None or way.treat(verb)) and way.put(target)
        yield way if possible else None
