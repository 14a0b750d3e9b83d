"""Compiled goals: a PDDL condition of exists, and, not and = becomes a function of the state.

Conditions that no action changes are decided when the goal is compiled, so that few candidates are left for each
variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""What actions can change, with its value in a state."""
UNTRACKED = frozenset({"checked"})
"""What actions change but no text tells: the state does not keep it."""


def compile_goal(problem: Problem, name: str) -> Test:
    """The goal as a function (state, {}) -> bool. Raises GameFileError for conditions that are not known."""
    return _Compiler(problem, name).compile(problem.goal, frozenset())


def watched(goal: Expression) -> frozenset[str]:
    """The predicates that the goal depends on and actions can change."""
    return frozenset(_words(goal)) & frozenset(DYNAMIC)


class _Compiler:
    """Compiles conditions, and refuses those that it does not know."""

    def __init__(self, problem: Problem, name: str) -> None:
        self.objects = problem.objects
        self.statics = {its: frozenset(facts) for its, facts in problem.facts.items() if its not in DYNAMIC}
        self.name = name

    def compile(self, expression: Expression, bound: frozenset[str]) -> Test:
        """A condition as a function of the state and of the values of the variables that are bound."""
        match expression:
            case ["and", *parts]:
                # Parts with few words are settled soonest.
                tests = [self.compile(part, bound) for part in sorted(parts, key=lambda part: len([*_words(part)]))]
                return lambda state, binding: all(test(state, binding) for test in tests)
            case ["not", part]:
                test = self.compile(part, bound)
                return lambda state, binding: not test(state, binding)
            case ["exists", [*declared], [_, *_] as body]:
                types = declared_types(declared)
                if types and set(types.values()) <= TYPES:
                    return self._exists(types, body, bound | set(types))
            case [str(predicate), *names] if self._is_atom(predicate, names, bound):
                return self._atom(predicate, tuple(map(str, names)))
        raise GameFileError(
            f"The goal of {self.name} has a part that the fast engine does not know: {str(expression)[:120]}. It knows "
            f"exists, and, not, = and the domain's predicates. Play the game on the real engine: engine='textworld'."
        )

    def _exists(self, types: Mapping[str, str], body: list[Expression], bound: frozenset[str]) -> Test:
        rest = []
        candidates = {
            variable: [n for n, its in self.objects.items() if its == kind] for variable, kind in types.items()
        }
        for part in body[1:] if body[0] == "and" else [body]:
            variable = _static_variable(part)
            if variable in types:
                fits = self.compile(part, bound)
                candidates[variable] = [c for c in candidates[variable] if fits(None, {variable: c})]  # type: ignore[arg-type]
            else:
                rest.append(part)
        order = sorted(types, key=lambda variable: len(candidates[variable]))
        steps: list[_Step] = []
        for depth, variable in enumerate(order):
            later = set(order[depth + 1 :])
            ready = [part for part in rest if later.isdisjoint(_words(part))]
            rest = [part for part in rest if not later.isdisjoint(_words(part))]
            steps.append((variable, candidates[variable], [self.compile(part, bound) for part in ready]))
        return lambda state, binding: _search(state, dict(binding), steps)

    def _is_atom(self, predicate: str, names: list[Expression], bound: frozenset[str]) -> bool:
        if predicate in UNTRACKED or len(names) != (2 if predicate == "=" else ARITY.get(predicate)):
            return False
        return all(isinstance(word, str) and (word in bound or word in self.objects) for word in names)

    def _atom(self, predicate: str, names: tuple[str, ...]) -> Test:
        if predicate == "=":
            one, other = names
            return lambda state, binding: binding.get(one, one) == binding.get(other, other)
        if predicate in DYNAMIC:
            holds = DYNAMIC[predicate]
            return lambda state, binding: holds(state, *(binding.get(word, word) for word in names))
        facts = self.statics.get(predicate, frozenset())
        return lambda state, binding: tuple(binding.get(word, word) for word in names) in facts


_Step = tuple[str, list[str], list[Test]]
"""A variable, its candidates, and the conditions that can be tested once it is bound."""


def _search(state: State, binding: dict[str, str], steps: Sequence[_Step], depth: int = 0) -> bool:
    """Whether the variables from this step on can be bound so that all conditions hold."""
    if depth == len(steps):
        return True
    variable, candidates, tests = steps[depth]
    for candidate in candidates:
        binding[variable] = candidate
        for test in tests:
            if not test(state, binding):
                break
        else:
            if _search(state, binding, steps, depth + 1):
                return True
    return False


def declared_types(declared: Sequence[Expression]) -> dict[str, str]:
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


def _static_variable(part: Expression) -> str:
    """The only variable of a condition that no action changes; "" for any other condition."""
    if not isinstance(part, list) or not part or part[0] in ("and", "not", "exists", "=", *DYNAMIC):
        return ""
    variables = {word for word in part[1:] if isinstance(word, str) and word.startswith("?")}
    return variables.pop() if len(variables) == 1 else ""


def _words(part: Expression) -> Iterator[str]:
    """All words of an expression."""
    if isinstance(part, str):
        yield part
    else:
        for inner in part:
            yield from _words(inner)
