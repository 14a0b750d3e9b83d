"""The rules of a game: which grammar it is played by, and the sentences read from it.

Two pairs of domain and grammar are known, by SHA-256: "put", which every released game file carries, and "move", which
came with alfworld 0.4.0. The engine has their logic built in and reads their sentences; anything else is refused.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from reflect_rl.envs.alfworld.game import GameFile, GameFileError

GRAMMARS = ("move", "put")
KNOWN = {
    (
        "f1473041ed01da514de1f87adfd7ef0804862361f83ccf63c75e43633b0eb280",
        "c5b22f0f73309a7fd7c8e5b71de42ad4803b60766ab4a51cc2feb34162be036b",
    ): "move",
    (
        "34172c333dff7e62eb90e85367fa5519b5f31b3849e56123d96dbc0deda50e27",
        "d955e6db384c68ac5797e881b795fd36d788e87a03547f9a87e48fbd7c5b361b",
    ): "put",
}
"""Grammar by the hashes of domain and grammar (see `mask_task`)."""
UNKNOWN_GOAL = "UNKNOWN GOAL"
_TASK_RULE = re.compile(r'("rhs": "Your task is to: )([^"\\{}#\[\]|]*)(\.")')
_BLOCK = re.compile(r'grammar :: """(.*?)"""', re.DOTALL)
_TEMPLATE = re.compile(r'action (\w+) \{\s*template :: "([^"]*)";')
_FIELD = re.compile(r"\{(\w+)\.name\}")
_LIST = re.compile(r"\[[^\]]*\]")
_SYMBOL = re.compile(r"#([\w.\-]+)#")


@dataclass(frozen=True)
class Rule:
    """One line of the grammar. condition: predicates that all have to hold of its object. text: a % template, with
    %(o)s and %(r)s for names, %(list)s for a list, and other symbols by their names."""

    condition: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Rules:
    """grammar: "move" or "put". sentences: rules by symbol. commands: % templates by action. task: the sentence that
    the grammar states, or None if it leaves it open."""

    grammar: str
    sentences: Mapping[str, tuple[Rule, ...]]
    commands: Mapping[str, str]
    task: str | None

    def text(self, symbol: str, number: int = 0) -> str:
        return self.sentences[symbol][number].text


def rules_for(game: GameFile, grammar: str) -> Rules:
    """The rules that a game is played by.

    "move": its own if they are these, else those of the installed alfworld package. "put": its own.

    Raises GameFileError.
    """
    if grammar not in GRAMMARS:
        raise GameFileError(f"There is no grammar {grammar!r}; there are: {', '.join(GRAMMARS)}.")
    if game.domain is not None and game.grammar is not None:
        own = read_rules(game.domain, game.grammar)
        if own is None and grammar == "put":
            raise GameFileError(
                f"The rules of {game.id} are none that the fast engine knows (alfred.pddl and alfred.twl2 as released "
                f"with the games, or with alfworld 0.4). Play it on the real engine: engine='textworld'."
            )
        if own is not None and own.grammar == grammar:
            return own
    elif grammar == "put":
        raise GameFileError(
            f"The game {game.id} carries no rules of its own, so it cannot be played with grammar='put'. Use "
            f"grammar='move', or a game file of the release."
        )
    return installed_rules()


def own_grammar(game: GameFile) -> str:
    """The grammar whose rules a game carries, "move" or "put". Raises GameFileError if it carries none of these."""
    rules = read_rules(game.domain, game.grammar) if game.domain and game.grammar else None
    if rules is None:
        raise GameFileError(
            f"The rules of {game.id} are none that the fast engine knows (alfred.pddl and alfred.twl2 as released "
            f"with the games, or with alfworld 0.4). Play it with alfworld's own environment."
        )
    return rules.grammar


@lru_cache(maxsize=1)
def installed_rules() -> Rules:
    """The rules of the installed alfworld package. Raises GameFileError if there is none, or of another version."""
    rules = read_rules(*installed_texts())
    if rules is None:
        raise GameFileError(
            "The installed alfworld package has rules that the fast engine does not know. Install the version it was "
            'proved against: pip install "alfworld==0.4.2".'
        )
    return rules


def installed_texts() -> tuple[str, str]:
    """Domain and grammar of the installed alfworld package. Raises GameFileError if there is none."""
    folder = package_folder() / "data"
    domain, grammar = ((folder / name).read_text(encoding="utf-8") for name in ("alfred.pddl", "alfred.twl2"))
    return domain, grammar


def package_folder() -> Path:
    """Where the alfworld package is, without importing it. Raises GameFileError if it is not installed."""
    found = importlib.util.find_spec("alfworld")
    if found is None or not found.submodule_search_locations:
        raise GameFileError(
            "The grammar 'move' is read from the alfworld package, which is not installed: "
            "pip install \"reflect-rl[alfworld]\". Released game files can be played without it with grammar='put'."
        )
    return Path(next(iter(found.submodule_search_locations)))


@lru_cache(maxsize=1)
def templates() -> dict[str, list[str]]:
    """The wordings of each task type, read from the alfworld package's goal library."""
    tree = ast.parse((package_folder() / "gen" / "goal_library.py").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            value = ast.literal_eval(node.value)
            found[ast.literal_eval(node.targets[0].slice)] = value["templates"]
    return found


def mask_task(grammar: str) -> str | None:
    """The grammar with UNKNOWN GOAL for its task; None unless it states one task, in words without expressions."""
    masked, count = _TASK_RULE.subn(rf"\1{UNKNOWN_GOAL}\3", grammar)
    return masked if count == 1 else None


def known_grammar(grammar: str) -> str | None:
    """Which of the known grammars this is, "move" or "put", whatever task it states; None for another one."""
    digest = sha256((mask_task(grammar) or "").encode()).hexdigest()
    return next((name for (_, own), name in KNOWN.items() if own == digest), None)


@lru_cache(maxsize=64)
def read_rules(domain: str, grammar: str) -> Rules | None:
    """The rules of these texts; None if they are none of the known ones."""
    masked, task = mask_task(grammar), _TASK_RULE.search(grammar)
    if masked is None or task is None:
        return None
    known = KNOWN.get((sha256(domain.encode()).hexdigest(), sha256(masked.encode()).hexdigest()))
    if known is None:
        return None
    sentences, commands = _sentences(masked)
    return Rules(known, sentences, commands, None if task[2] == UNKNOWN_GOAL else task[2])


@lru_cache(maxsize=8)
def _sentences(grammar: str) -> tuple[Mapping[str, tuple[Rule, ...]], Mapping[str, str]]:
    sentences: dict[str, tuple[Rule, ...]] = {}
    for block in _BLOCK.findall(grammar):
        for symbol, rules in json.loads(block).items():
            sentences[symbol] = tuple(_rule(rule) for rule in rules)
    # Going names its receptacle by a query, which has one answer: the receptacle gone to.
    commands = {
        name: re.sub(r"\{(\w+)\}", r"%(\1)s", _LIST.sub("{r}", text)) for name, text in _TEMPLATE.findall(grammar)
    }
    return sentences, commands


def _rule(rule: Mapping[str, Any]) -> Rule:
    names = tuple(part.split("(")[0].strip() for part in rule.get("condition", "").split("&") if part.strip())
    text = rule["rhs"].replace("%", "%%")
    # The engine's parser skips white space at the start of a text.
    text = _LIST.sub("%(list)s", text.lstrip())
    return Rule(names, _SYMBOL.sub(r"%(\1)s", _FIELD.sub(r"%(\1)s", text)))
