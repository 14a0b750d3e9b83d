"""A question as words, and how well a page matches it."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from reflect_rl.envs.autoexplore.reading import Page
from reflect_rl.envs.autoexplore.words import K1, B, Words, words

USUAL_LENGTH = 1000
"""Words of a usual file, for BM25's length normalisation: a player does not know the repository's mean."""


class Query:
    """The distinct words of a question, weighted by how rare they are in the train repositories.

    Args:
        question: A question in natural language.
        table: Says how rare words are.
    """

    def __init__(self, question: str, table: Words) -> None:
        self.weights = {word: table.idf(word) for word in words(question)}
        self._most = (K1 + 1) * sum(self.weights.values()) or 1.0

    def match(self, pages: Collection[Page]) -> float:
        """BM25 of the pages of a file, as a share of the most that any text can reach: from 0 to 1."""
        norm = K1 * (1 - B + B * sum(page.length for page in pages) / USUAL_LENGTH)
        found = ((weight, sum(page.count(word) for page in pages)) for word, weight in self.weights.items())
        return sum(weight * count * (K1 + 1) / (count + norm) for weight, count in found) / self._most

    def found(self, page: Page) -> int:
        """How many words of the question stand on a page."""
        return sum(page.count(word) > 0 for word in self.weights)

    def excerpt(self, page: Page, most: int) -> str:
        """The lines of a page that share most words with the question, by weight, in the page's order.

        Args:
            page: The page.
            most: Number of lines; there are fewer if fewer share a word.
        """
        shared: dict[int, float] = {}
        for word, weight in self.weights.items():
            for line in set(page.lines_with(word)):
                shared[line] = shared.get(line, 0.0) + weight
        best = sorted(shared, key=lambda line: (-shared[line], line))
        lines = page.text.split("\n")
        return "\n".join(lines[line].strip() for line in sorted(best[:most]))

    def named(self, path: str) -> int:
        """How many words of the question stand in a path."""
        return len(self.weights.keys() & _of_path(path))


@lru_cache(maxsize=10_000)
def _of_path(path: str) -> frozenset[str]:
    return frozenset(words(path))
