"""Compiled goals: a PDDL condition of exists, and, not and = becomes a function of the state.

What never changes (types, what can be heated, ...) is decided once, when the goal is compiled: each variable then has
only the few candidates that its static conditions leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflect_rl.envs.alfworld.game import GameFileError
from reflect_rl.envs.alfworld.problem import ARITY, TYPES, Expression, Problem

if TYPE_CHECKING:
    from reflect_rl.envs.alfworld.state import State

Test = Callable[["State", Mapping[str, str]], bool]
DYNAMIC = {
    "atlocation": lambda state, _, place: state.location == place,
    "objectatlocation": lambda state, name, place: (name, place) in state.lies,
    "opened": lambda state, name: name in state.opened,
    "inreceptacle": lambda state, name, receptacle: name in state.contents.get(receptacle, ()),
    "holds": lambda state, _, name: state.held == name,
    "holdsany": lambda state, _: state.held is not None,
    "isclean": lambda state, name: name in state.status["isclean"],
    "ishot": lambda state, name: name in state.status["ishot"],
    "iscool": lambda state, name: name in state.status["iscool"],
    "istoggled": lambda state, name: name in state.status["istoggled"],
    "ison": lambda state, name: name in state.status["ison"],
    "issliced": lambda state, name: name in state.status["issliced"],
}
"""What an action can change, with its value in a state."""
UNTRACKED = frozenset({"checked"})
"""What actions change but no text tells, so that the state does not keep it."""


def compile_goal(goal: Expression, problem: Problem, name: str) -> Test:
    """The goal as a function (state, {}) -> bool. Raises GameFileError for conditions of another kind."""
    _Checker(problem.objects, name).check(goal, frozenset())
    statics = {predicate: frozenset(facts) for predicate, facts in problem.facts.items() if predicate not in DYNAMIC}
    return _Compiler(problem.objects, statics).compile(goal)


@dataclass(frozen=True, slots=True)
class _Step:
    """One variable of an exists. candidates: all it can be. follows: another variable chosen before, with the
    candidates that each value of it leaves ("" if there is none). tests: what can be tested once it is chosen."""

    variable: str
    is_place: bool
    candidates: tuple[str, ...]
    follows: str
    leaves: Mapping[str, tuple[str, ...]]
    tests: tuple[Test, ...]


def _search(state: State, binding: dict[str, str], steps: Sequence[_Step], depth: int) -> bool:
    """Whether the variables from this depth on can be chosen so that all tests hold."""
    if depth == len(steps):
        return True
    step = steps[depth]
    candidates = step.candidates
    if step.is_place:
        candidates = (state.location,) if state.location in candidates else ()
    elif step.follows:
        candidates = step.leaves.get(binding[step.follows], ())
    for candidate in candidates:
        binding[step.variable] = candidate
        for test in step.tests:
            if not test(state, binding):
                break
        else:
            if _search(state, binding, steps, depth + 1):
                return True
    return False


def _words(part: Expression) -> Iterator[str]:
    """All words of an expression."""
    if isinstance(part, str):
        yield part
    else:
        for inner in part:
            yield from _words(inner)


def watched(goal: Expression) -> frozenset[str]:
    """What actions can change and the goal depends on: names of predicates."""
    return frozenset(_words(goal)) & frozenset(DYNAMIC)


class _Checker:
    """Refuses whatever the compiler does not know, so that the compiler meets nothing else."""

    def __init__(self, objects: Mapping[str, str], name: str) -> None:
        self.objects = objects
        self.name = name

    def check(self, expression: Expression, bound: frozenset[str]) -> None:
        if not isinstance(expression, list) or not expression or not isinstance(head := expression[0], str):
            raise self._refused(expression)
        rest = expression[1:]
        if head == "and" or (head == "not" and len(rest) == 1):
            for part in rest:
                self.check(part, bound)
        elif head == "exists" and len(rest) == 2 and isinstance(rest[0], list):
            types = declared_types(rest[0])
            if not types or not set(types.values()) <= TYPES:
                raise self._refused(expression)
            self.check(rest[1], bound | set(types))
        else:
            self._check_atom(head, rest, bound, expression)

    def _check_atom(self, head: str, rest: list[Expression], bound: frozenset[str], atom: Expression) -> None:
        if head in UNTRACKED or len(rest) != (2 if head == "=" else ARITY.get(head)):
            raise self._refused(atom)
        for word in rest:
            if not isinstance(word, str) or not (word in bound or word in self.objects):
                raise self._refused(atom)

    def _refused(self, expression: Expression) -> GameFileError:
        return GameFileError(
            f"The goal of {self.name} has a part that the fast engine does not know: {str(expression)[:120]}. It knows "
            f"exists, and, not, = and the domain's predicates. Play the game on the real engine: engine='textworld'."
        )


def declared_types(declared: list[Expression]) -> dict[str, str]:
    """Type by variable of "?a ?b - type ?c - type"; empty if that is not what it is."""
    types: dict[str, str] = {}
    waiting: list[str] = []
    words = iter(declared)
    for word in words:
        if not isinstance(word, str):
            return {}
        if word == "-":
            kind = next(words, None)
            if not isinstance(kind, str):
                return {}
            types.update(dict.fromkeys(waiting, kind))
            waiting = []
        else:
            waiting.append(word)
    return {} if waiting else types


class _Compiler:
    """Compiles a goal that has been checked."""

    def __init__(self, objects: Mapping[str, str], statics: Mapping[str, frozenset[tuple[str, ...]]]) -> None:
        self.objects = objects
        self.statics = statics

    def compile(self, expression: Expression) -> Test:
        head, *rest = expression
        if head == "and":
            # What has the fewest words is settled soonest, and settles the rest if it does not hold.
            tests = [self.compile(part) for part in sorted(rest, key=lambda part: len(list(_words(part))))]
            return lambda state, binding: all(test(state, binding) for test in tests)
        if head == "not":
            test = self.compile(rest[0])
            return lambda state, binding: not test(state, binding)
        if head == "exists":
            return self._exists(rest[0], rest[1])
        return self._atom(str(head), tuple(map(str, rest)))

    def _exists(self, declared: Expression, body: Expression) -> Test:
        types = declared_types(list(declared))
        parts = list(body[1:]) if body[0] == "and" else [body]
        rest, candidates = [], {variable: self._of_type(kind) for variable, kind in types.items()}
        for part in parts:
            variable = self._static_variable(part, types)
            if variable is None:
                rest.append(part)
            else:
                fits = self.compile(part)
                candidates[variable] = [c for c in candidates[variable] if fits(None, {variable: c})]  # type: ignore[arg-type]
        places = {part[2] for part in rest if isinstance(part, list) and part[0] == "atlocation" and len(part) == 3}
        # Where the agent is comes first, then whatever has the fewest candidates: what cannot be is left early.
        order = sorted(types, key=lambda variable: (variable not in places, len(candidates[variable])))
        steps = []
        for depth, variable in enumerate(order):
            follows, leaves, linking = self._link(rest, variable, order[:depth], candidates[variable])
            rest = [part for part in rest if part is not linking]
            ready = [part for part in rest if not set(_words(part)) & set(order[depth + 1 :])]
            rest = [part for part in rest if part not in ready]
            tests = tuple(self.compile(part) for part in ready)
            steps.append(_Step(variable, variable in places, tuple(candidates[variable]), follows, leaves, tests))
        return lambda state, binding: _search(state, dict(binding), steps, 0)

    def _link(
        self, parts: list[Expression], variable: str, before: list[str], candidates: list[str]
    ) -> tuple[str, Mapping[str, tuple[str, ...]], Expression | None]:
        """A condition that never changes and ties a variable to one chosen before: (the other, what each of its values
        leaves, the condition)."""
        for part in parts:
            if not isinstance(part, list) or len(part) != 3 or part[0] in DYNAMIC or part[0] in ("=", "exists"):
                continue
            for here, there in ((1, 2), (2, 1)):
                other = part[there]
                if part[here] == variable and isinstance(other, str) and other in before:
                    leaves: dict[str, list[str]] = {}
                    for fact in sorted(self.statics.get(str(part[0]), ())):
                        if fact[here - 1] in candidates:
                            leaves.setdefault(fact[there - 1], []).append(fact[here - 1])
                    return other, {value: tuple(names) for value, names in leaves.items()}, part
        return "", {}, None

    def _of_type(self, kind: str) -> list[str]:
        return sorted(name for name, its in self.objects.items() if its == kind)

    def _static_variable(self, part: Expression, types: Iterable[str]) -> str | None:
        """The only variable of a condition that no action changes, if it is one of these."""
        if not isinstance(part, list) or not part or part[0] in ("and", "not", "exists", "=") or part[0] in DYNAMIC:
            return None
        variables = {word for word in part[1:] if isinstance(word, str) and word.startswith("?")}
        only = next(iter(variables)) if len(variables) == 1 else None
        return only if only in set(types) else None

    def _atom(self, predicate: str, names: tuple[str, ...]) -> Test:
        if predicate == "=":
            one, other = names
            return lambda state, binding: binding.get(one, one) == binding.get(other, other)
        if predicate in DYNAMIC:
            holds = DYNAMIC[predicate]
            return lambda state, binding: holds(state, *(binding.get(word, word) for word in names))
        facts = self.statics.get(predicate, frozenset())
        return lambda state, binding: tuple(binding.get(word, word) for word in names) in facts
