"""A name is shown as one line of text, and no two names look the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflect_rl.envs.autoexplore.names import shown

ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")
SIMPLE = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"'}
PIECES = [b'"', b"\\", b"n", b"\n", b"\\x41", b" ", b"\xff", b"u00e9", "é".encode()]
raw_names = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.text(min_size=1, max_size=20).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(st.sampled_from(PIECES), min_size=1).map(b"".join),
)


def name_of(line: str) -> str:
    """The name that a line shows."""
    if not line.startswith('"'):
        return line

    def character(found: re.Match[str]) -> str:
        byte, short, long, simple = found.groups()
        return chr(0xDC00 + int(byte, 16)) if byte else chr(int(short or long, 16)) if short or long else SIMPLE[simple]

    return ESCAPE.sub(character, line[1:-1])


@given(raw_names)
def test_a_name_is_one_printable_line_that_gives_the_name_back(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    line = shown(name)
    assert line.isprintable()
    assert line.encode().decode() == line.strip(" ")
    assert name_of(line).encode("utf-8", "surrogateescape") == raw


@given(st.text(st.characters(exclude_categories=[]), max_size=20))
def test_any_text_can_be_shown(text: str) -> None:
    assert shown(text).isprintable()
    assert name_of(shown(text)) == text


@given(raw_names, raw_names)
def test_different_names_look_different(one: bytes, other: bytes) -> None:
    lines = {shown(raw.decode("utf-8", "surrogateescape")) for raw in (one, other)}
    assert len(lines) == len({one, other})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.py", "a.py"),
        ("read me (1).txt", "read me (1).txt"),
        ("-rf", "-rf"),
        ("$(id)'`", "$(id)'`"),
        ('a"b\\n', 'a"b\\n'),
        ("目录", "目录"),
        ("", '""'),
        (" a", '" a"'),
        ("a ", '"a "'),
        ('"a"', r'"\"a\""'),
        ("a\nb", r'"a\nb"'),
        ("\u202egpj.exe", r'"\u202egpj.exe"'),
        ("a\xa0b", r'"a\u00a0b"'),
        ("\U000e0041", r'"\U000e0041"'),
        ("\udcff", r'"\xff"'),
        ("\xff", "ÿ"),
        ("\x80", r'"\u0080"'),
    ],
)
def test_names_and_their_lines(name: str, line: str) -> None:
    assert shown(name) == line
