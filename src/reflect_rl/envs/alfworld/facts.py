"""What a reader of the transcript knows: what is held, what was seen where, what is open, what is done.

This is the only module that parses the game's sentences and commands, in both grammars. It does not look into the
engine: a `Memory` is a function of the texts and admissible commands so far.

Receptacles and objects have the names that the texts give them ("cabinet 10"); the class of a name is its first word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from reflect_rl.errors import EnvironmentContractError

APPLIANCES = {"heat": "microwave", "cool": "fridge", "clean": "sinkbasin"}
"""The class of receptacle that each treatment of an object needs."""
PUT_VERBS = ("move", "put")
"""How the two grammars name the command that puts the held object down."""

_UNDONE_BY = {"heat": "cool", "cool": "heat"}
_TREATMENT = {"hot": "heat", "heat": "heat", "cool": "cool", "clean": "clean"}
_NAME = r"(\w+ \d+)"
_NAMES = re.compile(_NAME)
_COMMAND = re.compile(rf"([a-z]+(?: to)?) {_NAME}(?: (?:from|to|in/on|with) {_NAME})?")
_INTRO = re.compile(r"around you, you see ([^.]*)\.")
_LISTED = re.compile(rf"(?:On the {_NAME}|The {_NAME} is open\. In it), you see ([^.]*)\.")
_TOOK = re.compile(rf"You pick up the {_NAME} from the {_NAME}\.")
_PUT = re.compile(rf"You (?:move|put) the {_NAME} (?:to|in/on) the {_NAME}\.")
_TREATED = re.compile(rf"You (heat|cool|clean) the {_NAME} using the {_NAME}\.")
_LIT = re.compile(rf"You turn on the {_NAME}\.")
_TASK = re.compile(r"Your task is to: (.*?)\.?\s*$", re.MULTILINE)
_GOALS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:look at|examine the) (?P<object>\w+) (?:under|with) the (?P<lamp>\w+)",
        r"(?:put|find) (?P<two>two) (?P<object>\w+) (?:and put them )?(?:in|on) (?P<target>\w+)",
        r"(?P<treatment>clean|heat|cool) some (?P<object>\w+) and put it (?:in|on) (?P<target>\w+)",
        r"put (?:a|some) (?P<treatment>clean|hot|cool) (?P<object>\w+) (?:in|on) (?P<target>\w+)",
        r"put (?:a|some) (?P<object>\w+) (?:in|on) (?P<target>\w+)",
    )
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a task sentence asks for, by classes of names.

    object: what to fetch, `count` of them (1 or 2). treatment: "heat", "cool", "clean" or None. target: the class of
    receptacle to put it in (both into the same one), "" if it is to be looked at under a `lamp` ("" otherwise).
    """

    object: str
    target: str = ""
    treatment: str | None = None
    lamp: str = ""
    count: int = 1


def read_goal(sentence: str) -> Goal:
    """The goal of a task sentence, with or without "Your task is to:" and the full stop.

    Raises EnvironmentContractError for a sentence that is none of the game's templates.
    """
    told = _TASK.search(sentence)
    text = (told[1] if told else sentence).strip().rstrip(".").strip()
    for pattern in _GOALS:
        if found := pattern.fullmatch(text):
            part = found.groupdict()
            treatment = _TREATMENT[part["treatment"]] if part.get("treatment") else None
            count = 2 if part.get("two") else 1
            return Goal(part["object"], part.get("target") or "", treatment, part.get("lamp") or "", count)
    raise EnvironmentContractError(
        f"The task sentence {text!r} is none of ALFWorld's templates, so it is not known what it asks for. A game file "
        f"that states such a sentence can be played, but not by the searching expert or the scripted teacher."
    )


@lru_cache(maxsize=65_536)
def read_command(command: str) -> tuple[str, str, str]:
    """(verb, object, other) of a command: ("take", "cd 1", "desk 1"); "" for what it does not have.

    The verb of going is "go to", that of putting down is "move" or "put".
    """
    found = _COMMAND.fullmatch(command)
    return (found[1], found[2], found[3] or "") if found else (command, "", "")


def class_of(name: str) -> str:
    """The class of a name: "cabinet" of "cabinet 10"."""
    return name.partition(" ")[0]


def split_intro(feedback: str) -> tuple[str, str]:
    """(what one sees, the sentence that states the task) of the first text of a game, without the welcome."""
    paragraphs = [part.strip() for part in feedback.split("\n\n")]
    task = next((part for part in paragraphs if _TASK.match(part)), "")
    return "\n".join(part for part in paragraphs if part and part != task and not part.startswith("-=")), task


class Memory:
    """What is known after a transcript, kept up to date by `update`, which takes some 20 microseconds a step.

    receptacles: all of them, in the order of the first text. here: those within reach. place: the one gone to last.
    holding: an object or None. contents: what lies in each receptacle looked into so far. closed: receptacles found
    closed and not opened since. visited: receptacles that were within reach. lamps: where each usable lamp was found.
    lit: lamps turned on. treated: what was done to each object and still holds. origin: where each object was taken
    from. refuses: pairs (object class, receptacle class) that were seen not to fit. idle: whether the last action
    changed nothing that is known.
    """

    def __init__(self, feedback: str, admissible: tuple[str, ...]) -> None:
        """feedback: the first text of a game, which names its receptacles and its task."""
        self.goal = read_goal(feedback)
        intro = _INTRO.search(feedback)
        self.receptacles: tuple[str, ...] = tuple(_NAMES.findall(intro[1])) if intro else ()
        self._known = frozenset(self.receptacles)
        self.here: tuple[str, ...] = ()
        self.place: str | None = None
        self.holding: str | None = None
        self.contents: dict[str, tuple[str, ...]] = {}
        self.closed: set[str] = set()
        self.visited: set[str] = set()
        self.lamps: dict[str, tuple[str, ...]] = {}
        self.lit: set[str] = set()
        self.treated: dict[str, frozenset[str]] = {}
        self.origin: dict[str, str] = {}
        self.refuses: set[tuple[str, str]] = set()
        self.last_action: str | None = None
        self.idle = False
        self._look_around(admissible)

    def update(self, action: str, feedback: str, admissible: tuple[str, ...]) -> None:
        """Take in a command, the text that answered it, and what is admissible after it."""
        before = self._extent()
        self._listen(feedback)
        self._look_around(admissible)
        verb, name, _ = read_command(action)
        if verb == "go to" and name in self.here:
            self.place = name
        self.last_action, self.idle = action, before == self._extent()

    def known_objects(self) -> Iterator[tuple[str, str]]:
        """(object, receptacle) of everything seen and not taken since, in the order of the receptacles."""
        for receptacle in self.receptacles:
            for name in self.contents.get(receptacle, ()):
                yield name, receptacle

    def gathered(self) -> tuple[str, tuple[str, ...]]:
        """For a goal of two: the target that holds most of what is wanted, and which objects; ("", ()) if none does."""
        best: tuple[str, tuple[str, ...]] = ("", ())
        if self.goal.count == 2:
            for receptacle in self.targets():
                there = tuple(name for name in self.contents.get(receptacle, ()) if class_of(name) == self.goal.object)
                if len(there) > len(best[1]):
                    best = (receptacle, there)
        return best

    def targets(self) -> tuple[str, ...]:
        """The receptacles of the class that the goal names."""
        return tuple(name for name in self.receptacles if class_of(name) == self.goal.target)

    def wanted(self) -> tuple[tuple[str, str], ...]:
        """(object, receptacle) of the objects to fetch whose place is known; treated ones alone if there are any."""
        _, gathered = self.gathered()
        known = [
            (name, receptacle)
            for name, receptacle in self.known_objects()
            if class_of(name) == self.goal.object and name not in gathered
        ]
        ready = [(name, receptacle) for name, receptacle in known if self.is_ready(name)]
        return tuple(ready or known)

    def is_wanted(self, name: str | None) -> bool:
        """Whether this object is one to fetch: of the class of the goal, and not among those put in place."""
        return name is not None and class_of(name) == self.goal.object and name not in self.gathered()[1]

    def is_ready(self, name: str) -> bool:
        """Whether the object has been treated as the goal asks (True if it asks for nothing)."""
        return self.goal.treatment is None or self.goal.treatment in self.treated.get(name, ())

    def unseen(self) -> tuple[str, ...]:
        """The receptacles whose contents are not known yet."""
        return tuple(name for name in self.receptacles if name not in self.contents)

    def lamp_places(self) -> frozenset[str]:
        """The receptacles at which a lamp of the goal's class is within reach."""
        places = {place for lamp, found in self.lamps.items() if class_of(lamp) == self.goal.lamp for place in found}
        places |= {receptacle for name, receptacle in self.known_objects() if class_of(name) == self.goal.lamp}
        return frozenset(places)

    def _extent(self) -> tuple[object, ...]:
        """What a command has to change in order not to have been idle."""
        seen = len(self.contents), len(self.closed), len(self.lit)
        return (*seen, self.here, self.holding, dict(self.treated))

    def _listen(self, feedback: str) -> None:
        """What the text says has happened, and what it lists."""
        if took := _TOOK.match(feedback):
            name, receptacle = took.groups()
            self.holding, self.origin[name] = name, receptacle
            self.contents[receptacle] = tuple(each for each in self.contents.get(receptacle, ()) if each != name)
        elif put := _PUT.match(feedback):
            name, receptacle = put.groups()
            self.holding = None
            if name not in self.contents.get(receptacle, (name,)):
                self.contents[receptacle] += (name,)
        elif treated := _TREATED.match(feedback):
            verb, name, _ = treated.groups()
            self.treated[name] = self.treated.get(name, frozenset()) - {_UNDONE_BY.get(verb)} | {verb}
        elif lit := _LIT.match(feedback):
            self.lit.add(lit[1])
        elif listed := _LISTED.search(feedback):
            self.contents[listed[1] or listed[2]] = tuple(_NAMES.findall(listed[3]))

    def _look_around(self, admissible: tuple[str, ...]) -> None:
        """What the admissible commands give away: where one is, what is closed, what lies within reach."""
        here: list[str] = []
        shut, accepts, usable = set(), set(), []
        within: dict[str, list[str]] = {}
        for command in admissible:
            verb, name, other = read_command(command)
            if verb == "examine" and name in self._known:
                here.append(name)
            elif verb == "open":
                shut.add(name)
            elif verb == "take":
                within.setdefault(other, []).append(name)
            elif verb in PUT_VERBS:
                accepts.add(other)
            elif verb == "use":
                usable.append(name)
        self.here = tuple(here)
        self.visited.update(here)
        for lamp in usable:
            self.lamps[lamp] = self.here
        for receptacle in here:
            if receptacle in shut:
                self.closed.add(receptacle)
                continue
            self.closed.discard(receptacle)
            if self.holding is None:
                self.contents.setdefault(receptacle, tuple(within.get(receptacle, ())))
            elif receptacle not in accepts:
                self.refuses.add((class_of(self.holding), class_of(receptacle)))
