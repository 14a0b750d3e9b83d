"""File names as one line of text."""

from __future__ import annotations

from functools import lru_cache

ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", '"': r"\""}


@lru_cache(maxsize=1 << 16)
def shown(name: str) -> str:
    r"""A name as one line of printable text; different names give different texts.

    A name is left as it is if it is printable, begins and ends with something that is seen, and does not begin with a
    quote. Otherwise it stands in double quotes: \xNN is a byte that is not UTF-8, \uNNNN or \UNNNNNNNN a character.

    Example:
        >>> shown("read me.txt"), shown("two\nlines"), shown(b"caf\xe9".decode(errors="surrogateescape"))
        ('read me.txt', '"two\\nlines"', '"caf\\xe9"')
    """
    if name and name.isprintable() and name[0] not in ' "' and name[-1] != " ":
        return name
    return f'"{"".join(map(_escaped, name))}"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in ESCAPES:
        return ESCAPES[character]
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # "surrogateescape": a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
