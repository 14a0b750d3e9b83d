"""A game's PDDL problem: its facts and its goal, read with one pass of a regular expression."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from reflect_rl.envs.alfworld.game import GameFileError

_UNARY = (
    "openable opened isreceptacleobject isreceptacleobjectfull checked examined holdsany "
    "holdsanyreceptacleobject full isclean cleanable ishot heatable iscool coolable pickupable moveable "
    "toggleable ison istoggled sliceable issliced"
)
_BINARY = (
    "atlocation receptacleatlocation objectatlocation inreceptacle inreceptacleobject wasinreceptacle "
    "receptacletype cancontain objecttype holds"
)
ARITY: dict[str, int] = {name: arity for arity, names in ((1, _UNARY), (2, _BINARY)) for name in names.split()}
"""The domain's predicates, lower-cased as the planner's translator does, with their numbers of arguments."""
TYPES = frozenset({"agent", "location", "receptacle", "object", "rtype", "otype"})
MOST_DEPTH = 60

_COMMENT = re.compile(r";[^\n]*")
_TOKEN = re.compile(r"[()]|[^\s()]+")
_FACT = re.compile(r"\(\s*([^\s()]+)((?:\s+[^\s()]+)*)\s*\)")
_NUMBER = re.compile(r"\(\s*=\s*\([^()]*\)\s*[-+.\de]+\s*\)")
_SECTION = re.compile(r"\(\s*:(\w+)")

Expression = str | list["Expression"]


@dataclass(frozen=True)
class Problem:
    """objects: type by id. facts: argument tuples by predicate, in the file's order. goal: nested lists of words."""

    objects: dict[str, str]
    facts: dict[str, list[tuple[str, ...]]]
    goal: Expression


def read_problem(text: str, name: str) -> Problem:
    """Parse a problem file; everything is lower-cased. Raises GameFileError, which names the game."""
    text = _COMMENT.sub("", text).lower()
    sections = {found[1]: found.start() for found in _SECTION.finditer(text)}
    starts = [sections.get(section, -1) for section in ("objects", "init", "goal")]
    if -1 in starts or starts != sorted(starts):
        raise _malformed(name, "it lacks one of :objects, :init, :goal, or has them in another order")
    if sections.get("domain", -1) < 0 or not re.match(r"\(\s*:domain\s+alfred\s*\)", text[sections["domain"] :]):
        raise _malformed(name, "its domain is not alfred")
    if text.count("(") > text.count(")"):
        raise _malformed(name, "its brackets do not close: the file is truncated")
    objects = _objects(text[starts[0] : starts[1]], name)
    facts = _facts(text[starts[1] : starts[2]], objects, name)
    if not facts["atlocation"]:
        raise _malformed(name, "it does not say where the agent is")
    goal = _expression(text[starts[2] :], name)
    if not isinstance(goal, list) or len(goal) != 2:
        raise _malformed(name, "its goal is not one expression")
    return Problem(objects, facts, goal[1])


def _objects(section: str, name: str) -> dict[str, str]:
    objects: dict[str, str] = {}
    waiting: list[str] = []
    words = iter(section.replace(")", " ").split()[1:])
    for word in words:
        if word == "-":
            kind = next(words, "")
            if kind not in TYPES:
                raise _malformed(name, f"'{kind}' is no type of the domain alfred")
            objects.update(dict.fromkeys(waiting, kind))
            waiting = []
        else:
            waiting.append(word)
    if waiting:
        raise _malformed(name, f"the object {waiting[0]} has no type")
    return objects


def _facts(section: str, objects: dict[str, str], name: str) -> dict[str, list[tuple[str, ...]]]:
    facts: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    body = _NUMBER.sub("", section[section.index(":init") + 5 :])
    for predicate, rest in _FACT.findall(body):
        arguments = tuple(rest.split())
        if ARITY.get(predicate) != len(arguments):
            raise _malformed(name, f"({predicate}{rest}) is no fact of the domain alfred")
        for argument in arguments:
            if argument not in objects:
                raise _malformed(name, f"({predicate}{rest}) is about {argument}, which is not declared")
        facts[predicate].append(arguments)
    if _FACT.sub("", body).strip(" \t\r\n()"):
        raise _malformed(name, "there is more than facts in :init")
    return facts


def _expression(text: str, name: str) -> Expression:
    """The first bracketed expression of a text."""
    tokens: Iterator[str] = iter(_TOKEN.findall(text))
    stack: list[list[Expression]] = [[]]
    for token in tokens:
        if token == "(":
            if len(stack) > MOST_DEPTH:
                raise _malformed(name, "its goal is nested too deeply")
            stack.append([])
        elif token == ")":
            done = stack.pop()
            if not stack:
                break
            stack[-1].append(done)
            if len(stack) == 1:
                return stack[0][0]
        else:
            stack[-1].append(token)
    raise _malformed(name, "its goal is cut off")


def _malformed(name: str, why: str) -> GameFileError:
    return GameFileError(f"The problem of {name} cannot be read: {why}. Give a game file of ALFWorld's.")
