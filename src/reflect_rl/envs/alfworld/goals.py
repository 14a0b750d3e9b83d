"""Compiled goals: a PDDL condition of exists, and, not and = becomes a function of the state.

What never changes (types, what can be heated, ...) is decided once, when the goal is compiled: each variable then has
only the few candidates that its static conditions leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from reflect_rl.envs.alfworld.game import GameFileError
from reflect_rl.envs.alfworld.problem import Expression, Problem

if TYPE_CHECKING:
    from reflect_rl.envs.alfworld.engine import State

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


def compile_goal(goal: Expression, problem: Problem, name: str) -> Test:
    """The goal as a function (state, {}) -> bool. Raises GameFileError for conditions of another kind."""
    statics = {predicate: frozenset(facts) for predicate, facts in problem.facts.items() if predicate not in DYNAMIC}
    return _Compiler(problem.objects, statics, name).compile(goal, frozenset())


Step = tuple[str, bool, list[str], list[Test]]


def _search(state: State, binding: dict[str, str], steps: list[Step], depth: int) -> bool:
    """Whether the variables from this depth on can be chosen so that all tests hold."""
    if depth == len(steps):
        return True
    variable, is_place, candidates, tests = steps[depth]
    for candidate in (state.location,) if is_place else candidates:
        binding[variable] = candidate
        if all(test(state, binding) for test in tests) and _search(state, binding, steps, depth + 1):
            return True
    return False


def _words(part: Expression) -> Iterator[str]:
    """All words of an expression."""
    if isinstance(part, str):
        yield part
    else:
        for inner in part:
            yield from _words(inner)


class _Compiler:
    def __init__(
        self, objects: Mapping[str, str], statics: Mapping[str, frozenset[tuple[str, ...]]], name: str
    ) -> None:
        self.objects = objects
        self.statics = statics
        self.name = name

    def compile(self, expression: Expression, bound: frozenset[str]) -> Test:
        if not isinstance(expression, list) or not expression or not isinstance(expression[0], str):
            raise self._refused(expression)
        head, *rest = expression
        if head == "and":
            tests = [self.compile(part, bound) for part in rest]
            return lambda state, binding: all(test(state, binding) for test in tests)
        if head == "not" and len(rest) == 1:
            test = self.compile(rest[0], bound)
            return lambda state, binding: not test(state, binding)
        if head == "exists" and len(rest) == 2 and isinstance(rest[0], list):
            return self._exists(rest[0], rest[1], bound)
        return self._atom(expression, bound)

    def _exists(self, declared: list[Expression], body: Expression, bound: frozenset[str]) -> Test:
        types = self._types(declared)
        parts = body[1:] if isinstance(body, list) and body and body[0] == "and" else [body]
        rest, candidates = [], {variable: self._of_type(kind) for variable, kind in types.items()}
        for part in parts:
            variable = self._static_variable(part, types)
            if variable is None:
                rest.append(part)
            else:
                fits = self.compile(part, frozenset({variable}))
                candidates[variable] = [c for c in candidates[variable] if fits(None, {variable: c})]  # type: ignore[arg-type]
        places = {part[2] for part in rest if isinstance(part, list) and part[0] == "atlocation" and len(part) == 3}
        # Where the agent is comes first, then whatever has the fewest candidates: what cannot be is left early.
        order = sorted(types, key=lambda variable: (variable not in places, len(candidates[variable])))
        tests: list[list[Test]] = [[] for _ in order]
        for part in rest:
            last = max((order.index(word) for word in _words(part) if word in types), default=0)
            tests[last].append(self.compile(part, bound | set(types)))
        steps = [(variable, variable in places, candidates[variable], tests[n]) for n, variable in enumerate(order)]
        return lambda state, binding: _search(state, dict(binding), steps, 0)

    def _types(self, declared: list[Expression]) -> dict[str, str]:
        types: dict[str, str] = {}
        waiting: list[str] = []
        words = iter(declared)
        for word in words:
            if word == "-":
                kind = next(words, None)
                if not isinstance(kind, str):
                    raise self._refused(declared)
                types.update(dict.fromkeys(waiting, kind))
                waiting = []
            elif isinstance(word, str):
                waiting.append(word)
        if waiting or not types:
            raise self._refused(declared)
        return types

    def _of_type(self, kind: str) -> list[str]:
        return sorted(name for name, its in self.objects.items() if its == kind)

    def _static_variable(self, part: Expression, types: Iterable[str]) -> str | None:
        """The only variable of a condition that no action changes, if it is one of these."""
        if not isinstance(part, list) or not part or part[0] in ("and", "not", "exists", "=") or part[0] in DYNAMIC:
            return None
        variables = {word for word in part[1:] if isinstance(word, str) and word.startswith("?")}
        only = next(iter(variables)) if len(variables) == 1 else None
        return only if only in set(types) else None

    def _atom(self, expression: list[Expression], bound: frozenset[str]) -> Test:
        predicate, *words = expression
        for word in words:
            if not isinstance(word, str) or (word.startswith("?") and word not in bound):
                raise self._refused(expression)
        names = tuple(word for word in words if isinstance(word, str))
        if predicate == "=" and len(names) == 2:
            one, other = names
            return lambda state, binding: binding.get(one, one) == binding.get(other, other)
        if predicate in DYNAMIC:
            holds = DYNAMIC[predicate]  # type: ignore[index]
            if len(names) != holds.__code__.co_argcount - 1:
                raise self._refused(expression)
            return lambda state, binding: holds(state, *(binding.get(word, word) for word in names))
        from reflect_rl.envs.alfworld.problem import ARITY

        if ARITY.get(str(predicate)) != len(names):
            raise self._refused(expression)
        facts = self.statics.get(str(predicate), frozenset())
        return lambda state, binding: tuple(binding.get(word, word) for word in names) in facts

    def _refused(self, expression: Expression) -> GameFileError:
        return GameFileError(
            f"The goal of {self.name} has a part that the fast engine does not know: {str(expression)[:120]}. It knows "
            f"exists, and, not, = and the domain's predicates. Play the game on the real engine: engine='textworld'."
        )
