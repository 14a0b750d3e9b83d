"""Files as text, in pages; Python sources without their docstrings."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from itertools import takewhile

from reflect_rl.errors import EnvironmentContractError

BINARY = "This is a binary file."
LONGEST_LINE = 400
"""Characters of a line; the rest is cut off."""
CUT = " [...]"
REPLACEMENT = "\ufffd"
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Control and format characters but for tab and line feed, such as those that change the direction of writing."""
LONG_LINE = re.compile(f"(?m)^(.{{{LONGEST_LINE}}}).+$")
SEMICOLON = re.compile(rb"(?:[ \t\f]|\\\r?\n)*;(?:[ \t\f]|\\\r?\n)*")
LINE_END = re.compile(rb"[ \t\f]*(?:\r\n|\r|\n|\Z)")
CONTINUED = (b"\\\n", b"\\\r\n")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def text_of(data: bytes, docstrings: bool = True) -> str:
    """The text of a file, with "\\n" at line ends; without its `docstrings` if it is Python source.

    A binary file (one with a NUL byte) is BINARY. Bytes that are not UTF-8 and invisible characters become "\\ufffd";
    a byte order mark is left out. Lines are cut after LONGEST_LINE characters.
    """
    if b"\0" in data:
        return BINARY
    text = decoded(data) if docstrings else without_docstrings(decoded(data))  # first: a cut line is no Python
    return LONG_LINE.sub(rf"\1{CUT}", INVISIBLE.sub(REPLACEMENT, text))


def decoded(data: bytes) -> str:
    """The characters of a file, with "\\n" at line ends; those that are not UTF-8 become "\\ufffd"."""
    return data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def paginate(text: str, characters: int) -> tuple[str, ...]:
    """Cut a text into pages, which joined are the text again.

    Args:
        text: The text.
        characters: Length of a page at the most, at least 1. Pages end at line ends; only a line that is longer than a
            page is cut.

    Returns:
        At least one page; one empty page for an empty text.
    """
    if characters < 1:
        raise EnvironmentContractError(f"A page of {characters} characters holds nothing; it takes at least 1.")
    pages, start = [], 0
    while len(text) - start > characters:
        end = text.rfind("\n", start, start + characters) + 1 or start + characters
        pages.append(text[start:end])
        start = end
    return (*pages, text[start:])


def without_docstrings(source: str) -> str:
    """Python source without the docstrings of modules, classes and functions.

    Strings that would become docstrings then are taken out too. Everything else is left as it is; `pass` takes the
    place of a docstring that is all of a body. Source that Python cannot parse is returned unchanged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as for "\d" in a string that is no raw one
            tree = ast.parse(source)
        data = source.encode()
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MemoryError: nested too deeply for the parser
        return source
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    kept, at = [], 0
    for node, replacement in sorted(_docstrings(tree), key=lambda found: (found[0].lineno, found[0].col_offset)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[operator]
        if not replacement:
            begin, end = _widened(data, starts[node.lineno - 1], begin, end)
        kept += [data[at:begin], replacement]
        at = end
    return b"".join([*kept, data[at:]]).decode()


def _docstrings(tree: ast.Module) -> Iterator[tuple[ast.stmt, bytes]]:
    """Each docstring, and what takes its place."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            strings = list(takewhile(_is_string, node.body))
            is_all = len(strings) == len(node.body) and not isinstance(node, ast.Module)
            yield from ((each, b"pass" if is_all and each is strings[-1] else b"") for each in strings)


def _is_string(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _widened(data: bytes, line: int, begin: int, end: int) -> tuple[int, int]:
    """What goes with a docstring: a semicolon behind it; its lines, if nothing else is part of them."""
    if found := SEMICOLON.match(data, end):
        end = found.end()
    is_first = not data[line:begin].strip() and not data.endswith(CONTINUED, 0, line)
    if is_first and (found := LINE_END.match(data, end)):
        return line, found.end()
    return begin, end
