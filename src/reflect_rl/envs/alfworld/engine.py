"""FastAlfred: ALFWorld's text games in plain Python, the same bytes as the real engine at thousands of times its speed.

All admissible commands but `go to` are about the current place. The list is built from this handful of local commands
around the block of `go to` commands, which is sorted once for each place.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reflect_rl.envs.alfworld.game import GameFile, read_game
from reflect_rl.envs.alfworld.rules import rules_for
from reflect_rl.envs.alfworld.scene import ABLE, KNIVES, MADE, forget_scenes, names_of, scene_of
from reflect_rl.envs.alfworld.state import State
from reflect_rl.envs.alfworld.words import Action, Words, usual_words, worded

__all__ = ["FastAlfred", "State", "forget_scenes"]

NOTHING_HAPPENS = "Nothing happens."
"""textworld's own answer to a command that is not admissible; it is in no grammar."""
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


class FastAlfred:
    """One game. game_file: the path of a game.tw-pddl, or a GameFile.

    grammar: "move" (alfworld 0.4 on; read from the installed package) or "put" (as the game file carries it). seed:
    `random.seed(seed)` before the real engine draws the task's wording, and the order of names with `shuffle`; or a
    generator to draw from. A game can be pickled and copied at any moment.

    Raises GameFileError: unreadable, malformed, of another domain, rules unknown or not installed.
    """

    def __init__(
        self,
        game_file: str | Path | GameFile,
        *,
        grammar: str = "move",
        seed: int | random.Random = 0,
        shuffle: bool = False,
    ) -> None:
        game = read_game(game_file) if isinstance(game_file, str | Path) else game_file
        self.game_file = game
        self.grammar = grammar
        self.shuffle = shuffle
        self.rules = rules_for(game, grammar)
        self.scene = scene_of(game, self.rules)
        drawn = seed if isinstance(seed, random.Random) else random.Random(seed)
        sentence = self.rules.task
        if sentence is None:
            drawn.random()  # whether a person's wording is taken: never
            sentence = worded(game, drawn)
        self.task = f"{sentence}."
        self.names = names_of(self.scene, drawn if shuffle else None)
        self._words = self._own_words()
        self._begin()

    def reset(self) -> str:
        """Begin anew: the text that introduces room and task."""
        self._begin()
        look = self._words.look(self.state, self.scene, at_start=True)
        task = self.rules.text("task").replace("UNKNOWN GOAL", self.task.removesuffix("."))
        return self.rules.text("intro") % {"look.feedback": look, "task": task}

    def step(self, command: str) -> str:
        """Do a command; the engine's answer. Never raises: what is not admissible changes nothing."""
        self._commanded = True
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
        """1 while the goal holds, once a command has been given (admissible or not), else 0."""
        return int(self.done)

    @property
    def done(self) -> bool:
        """Whether the game is over: while the goal holds, once a command has been given."""
        return self._commanded and self.won

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def command(self, verb: str, thing: str = "", receptacle: str = "") -> str:
        """The command for a verb of `ACTIONS` and internal ids, admissible or not."""
        return self._words.command(verb, thing, receptacle)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is compiled from the game file: whoever reads it compiles that anew, or has it already."""
        return {name: value for name, value in vars(self).items() if name not in ("scene", "_words")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self.scene = scene_of(self.game_file, self.rules)
        self._words = self._own_words()

    def _own_words(self) -> Words:
        return Words(self.rules, self.names, self.scene) if self.shuffle else usual_words(self.scene, self.rules)

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
        if verb == "use":
            status["ison"] ^= {thing}
            status["istoggled"].add(thing)
            return
        if verb in ("heat", "cool"):
            status[MADE["cool" if verb == "heat" else "heat"]].discard(thing)
        status[MADE[verb]].add(thing)
