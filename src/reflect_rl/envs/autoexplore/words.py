"""Words of code and English, how rare they are in the training repositories, and BM25 over them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.resources import files

import numpy as np

SUB_WORD = re.compile(r"[A-Z]{2,}s(?![a-z])|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+|\d+")
"""camelCase, HTTPAdapter, snake_case and sha256 fall apart; URLs and other scripts stay whole."""
STOP_WORDS = """
    a about after all also an and any are as at be because been before but by can do does each else etc every for from
    given has have if in into is it its just may more most not of on one only or other otherwise out over same should so
    some such than that the their them then there these they this those to too up use used uses using via was we were
    what when where whether which while who will with without you your
"""
VOWELS = frozenset("aeiouy")
K1, B = 1.2, 0.75
"""The usual constants of BM25: how soon repetition saturates, and how far long documents are discounted."""


def words(text: str) -> list[str]:
    """The sub-words of a text, lower-case and stemmed, without stop words and single characters."""
    return [stem for found in SUB_WORD.findall(text) if (stem := _stem(found))]


@cache
def _stop_words() -> frozenset[str]:
    return frozenset(STOP_WORDS.split())


@lru_cache(maxsize=1 << 16)
def _stem(found: str) -> str:
    """The stem of a sub-word: plural, -ing, -ed and a final e go, y becomes i. Empty for a stop word or a letter."""
    word = found.lower()
    if len(word) < 2 or word in _stop_words():
        return ""
    if word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) > 2 and not VOWELS.isdisjoint(rest) and not word.endswith("eed"):
            word = rest[:-1] if rest[-1] == rest[-2] and rest[-1] not in "lsz" else rest
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return f"{word[:-1]}i" if len(word) > 3 and word.endswith("y") else word


@dataclass(frozen=True)
class Words:
    """How many files hold a word.

    Args:
        files: Number of files that were counted.
        counts: Files by word; a word that is not there was too rare to be kept.
    """

    files: int
    counts: Mapping[str, int]

    def idf(self, word: str) -> float:
        """Inverse document frequency as in BM25, above 0.

        A word that is not in the table counts as if half as many files held it as hold the rarest one that is.
        """
        return inverse_document_frequency(self.counts.get(word, self._rarest / 2), self.files)

    @cached_property
    def _rarest(self) -> int:
        return min(self.counts.values(), default=0)


@cache
def train_words() -> Words:
    """The table that ships: counted over the training repositories of the ready-made tasks, and nothing else."""
    data = json.loads(files("reflect_rl.envs.autoexplore").joinpath("words.json").read_text(encoding="utf-8"))
    return Words(data["files"], data["words"])


def inverse_document_frequency(holding: float, documents: int) -> float:
    """BM25's weight of a word that `holding` of `documents` documents hold; always above 0."""
    return math.log(1 + (documents - holding + 0.5) / (holding + 0.5))


class Bm25:
    """Okapi BM25 over fixed documents (Robertson and Zaragoza, 2009).

    Args:
        documents: The words of each document.
        table: Gives a word's weight; by default it is counted over the documents.
    """

    def __init__(self, documents: Iterable[Sequence[str]], table: Words | None = None) -> None:
        postings: dict[str, tuple[list[int], list[int]]] = {}
        lengths: list[int] = []
        for index, document in enumerate(documents):
            lengths.append(len(document))
            for word, count in Counter(document).items():
                found = postings.setdefault(word, ([], []))
                found[0].append(index)
                found[1].append(count)
        self.size = len(lengths)
        lengths_D = np.array(lengths, np.float64)
        self._norm_D = K1 * (1 - B + B * lengths_D / max(1.0, lengths_D.mean() if lengths else 1.0))
        self._postings = {word: (np.array(ids), np.array(counts)) for word, (ids, counts) in postings.items()}
        self._table = table

    def scores(self, query: Iterable[str]) -> np.ndarray:
        """The score of each document, (documents,) float64, 0 where no word of the query occurs."""
        scores_D = np.zeros(self.size)
        for word in dict.fromkeys(query):
            if word not in self._postings:
                continue
            ids_P, counts_P = self._postings[word]
            weight = self._table.idf(word) if self._table else inverse_document_frequency(len(ids_P), self.size)
            scores_D[ids_P] += weight * counts_P * (K1 + 1) / (counts_P + self._norm_D[ids_P])
        return scores_D
