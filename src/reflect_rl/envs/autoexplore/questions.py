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

CHARACTERS = (40, 200)
"""Length of a question, from and to."""
LEAST_WORDS = 5
"""Words of a question that are no stop words: fewer say too little."""
MARKUP = (
    (re.compile(r":[\w:+.-]+:`~?(?:[^`<]*<)?([^`>]+)>?`"), r"\1"),  # :class:`text <target>`
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # [text](link)
    (re.compile(r"\[?`+~?([^`]*)`+\]?_*"), r"\1"),  # `text`, ``text``, [`text`]
    (re.compile(r"(?<!\w)\*+(\w[^*]*)\*+(?!\w)"), r"\1"),  # *text*, **text**
    (re.compile(r"\s+"), " "),
)
SENTENCE = re.compile(r"(.+?(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\bresp)[.!?])(?:\s|$)")
NOT_PROSE = re.compile(r"[{}<>|=\\`*@#$^~]|::|\.\.|->|\w\(|https?:|__|\s_|: *$")
"""Signatures, directives, code and links."""
NO_ANSWER = re.compile(
    r"(?:TODO|FIXME|XXX|deprecat|obsolete|copyright|license|author|alias|see |same as|like |test|example|note|warning|"
    r"internal|base class|mixin|this (?:module|file|package|class|function|method)\b|(?:helper|utility|various|misc))",
    re.IGNORECASE,
)
"""Beginnings of sentences that say nothing about what is there, or that are told apart by where they stand."""
FUNCTION_WORDS = frozenset("a an the of to in for from with by on is are and or that which as into if be this".split())
TEST_NAME = re.compile(r"(?:^|_)(?:tests?|testing|conftest|examples?|benchmarks?)(?:_|$)")
SHARED = 5
"""Letters with which two words begin alike, such as description and describe."""
PART = 3
"""Letters of a word that count as a leak inside of another, such as url in urlparse."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Docstring:
    """symbol: the dotted name of what it describes, empty for the module. sentence: its first, without markup."""

    symbol: str
    sentence: str
    public: bool


def docstrings(source: str) -> list[Docstring]:
    """The docstrings of Python source, in its order; none if Python cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return list(_docstrings(tree, "", True))


def _docstrings(node: Documented, name: str, public: bool) -> Iterator[Docstring]:
    text = ast.get_docstring(node, clean=False)
    if text and (sentence := first_sentence(text)):
        yield Docstring(name, sentence, public)
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inside = public and not child.name.startswith("_") and not isinstance(node, ast.FunctionDef)
            yield from _docstrings(child, f"{name}.{child.name}" if name else child.name, inside)


def first_sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line and without markup."""
    text = inspect.cleandoc(docstring).strip().split("\n\n", 1)[0]
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    found = SENTENCE.match(text.strip())
    return found[1] if found else text.strip()


def is_question(sentence: str) -> bool:
    """Whether this is an English sentence of sensible length that says what is there."""
    tokens = sentence.split()
    return (
        CHARACTERS[0] <= len(sentence) <= CHARACTERS[1]
        and sentence.isprintable()
        and sentence.isascii()
        and sentence[0].isupper()
        and not NOT_PROSE.search(sentence)
        and not NO_ANSWER.match(sentence)
        and len(set(words(sentence))) >= LEAST_WORDS
        and len(FUNCTION_WORDS.intersection(map(str.lower, tokens))) >= 2
    )


def is_asked_for(path: str) -> bool:
    """Whether questions may ask for this file: public Python source, no test and no example."""
    inside = PurePosixPath(path)
    names = [*inside.parts[:-1], inside.stem]
    return inside.suffix == ".py" and not any(
        TEST_NAME.search(name.lower()) or (name.startswith("_") and name != "__init__") for name in names
    )


def leaks(question: str, target: str, symbol: str) -> bool:
    """Whether a word of the question also tells a part of the path or of the symbol, as a whole or as a part of it."""
    named = f"{PurePosixPath(target).with_suffix('')}/{symbol}"
    names = set(words(named))
    raw = [part for part in re.split(r"[\W\d_]+", named.lower()) if part]
    asked = set(words(question))
    return not names.isdisjoint(asked) or any(
        (len(word) >= PART and any(word in part for part in raw))
        or any((len(name) >= PART and name in word) or word[:SHARED] == name[:SHARED] for name in names)
        for word in asked
    )
