"""Embeddings without a model: TF-IDF of words and pairs of words, sketched into a fixed width.

Each word and each pair of neighbouring words is a term; its weight is (1 + log tf) (1 + log((1 + N) / (1 + df))).
Terms are hashed (CRC-32, equal everywhere and always), and each adds its weight, with a sign, to HASHES of the WIDTH
coordinates (the count sketch of Charikar et al. 2002), which keeps inner products in expectation. Texts are read
twice, none is kept.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from zlib import crc32

import numpy as np

from reflect_rl.progress import Progress

WIDTH = 512
TERMS = 2**20
"""Cells in which documents are counted."""
HASHES = 2
WORD = re.compile(r"\w+")


def tfidf(texts: Callable[[], Iterable[str]], size: int, progress: Progress, *, cells: bool = False) -> np.ndarray:
    """(size, WIDTH) float32, rows of length 1, zero for a text without terms. texts: gives them anew at each call.

    cells: a term is a character with its line and column, for texts that draw a picture.
    """
    terms = _cells if cells else _words
    documents_T = np.zeros(TERMS, np.int64)
    with progress.bar("tf-idf", 2 * size, "texts") as bar:
        for counts in map(terms, texts()):
            documents_T[[term % TERMS for term in counts]] += 1
            bar.update()
        rarity_T = 1 + np.log((1 + size) / (1 + documents_T))
        embeddings_ND = np.zeros((size, WIDTH), np.float32)
        for row, counts in zip(embeddings_ND, map(terms, texts()), strict=True):
            _sketch(row, counts, rarity_T)
            bar.update()
    return embeddings_ND


def _words(text: str) -> Counter[int]:
    """Words and pairs of words with how often they are there."""
    words = WORD.findall(text.lower())
    pairs = (f"{first} {second}" for first, second in pairwise(words))
    return Counter(crc32(term.encode()) for term in (*words, *pairs))


def _cells(text: str) -> Counter[int]:
    """Every character with its place."""
    places = (
        f"{line} {column} {character}"
        for line, row in enumerate(text.splitlines())
        for column, character in enumerate(row)
        if character != " "
    )
    return Counter(crc32(place.encode()) for place in places)


def _sketch(row_D: np.ndarray, counts: Counter[int], rarity_T: np.ndarray) -> None:
    if not counts:
        return
    terms = np.fromiter(counts.keys(), np.uint64, len(counts))
    weights = (1 + np.log(np.fromiter(counts.values(), float, len(counts)))) * rarity_T[terms % TERMS]
    for number in range(HASHES):
        mixed = (terms + np.uint64(number * 0x9E3779B9 + 1)) * np.uint64(0x9E3779B97F4A7C15)
        places, signs = (mixed >> np.uint64(40)) % np.uint64(WIDTH), (mixed >> np.uint64(63)).astype(float) * 2 - 1
        np.add.at(row_D, places.astype(np.int64), weights * signs)
    length = math.sqrt(float(row_D @ row_D))
    if length:
        row_D /= length
