"""Shortcuts for ALFWorld's own engine, for sweeps over thousands of games: the same bytes, several times as fast.

They are used with `patched=True` only. What changes, and why no text depends on it:

- The results of the grammar's parsers are cached. They depend on the string alone; symbols are copied when returned.
- Contexts and symbols are copied one level deep: the engine writes to nothing below.
- Propositions are sorted by tuples of their strings, which their own `<` compares, too.
- A game's translation to Fast Downward's format is cached. The second, optimised one is left out, since only the
  engine's own planner reads it: do not ask for `policy_commands`.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

TRANSLATIONS = 4
"""Translations cached: a game in both grammars, and the next one."""


def patch() -> None:
    """Patch textworld in this process. Call it before any game is loaded."""
    import fast_downward  # pyright: ignore[reportMissingImports]
    import textworld.logic  # pyright: ignore[reportMissingImports]
    from textworld.envs.pddl import logic, textgen  # pyright: ignore[reportMissingImports]

    patch_grammar(textgen)
    patch_sorting(textworld.logic)
    translate: Any = lru_cache(TRANSLATIONS)(fast_downward.pddl2sas)

    def pddl2sas(domain: str, problem: str, verbose: bool = False, optimize: bool = False) -> Any:
        return (None, "") if optimize else translate(domain, problem)

    logic.fast_downward = SimpleNamespace(**vars(fast_downward) | {"pddl2sas": pddl2sas})
    original = logic.PddlState.__init__

    def without_planner(self: Any, library: Any, *args: Any) -> None:
        original(self, _WithoutReplan(library), *args)
        self.downward_lib = library

    logic.PddlState.__init__ = without_planner  # type: ignore[method-assign]  # pyright: ignore


def patch_grammar(textgen: Any) -> None:
    """Cache parsed strings, and copy no deeper than the engine writes."""
    parse = textgen._parse_and_convert

    @lru_cache(maxsize=100_000)
    def parsed(text: str, rule_name: str) -> tuple[Any, ...]:
        return tuple(parse(text, rule_name=rule_name))

    def clone(symbol: Any) -> Any:
        twin = copy.copy(symbol)
        for name in ("symbol", "expression"):  # a list or a condition holds another symbol
            if isinstance(inner := getattr(twin, name, None), textgen.Symbol):
                setattr(twin, name, clone(inner))
        return twin

    def shallow(context: dict[str, Any]) -> dict[str, Any]:
        return context | {"variables": dict(context["variables"]), "mapping": dict(context["mapping"])}

    queries = lru_cache(maxsize=100_000)(textgen.Rule.parse_conjunctive_query)
    textgen.Rule = SimpleNamespace(parse_conjunctive_query=queries)
    textgen._parse_and_convert = lambda text, rule_name="symbols", **_: [
        clone(each) for each in parsed(text, rule_name)
    ]
    textgen.copy_context = shallow
    textgen.deepcopy = lambda value: [clone(each) for each in value] if isinstance(value, list) else clone(value)


def patch_sorting(textworld_logic: Any) -> None:
    """Sort propositions by tuples of strings, made once each."""
    proposition = textworld_logic.Proposition

    @lru_cache(maxsize=100_000)
    def key(each: Any) -> tuple[Any, ...]:
        return each.name, tuple((argument.name, argument.type) for argument in each.arguments)

    def sort(items: Any) -> list[Any]:
        items = list(items)
        return sorted(items, key=key if all(isinstance(each, proposition) for each in items) else None)

    textworld_logic.sorted = sort  # found before the builtin of that name


class _WithoutReplan:
    """The native library, but for the planner's copy of the game."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)

    def load_sas_replan(self, sas: bytes) -> None:
        """The planner is not used."""
