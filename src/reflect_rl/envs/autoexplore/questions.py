"""Questions from docstrings: the first sentence of a public module, class or function asks for the file it is in."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from reflect_rl.envs.autoexplore.words import words

CHARACTERS = (30, 220)
"""Length of a question, from and to."""
PARAGRAPH = 4_000
"""Characters of a paragraph that are looked at, with markup: what a pattern takes may grow with their square."""
LEAST_WORDS = 4
"""Different words of a question that are no stop words: fewer say too little."""
MARKUP = (
    (re.compile(r":[\w:+.-]+:`~?(?:[^`<]*<)?([^`>]+)>?`"), r"\1"),  # :class:`text <target>`
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # [text](link)
    (re.compile(r"\[?`+~?\.?([^`]*)`+\]?_*"), r"\1"),  # `text`, ``text``, [`text`]
    (re.compile(r"(?<!\w)\*+(\w[^*]*)\*+(?!\w)"), r"\1"),  # *text*, **text**
    (re.compile(r"\s+"), " "),
)
SENTENCE = re.compile(r"(.+?(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\bresp)[.!?])(?:\s|$)")
NOT_PROSE = re.compile(r"[{}<>|=\\`*@#$^~]|::|\.\.|->|\w\(|https?:|__|\s_|[:,]$")
"""Signatures, directives, code and links."""
NO_ANSWER = re.compile(
    r"(?:TODO|FIXME|XXX|deprecat|obsolete|copyright|license|author|alias|see |same as|test|example|note|warning|"
    r"this is |this file )",
    re.IGNORECASE,
)
"""Beginnings of sentences that do not say what is there."""
FUNCTION_WORDS = frozenset(
    ("a", "an", "the", "of", "to", "in", "for", "from", "with", "by", "on", "is", "are", "and", "or")
)
"""An English sentence has two of them at least."""
NOT_PUBLIC = re.compile(r"_(?!_init__)|(?:.*_)?(?:tests?|testing|conftest|examples?|benchmarks?)(?:_|$)")
"""Names of folders and files that hold internals, tests and examples."""
PART, BEGINNING = 4, 6
"""Letters of a word that leak inside of another (parse, urlparse), and with which two words begin alike."""
SPELLED = 2 / 3
"""A question leaks a part of a symbol if its words spell this share of its letters."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring.

    Attributes:
        symbol: The dotted name of what it describes; empty for the module.
        sentence: Its first sentence, without markup.
        public: Whether no part of the symbol begins with an underscore, or lies inside of a function.
    """

    symbol: str
    sentence: str
    public: bool


def docstrings(source: str) -> list[Docstring]:
    """The docstrings of Python source, in its order; none if Python cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as for "\d" in a string that is no raw one
            return list(_docstrings(ast.parse(source), "", True))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MemoryError: nested too deeply for the parser
        return []


def _docstrings(node: Documented, symbol: str, public: bool) -> Iterator[Docstring]:
    if text := ast.get_docstring(node, clean=False):
        yield Docstring(symbol, first_sentence(text), public)
    is_open = public and isinstance(node, ast.Module | ast.ClassDef)
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{symbol}.{child.name}" if symbol else child.name
            yield from _docstrings(child, name, is_open and not child.name.startswith("_"))


def first_sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line and without markup."""
    text = inspect.cleandoc(docstring).strip().partition("\n\n")[0][:PARAGRAPH]
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    found = SENTENCE.match(text.strip())
    return found[1] if found else text.strip()


def is_question(sentence: str) -> bool:
    """Whether this is an English sentence of sensible length that says what is there."""
    return (
        CHARACTERS[0] <= len(sentence) <= CHARACTERS[1]
        and sentence.isprintable()
        and sentence.isascii()
        and sentence[0].isupper()
        and not NOT_PROSE.search(sentence)
        and not NO_ANSWER.match(sentence)
        and len(set(words(sentence))) >= LEAST_WORDS
        and len(FUNCTION_WORDS.intersection(sentence.lower().split())) >= 2
    )


def may_be_target(path: str) -> bool:
    """Whether questions may ask for this file: public Python source, no test and no example."""
    inside = PurePosixPath(path)
    names = (*inside.parts[:-1], inside.stem)
    return inside.suffix == ".py" and path.isprintable() and not any(NOT_PUBLIC.match(name.lower()) for name in names)


def leaks(question: str, target: str, symbol: str) -> bool:
    """Whether a question gives its answer away.

    It does if one of its words, or a part of it, stands in the path; or if they spell most of a name in the symbol.
    """
    asked = {name for name in _names(question) if words(name)}  # stems and whole words, without stop words
    path = str(PurePosixPath(target).with_suffix(""))
    return any(_alike(word, name) for word in asked for name in _names(path)) or any(
        _spelled(part, set(words(question))) for part in symbol.split(".") if part
    )


def _names(text: str) -> set[str]:
    """The stems of a path or a question, and its words as they are without what is no letter."""
    return {*words(text), *(part for part in re.split(r"[\W\d_]+", text.lower()) if part)}


def _alike(word: str, name: str) -> bool:
    """Whether two words are the same, one is a part of the other, or they begin alike."""
    if word == name:
        return True
    shorter, longer = sorted((word, name), key=len)
    return (len(shorter) >= PART and shorter in longer) or (
        len(shorter) >= BEGINNING and shorter[:BEGINNING] == longer[:BEGINNING]
    )


def _spelled(part: str, asked: set[str]) -> bool:
    letters = left = re.sub(r"[\W\d_]", "", part.lower())
    for word in sorted(asked, key=lambda word: (-len(word), word)):
        left = left.replace(word, "") if len(word) > 2 else left
    return len(left) <= (1 - SPELLED) * len(letters)
