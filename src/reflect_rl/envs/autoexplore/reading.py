"""What `cat` shows: the pages of a file and the words on them, remembered for all episodes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reflect_rl.envs.autoexplore.pages import paginate, text_of
from reflect_rl.envs.autoexplore.tree import Tree, UnreadableError
from reflect_rl.envs.autoexplore.words import words

REMEMBERED = 50_000_000
"""Characters of pages that one reader remembers."""
NOWHERE = np.array([], np.intp)
_numbers: dict[str, int] = {}
"""The words of all pages in this process, numbered as they come."""


@dataclass(frozen=True)
class Page:
    """A page of a file.

    Attributes:
        text: What stands on it.
        number: From 1.
        pages: How many the file has.
    """

    text: str
    number: int
    pages: int

    @cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray]:
        """(words,) uint32, the words in order, as numbers; (lines,) uint32, how many there are up to a line's end."""
        lines = [words(line) for line in self.text.split("\n")]
        numbers = (_numbers.setdefault(word, len(_numbers)) for line in lines for word in line)
        return np.fromiter(numbers, np.uint32), np.cumsum([len(line) for line in lines], dtype=np.uint32)

    @property
    def length(self) -> int:
        """Number of words."""
        return len(self._words[0])

    def count(self, word: str) -> int:
        """How often a word stands on the page."""
        return len(self._places(word))

    def lines_with(self, word: str) -> list[int]:
        """The lines that hold a word, from 0, as often as they hold it."""
        places = self._places(word)
        return np.searchsorted(self._words[1], places, side="right").tolist() if len(places) else []

    def _places(self, word: str) -> np.ndarray:
        numbers, _ = self._words  # first: this numbers the words that no page had before
        return np.flatnonzero(numbers == _numbers[word]) if word in _numbers else NOWHERE


class Reader:
    """Reads the files of a tree, each once as long as there is room for it.

    Args:
        tree: The indexed repository.
        characters: Most characters on a page.
        docstrings: Whether the docstrings of Python files are shown.
    """

    def __init__(self, tree: Tree, characters: int, docstrings: bool) -> None:
        self.tree, self.characters, self.docstrings = tree, characters, docstrings
        self._known: OrderedDict[int, tuple[Page, ...]] = OrderedDict()
        self._held = 0

    def pages(self, node: int) -> tuple[Page, ...]:
        """The pages of a file, at least one. A file that cannot be read has one, which says why."""
        if (known := self._known.get(node)) is not None:
            self._known.move_to_end(node)
            return known
        texts = paginate(self._text(node), self.characters)
        pages = tuple(Page(text, number, len(texts)) for number, text in enumerate(texts, 1))
        self._known[node] = pages
        self._held += sum(map(len, texts))
        while self._held > REMEMBERED and len(self._known) > 1:
            _, gone = self._known.popitem(last=False)
            self._held -= sum(len(page.text) for page in gone)
        return pages

    def whole(self, node: int) -> str:
        """All pages of a file as one text."""
        return "".join(page.text for page in self.pages(node))

    def _text(self, node: int) -> str:
        is_python = self.tree.name(node).endswith((".py", ".pyi"))
        try:
            return text_of(self.tree.read(node), docstrings=self.docstrings or not is_python)
        except UnreadableError as error:
            return f"This file cannot be read: {error.reason}."
