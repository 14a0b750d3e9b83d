"""The engine's texts: the grammar's sentences and commands with one game's names."""

from __future__ import annotations

import random
from collections.abc import Iterable

from reflect_rl.envs.alfworld.game import GameFile, GameFileError
from reflect_rl.envs.alfworld.rules import Rules, templates
from reflect_rl.envs.alfworld.scene import STATUS, Scene, names_of
from reflect_rl.envs.alfworld.state import State

ACTIONS = {
    "go": "GotoLocation",
    "open": "OpenObject",
    "close": "CloseObject",
    "take": "PickupObject",
    "put": "PutObject",
    "examine receptacle": "examineReceptacle",
    "examine object": "examineObject",
    "use": "ToggleObject",
    "heat": "HeatObject",
    "clean": "CleanObject",
    "cool": "CoolObject",
    "slice": "SliceObject",
    "look": "look",
    "inventory": "inventory",
    "help": "help",
}
FEEDBACK = {
    "use": "toggleObject.feedback",
    "heat": "heatObject.feedback",
    "clean": "cleanObject.feedback",
    "cool": "coolObject.feedback",
    "slice": "sliceObject.feedback",
}
Action = tuple[str, str, str]
"""Verb, object, receptacle (or knife); "" for what it does not have."""


def worded(game: GameFile, drawn: random.Random) -> str:
    """One of the wordings of the game's task."""
    try:
        params = game.traj["pddl_params"]
        kind = game.traj["task_type"] + ("_slice" if params["object_sliced"] else "")
        wordings = templates()[kind]
        targets = {
            short: str(params[f"{name}_target"]).lower()
            for short, name in (("obj", "object"), ("recep", "parent"), ("toggle", "toggle"), ("mrecep", "mrecep"))
        }
    except (KeyError, TypeError) as error:
        raise GameFileError(
            f"The trajectory of {game.id} does not say what its task is ({error} is missing or unknown). Keep the "
            f"traj_data.json of a game beside its game.tw-pddl."
        ) from error
    return drawn.choice(wordings).format(**targets)


def usual_words(scene: Scene, rules: Rules) -> Words:
    """The sentences with the usual names, made once a scene."""
    if not scene.words:
        scene.words.append(Words(rules, names_of(scene, None), scene))
    return scene.words[0]


class Words:
    """The sentences of one game: the grammar's, with this game's names."""

    def __init__(self, rules: Rules, names: dict[str, str], scene: Scene) -> None:
        self.rules = rules
        self.names = names
        self.bare = tuple(verb for verb in ("look", "inventory", "help") if ACTIONS[verb] in rules.commands)
        go = rules.commands[ACTIONS["go"]]
        self.goes = {go % {"r": names[receptacle]}: receptacle for receptacle in scene.receptacles}
        self._blocks: dict[str, tuple[str, ...]] = {}
        self._said: dict[Action, str] = {}
        self._listing = [rules.text(name) for name in ("list_empty", "list_separator", "list_last_separator")]

    def going(self, location: str, scene: Scene) -> tuple[str, ...]:
        """The `go to` commands from a place, sorted: to every receptacle that is elsewhere."""
        block = self._blocks.get(location)
        if block is None:
            elsewhere = (c for c, receptacle in self.goes.items() if set(scene.places[receptacle]) != {location})
            block = self._blocks[location] = tuple(sorted(elsewhere))
        return block

    def command(self, verb: str, thing: str = "", receptacle: str = "") -> str:
        key = (verb, thing, receptacle)
        said = self._said.get(key)
        if said is None:
            named = {"o": self.names.get(thing, ""), "r": self.names.get(receptacle, "")}
            named |= {"co": named["o"], "ko": named["r"]}
            said = self._said[key] = self.rules.commands[ACTIONS[verb]] % named
        return said

    def listed(self, ids: Iterable[str], article: bool = True) -> str:
        """ "a, b, and c", in the order of the ids."""
        shown = [f"a {self.names[name]}" if article else self.names[name] for name in sorted(ids)]
        empty, comma, last = self._listing
        if len(shown) < 2:
            return shown[0] if shown else empty
        return f"{comma.join(shown[:-1])}{last}{shown[-1]}"

    def told(self, verb: str, seen: str = "", **named: str) -> str:
        symbol = FEEDBACK.get(verb) or f"{ACTIONS[verb]}.feedback"
        return self.rules.text(symbol) % {"examineReceptacle.feedback": seen, **named}

    def seen(self, receptacle: str, state: State, scene: Scene) -> str:
        """What one sees at a receptacle."""
        shut = receptacle in scene.able["openable"]
        number = 2 if not shut else 0 if receptacle in state.opened else 1
        text = self.rules.text("examineReceptacle.feedback", number)
        listed = "" if number == 1 else self.listed(state.contents.get(receptacle, ()))
        return text % {"r": self.names[receptacle], "list": listed}

    def examined(self, thing: str, state: State, scene: Scene) -> str:
        listed = self.listed(scene.inside.get(thing, ()))
        return self._first("examineObject.feedback", thing, state, scene) % {"o": self.names[thing], "list": listed}

    def used(self, thing: str, state: State, scene: Scene) -> str:
        return self._first(FEEDBACK["use"], thing, state, scene) % {"o": self.names[thing]}

    def _first(self, symbol: str, thing: str, state: State, scene: Scene) -> str:
        """The first line of the grammar whose conditions all hold; the last has none. Nothing is "not toggled"."""
        rules = self.rules.sentences[symbol]
        return next(
            rule.text for rule in rules if all(self._holds(flag, thing, state, scene) for flag in rule.condition)
        )

    def _holds(self, flag: str, thing: str, state: State, scene: Scene) -> bool:
        if flag in STATUS:
            return thing in state.status[flag]
        return thing in scene.able.get(flag, ())

    def plain(self, verb: str, state: State) -> str:
        if verb == "help":
            return self.rules.text("help.feedback") % {}
        number = 0 if state.held is not None else 1
        held = self.listed([state.held]) if state.held is not None else ""
        return self.rules.text("inventory.feedback", number) % {"list": held}

    def look(self, state: State, scene: Scene, at_start: bool = False) -> str:
        """Where one is. At the start the receptacles of the room are listed; a later look there sees nothing."""
        here = scene.at.get(state.location, ())
        if not here:
            around = scene.receptacles if at_start else ()
            return self.rules.text("look.feedback", 1) % {"list_appliances": self.listed(around)}
        facing = self.rules.text("look-variations") % {"list": self.listed(here, article=False)}
        floor = self._floor(state, here)
        return self.rules.text("look.feedback") % {"look-variations": facing, "list_objects_on_the_floor": floor}

    def _floor(self, state: State, here: tuple[str, ...]) -> str:
        """Objects that lie here and of which it was stated that they are not in a receptacle that is here."""
        place = state.location
        things = [t for t, r in sorted(state.absent) if r in here and (t, place) in state.lies]
        return self.listed(things)
