"""Files become clean text in pages, and Python sources lose their docstrings and nothing else."""

from __future__ import annotations

import ast
import unicodedata
import warnings
from itertools import pairwise
from pathlib import Path
from random import Random

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reflect_rl
from reflect_rl.envs.autoexplore.pages import BINARY, CUT, LONGEST_LINE, paginate, text_of, without_docstrings
from reflect_rl.errors import EnvironmentContractError

# Text


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode()))
def test_text_is_clean_whatever_the_bytes(data: bytes) -> None:
    text = text_of(data)
    assert text.encode().decode() == text
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text if c not in "\t\n")
    assert text_of(text.encode()) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"\xef\xbb\xbfx = 1", "x = 1"),
        (b"\tx\x1b[31m\x0c", "\tx\ufffd[31m\ufffd"),
        (b"caf\xe9", "caf\ufffd"),
        ("a\u202eb\u2028c\u200dd".encode(), "a\ufffdb\ufffdc\ufffdd"),
        ("目é👩".encode(), "目é👩"),
        (b"text\0more", BINARY),
        (b"a" * LONGEST_LINE + b"\n", "a" * LONGEST_LINE + "\n"),
        (b"x\n" + b"a" * 100_000 + b"\ny", f"x\n{'a' * LONGEST_LINE}{CUT}\ny"),
    ],
)
def test_bytes_and_their_text(data: bytes, text: str) -> None:
    assert text_of(data) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('"""Tells."""\nx = 1\n', "x = 1\n"),
        ('"""Tells."""\n\x0cx = 1\n', "\ufffdx = 1\n"),
        (f'"""Tells."""\nx = "{"a" * 1000}"\n', f'x = "{"a" * (LONGEST_LINE - 5)}{CUT}\n'),
        (f'"""{"a" * 1000}\nTells."""\nx = 1\n', "x = 1\n"),
    ],
)
def test_docstrings_are_taken_out_before_anything_is_cut(source: str, text: str) -> None:
    assert text_of(source.encode(), docstrings=False) == text


# Pages


@given(st.text("ab\n", max_size=200), st.integers(1, 30))
def test_pages_are_the_text_cut_at_line_ends(text: str, characters: int) -> None:
    pages = paginate(text, characters)
    assert "".join(pages) == text
    assert all(len(page) <= characters for page in pages)
    assert pages == ("",) or all(pages)
    for page, following in pairwise(pages):
        line, _, _ = following.partition("\n")
        assert page.endswith("\n") or "\n" not in page
        assert len(page) + len(line) + 1 > characters or "\n" not in page  # no page ends before it has to


def test_a_page_has_room() -> None:
    assert paginate("", 1) == ("",)
    assert paginate("one\ntwo\nthree", 8) == ("one\ntwo\n", "three")
    assert paginate("one\ntwo\n", 4) == ("one\n", "two\n")
    with pytest.raises(EnvironmentContractError, match="0 characters"):
        paginate("text", 0)


# Docstrings

SOURCES = sorted(
    path
    for folder in (Path(reflect_rl.__file__).parent, Path(ast.__file__).parent, Path(gymnasium.__file__).parent)
    for path in folder.rglob("*.py")
)


def parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def bare(source: str) -> str:
    """What the source means, without docstrings."""
    tree = parsed(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            while node.body and isinstance(node.body[0], ast.Expr) and is_text(node.body[0].value):
                del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body = [ast.Pass()]
    return ast.dump(tree)


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def check(source: str) -> None:
    result = without_docstrings(source)
    try:
        meaning = bare(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        assert result == source
        return
    assert ast.dump(parsed(result)) == meaning
    assert without_docstrings(result) == result


@pytest.mark.parametrize("path", Random(0).sample(SOURCES, 60), ids=lambda path: path.name)
def test_installed_sources_keep_all_but_their_docstrings(path: Path) -> None:
    source = text_of(path.read_bytes()[: 1 << 17])
    check(source)
    lines = set(source.splitlines())
    changed = [line for line in without_docstrings(source).splitlines() if line not in lines]
    assert all(line.strip() == "pass" or "#" in line or ":" in line for line in changed), changed


indents = st.sampled_from(["  ", "\t", "    "])
strings = ['"a"', "'''m\nn'''", '("p"\n "q")', '"é" "b"', "u'é'", '"a" \\\n "b"', '("x")', 'r"""\\d"""', r'"\d"']
docstrings = st.sampled_from([*strings, 'f"x"', 'b"y"'])
statements = st.sampled_from(["x = 1", "return 1", "pass", "...", "y = 'é'", "'''not\na docstring''' + z"])
gaps = st.sampled_from(["\n{0}", ";", " ; \\\n  ", "  # c\n{0}", ";\n{0}", "\n\n{0}", "\n{0}# c\n{0}", "; # c\n{0}"])
heads = st.sampled_from(["{0}def f():", "{0}class A:", "{0}async def g(é):"])
openings = st.sampled_from([" ", "\n{0}", "\\\n", "\n{0}\\\n", "  # c\n{0}", "\n\n{0}", "\n{0}# c\n\n{0}"])


@st.composite
def bodies(draw: st.DrawFn, indent: str = "", depth: int = 0) -> str:
    """Statements in a body, with strings before them, and often a body inside."""
    parts = [*draw(st.lists(docstrings, max_size=3)), *draw(st.lists(statements, max_size=2))] or ["pass"]
    source = parts[0]
    for part in parts[1:]:
        source += draw(gaps).format(indent) + part
    if depth < 2 and draw(st.booleans()):
        inner = indent + draw(indents)
        block = draw(heads).format(indent) + draw(openings).format(inner) + draw(bodies(inner, depth + 1))
        source += "\n" + block
    return source


@given(bodies())
def test_docstrings_go_wherever_they_stand(source: str) -> None:
    check(source + "\n")


@given(st.text(st.characters(exclude_categories=[]), max_size=50) | st.text("'\"()\\\n\t;:#adef f", max_size=50))
def test_any_text_is_taken(text: str) -> None:
    assert isinstance(without_docstrings(text), str)


UNPARSABLE = ["(" * 10_000, "-" * 100_000 + "1", "1" + "+1" * 100_000, "\0", "\ud800", "x = " + "9" * 9999]


@pytest.mark.parametrize("source", UNPARSABLE, ids=range(len(UNPARSABLE)))
def test_what_python_cannot_parse_is_left_as_it_is(source: str) -> None:
    assert without_docstrings(source) == source


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ('"""Module."""\n\nimport os\n', "\nimport os\n"),
        ('def f():\n    """Doc.\n\n    More.\n    """\n    return 1\n', "def f():\n    return 1\n"),
        ('class A:\n    """Doc."""\n', "class A:\n    pass\n"),
        ('class A: "Doc."', "class A: pass"),
        ('def f(): "Doc."; return 1', "def f(): return 1"),
        ('def f():\n    "Doc."  # noqa\n    return 1', "def f():\n      # noqa\n    return 1"),
        ('def f():\r\n    "Doc."\r\n    return 1\r\n', "def f():\r\n    return 1\r\n"),
        ('x = 1\n"""Of x."""\n', 'x = 1\n"""Of x."""\n'),
        ('def f():\n    f"no {doc}"\n', 'def f():\n    f"no {doc}"\n'),
        ('"""Only."""', ""),
    ],
)
def test_sources_and_what_is_left(source: str, result: str) -> None:
    assert without_docstrings(source) == result


def test_nothing_is_printed_about_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert without_docstrings('"doc"\nx = "\\d"\n') == 'x = "\\d"\n'
    assert capsys.readouterr() == ("", "")
