"""FastAlfred: ALFWorld's text games in plain Python, the same bytes as the real engine at thousands of times its speed.

A `State` holds what actions change; what they are is local to the place one is at, except for `go to`, whose commands
are sorted once a place. So the admissible list is built from a handful of local commands around that block.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reflect_rl.envs.alfworld.game import GameFile, read_game
from reflect_rl.envs.alfworld.rules import Rules, rules_for, templates
from reflect_rl.envs.alfworld.scene import ABLE, KNIVES, STATUS, Scene, forget_scenes, names_of, scene_of

__all__ = ["FastAlfred", "State", "forget_scenes"]

NOTHING_HAPPENS = "Nothing happens."
"""What textworld itself answers to a command that is not admissible; it is in no grammar."""
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
_MOVED = ("inreceptacle", "objectatlocation", "holds", "holdsany")
CHANGES = {
    "go": ("atlocation",),
    "open": ("opened",),
    "close": ("opened",),
    "take": _MOVED,
    "put": _MOVED,
    "use": ("ison", "istoggled"),
    "heat": ("ishot", "iscool"),
    "cool": ("ishot", "iscool"),
    "clean": ("isclean",),
    "slice": ("issliced",),
}
"""The predicates that each action changes: a goal that depends on none of them is as it was."""
Action = tuple[str, str, str]
"""Verb, object, receptacle (or knife); "" for what it does not have."""


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


class FastAlfred:
    """One game. game_file: the path of a game.tw-pddl, or a GameFile.

    grammar: "move" (alfworld 0.4 on; read from the installed package) or "put" (as the game file carries it). seed:
    `random.seed(seed)` before the real engine draws the task's wording, and the order of names with `shuffle`.

    Raises GameFileError: unreadable, malformed, of another domain, rules unknown or not installed.
    """

    def __init__(
        self, game_file: str | Path | GameFile, *, grammar: str = "move", seed: int = 0, shuffle: bool = False
    ) -> None:
        game = read_game(game_file) if isinstance(game_file, str | Path) else game_file
        self.game_file = game
        self.grammar = grammar
        self.rules = rules_for(game, grammar)
        self.scene = scene_of(game, self.rules)
        drawn = random.Random(seed)
        sentence = self.rules.task
        if sentence is None:
            drawn.random()  # whether a person's wording is taken: never
            sentence = _worded(game, drawn)
        self.task = f"{sentence}."
        self.names = names_of(self.scene, drawn if shuffle else None)
        self._words = _Words(self.rules, self.names, self.scene) if shuffle else _usual_words(self.scene, self.rules)
        self.steps = 0
        self._begin()

    def reset(self) -> str:
        """Begin anew: the text that introduces room and task."""
        self._begin()
        look = self._words.look(self.state, self.scene, at_start=True)
        task = self.rules.text("task").replace("UNKNOWN GOAL", self.task.removesuffix("."))
        return self.rules.text("intro") % {"look.feedback": look, "task": task}

    def step(self, command: str) -> str:
        """Do a command; the engine's answer. Never raises: what is not admissible changes nothing."""
        command = command.strip()
        local, _ = self._offered()
        action = local.get(command)
        if action is None:
            receptacle = self._words.goes.get(command)
            if receptacle is None or command not in self._block():
                return NOTHING_HAPPENS
            action = ("go", "", receptacle)
        self.steps += 1
        return self._do(*action)

    @property
    def admissible(self) -> tuple[str, ...]:
        """The commands that do something now, sorted as strings."""
        return self._offered()[1]

    @property
    def won(self) -> bool:
        """Whether the goal holds now. It can cease to: the light goal needs the agent beside the lamp."""
        if self._won is None:
            self._won = self.scene.goal(self.state, {})
        return self._won

    @property
    def score(self) -> int:
        """1 while the goal holds, else 0."""
        return int(self.won)

    @property
    def done(self) -> bool:
        """Whether the engine calls the game over: while the goal holds, once a command has been given."""
        return self._commanded and self.won

    def close(self) -> None:
        """Nothing to let go of."""

    def command(self, verb: str, thing: str = "", receptacle: str = "") -> str:
        """The command for a verb of `ACTIONS` and internal ids, admissible or not."""
        return self._words.command(verb, thing, receptacle)

    def _begin(self) -> None:
        scene = self.scene
        self.state = State(
            location=scene.location,
            held=scene.held,
            contents={receptacle: set(its) for receptacle, its in scene.contents.items()},
            lies=set(scene.lies),
            opened=set(scene.opened),
            status={flag: set(its) for flag, its in scene.status.items()},
            absent=set(),
        )
        self.steps = 0
        self._commanded = False
        self._won: bool | None = None
        self._cached: tuple[dict[str, Action], tuple[str, ...]] | None = None

    def _block(self) -> tuple[str, ...]:
        return self._words.going(self.state.location, self.scene)

    def _offered(self) -> tuple[dict[str, Action], tuple[str, ...]]:
        """The local commands with what they do, and all commands sorted."""
        if self._cached is None:
            local = dict(self._local())
            ordered, block = sorted(local), self._block()
            middle = bisect_left(ordered, block[0]) if block else 0
            self._cached = local, (*ordered[:middle], *block, *ordered[middle:])
        return self._cached

    def _local(self) -> Iterator[tuple[str, Action]]:
        """Every admissible command but going."""
        state, scene, say = self.state, self.scene, self._words.command
        for verb in self._words.bare:
            yield say(verb), (verb, "", "")
        held = state.held
        if held is not None:
            yield say("examine object", held), ("examine object", held, "")
            if not scene.types.get(held, frozenset()).isdisjoint(KNIVES):
                for thing in scene.able["sliceable"]:
                    if (thing, state.location) in state.lies:
                        yield say("slice", thing, held), ("slice", thing, held)
        for receptacle in scene.at.get(state.location, ()):
            yield say("examine receptacle", "", receptacle), ("examine receptacle", "", receptacle)
            is_shut = False
            if receptacle in scene.able["openable"]:
                is_shut = receptacle not in state.opened
                verb = "open" if is_shut else "close"
                yield say(verb, "", receptacle), (verb, "", receptacle)
            yield from self._with_things(receptacle, held, is_shut)

    def _with_things(self, receptacle: str, held: str | None, is_shut: bool) -> Iterator[tuple[str, Action]]:
        """What can be done with things at a receptacle that is here."""
        scene, say = self.scene, self._words.command
        usable, pickable = scene.able["toggleable"], scene.able["pickupable"]
        for thing in self.state.contents.get(receptacle, ()):
            if thing in usable:
                yield say("use", thing), ("use", thing, receptacle)
            if held is None and not is_shut and thing in pickable:
                yield say("take", thing, receptacle), ("take", thing, receptacle)
        if held is None:
            return
        if not is_shut and receptacle in scene.accepts.get(held, ()):
            yield say("put", held, receptacle), ("put", held, receptacle)
        for verb in scene.treats.get(receptacle, ()):
            if held in scene.able[ABLE[verb]]:
                yield say(verb, held, receptacle), (verb, held, receptacle)

    def _do(self, verb: str, thing: str, receptacle: str) -> str:
        """Change the state, and tell it."""
        self._commanded = True
        state, words = self.state, self._words
        if verb in ("look", "inventory", "help"):
            return words.look(state, self.scene) if verb == "look" else words.plain(verb, state)
        if verb == "examine receptacle":
            return words.seen(receptacle, state, self.scene)
        if verb == "examine object":
            return words.examined(thing, state, self.scene)
        self._change(verb, thing, receptacle)
        if verb in ("go", "open"):
            seen = words.seen(receptacle, state, self.scene)
            place = self.names[state.location]
            return words.told(verb, r=self.names[receptacle], lend=place, seen=seen)
        if verb == "slice":
            return words.told(verb, co=self.names[thing], ko=self.names[receptacle])
        if verb == "use":
            return words.used(thing, state, self.scene)
        return words.told(verb, o=self.names.get(thing, ""), r=self.names[receptacle])

    def _change(self, verb: str, thing: str, receptacle: str) -> None:
        state = self.state
        self._cached = None
        if not self.scene.watched.isdisjoint(CHANGES[verb]):
            self._won = None
        if verb == "go":
            state.location = self.scene.places[receptacle][0]
        elif verb == "open":
            state.opened.add(receptacle)
        elif verb == "close":
            state.opened.discard(receptacle)
        elif verb == "take":
            state.contents[receptacle].discard(thing)
            state.absent.add((thing, receptacle))
            state.lies.discard((thing, state.location))
            state.held = thing
        elif verb == "put":
            state.contents.setdefault(receptacle, set()).add(thing)
            state.absent.discard((thing, receptacle))
            state.lies.add((thing, state.location))
            state.held = None
        else:
            self._treat(verb, thing)

    def _treat(self, verb: str, thing: str) -> None:
        status = self.state.status
        if verb == "clean":
            status["isclean"].add(thing)
        elif verb == "heat":
            status["ishot"].add(thing)
            status["iscool"].discard(thing)
        elif verb == "cool":
            status["iscool"].add(thing)
            status["ishot"].discard(thing)
        elif verb == "slice":
            status["issliced"].add(thing)
        else:
            status["ison"] ^= {thing}
            status["istoggled"].add(thing)


def _worded(game: GameFile, drawn: random.Random) -> str:
    """One of the wordings of the game's task."""
    from reflect_rl.envs.alfworld.game import GameFileError

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


def _usual_words(scene: Scene, rules: Rules) -> _Words:
    """The sentences with the usual names, made once a scene."""
    if not scene.words:
        scene.words.append(_Words(rules, names_of(scene, None), scene))
    return scene.words[0]


class _Words:
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
        """The first line of the grammar whose conditions all hold. Nothing is ever stated to be not toggled."""
        listed = self.listed(scene.inside.get(thing, ()))
        for rule in self.rules.sentences["examineObject.feedback"]:
            if all(self._holds(flag, thing, state, scene) for flag in rule.condition):
                return rule.text % {"o": self.names[thing], "list": listed}
        raise AssertionError("the grammar's last line has no condition")

    def used(self, thing: str, state: State, scene: Scene) -> str:
        for rule in self.rules.sentences[FEEDBACK["use"]]:
            if all(self._holds(flag, thing, state, scene) for flag in rule.condition):
                return rule.text % {"o": self.names[thing]}
        raise AssertionError("the grammar's last line has no condition")

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
