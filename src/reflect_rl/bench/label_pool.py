"""A supervised text pool available on every machine: docstrings of functions, with the functions' names as labels.

Both are lower-cased, and names are split into words, so that a word has the same token in both. Pairs are read from
Python sources without running them. The standard library is the pool; the sources of another installed package stand
for what the model knows beforehand.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SHORTEST, LONGEST = 12, 300
"""Length limits of a docstring's first paragraph, in characters."""
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
"""The words of a name: read_HTTPResponse2 contains read, HTTP, Response, 2."""
NOT_LIBRARY = ("site-packages", "test", "tests", "idle_test", "dist-packages")


@dataclass(frozen=True, slots=True)
class Pair:
    """text: a docstring's first paragraph on one line. name: the words of the function's name. group: its module."""

    text: str
    name: str
    group: str


def standard_library() -> list[Pair]:
    """The distinct pairs of Python's standard library, sorted; they depend on the Python version."""
    return read_pairs(Path(sysconfig.get_path("stdlib")))


def package(name: str) -> list[Pair]:
    """The pairs of an installed package, as in `standard_library`; empty if it is not installed."""
    found = importlib.util.find_spec(name)
    places = (found.submodule_search_locations or []) if found else []
    return sorted({pair for place in places for pair in read_pairs(Path(place))}, key=_key)


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of all sources in a folder, except tests; sorted, each text once, with its first name."""
    pairs: dict[str, Pair] = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).parts
        if not set(parts) & set(NOT_LIBRARY):
            group = parts[0].removesuffix(".py")
            for text, name in _documented(file):
                pairs.setdefault(text, Pair(text, name, group))
    return sorted(pairs.values(), key=_key)


def fingerprint(pairs: Sequence[Pair]) -> str:
    """A hash of the pairs and their order, 12 hexadecimal digits."""
    lines = "\n".join(f"{pair.text}\t{pair.name}\t{pair.group}" for pair in pairs)
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def _key(pair: Pair) -> tuple[str, str, str]:
    return pair.text, pair.name, pair.group


def _documented(file: Path) -> Iterator[tuple[str, str]]:
    """(first paragraph of the docstring, words of the name) of a file's functions; none if it is not valid Python."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):  # another Python version or encoding
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("__"):
            continue
        paragraph = (ast.get_docstring(node) or "").strip().partition("\n\n")[0]
        text = " ".join(paragraph.split())
        name = " ".join(WORDS.findall(node.name))
        if name and SHORTEST <= len(text) <= LONGEST:
            yield text.lower(), name.lower()
