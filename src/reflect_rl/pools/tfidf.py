"""Embeddings without a model: TF-IDF of words and word pairs, sketched into a fixed width.

Terms are words and pairs of neighbouring words. A term's weight is (1 + log tf) (1 + log((1 + N) / (1 + df))). In
scripts without spaces between words (Chinese, Japanese, Thai) each character is a word, as is each emoji or other
symbol beyond ASCII.

Terms are hashed with BLAKE2b, which is the same on every machine. Each term adds its weight, with a sign, to two of the
WIDTH coordinates: the count sketch of Charikar et al. (2002), with two distinct coordinates as in Kane and Nelson
(2014). It preserves inner products in expectation. Texts are read twice and never kept.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from unicodedata import category, normalize

import numpy as np

from reflect_rl.progress import Progress

WIDTH = 512
TERMS = 2**20
"""Number of cells for document counts."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf\ua980-\uaadf"  # Thai, Lao, Burmese, Khmer, Javanese, ...
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"  # Japanese, Chinese, Korean
    "\U00020000-\U0003ffff"  # rare Chinese characters
)
"""Scripts without spaces between words; and Korean, which has spaces, but attaches endings to words."""
MARKS = "".join(chr(code) for code in range(0x300, 0x3000) if category(chr(code))[0] == "M")
r"""Accents and vowel signs, which \w excludes; without them, words of many Indic scripts would be split."""
ASCII_WORD = re.compile(r"\w+")
WORD = re.compile(
    rf"[{UNSPACED}]|[^\W{UNSPACED}](?:[^\W{UNSPACED}]|[{MARKS}])*|[^\w\s\x00-\x7f\ufe00-\ufe0f]"  # fe0f: "as an emoji"
)
PUNCTUATION = frozenset(("Cc", "Cf", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Zl", "Zp", "Zs"))
"""Unicode categories of characters that are not words by themselves."""


def tfidf(texts: Callable[[], Iterable[str]], size: int, progress: Progress, *, cells: bool = False) -> np.ndarray:
    """(size, WIDTH) float32 embeddings with rows of length 1; rows of texts without terms are 0, with a warning.

    texts: returns a new iterator over the texts at each call. cells: terms are characters with their line and column,
    for texts that draw a picture.
    """
    terms = _cells if cells else _words
    documents_T = np.zeros(TERMS, np.int64)
    empty = 0
    with progress.bar("tf-idf", 2 * size, "texts") as bar:
        for counts in map(terms, texts()):
            documents_T[[term % TERMS for term in counts]] += 1
            empty += not counts
            bar.update()
        rarity_T = 1 + np.log((1 + size) / (1 + documents_T))
        embeddings_ND = np.zeros((size, WIDTH), np.float32)
        for row, counts in zip(embeddings_ND, map(terms, texts()), strict=True):
            _sketch(row, counts, rarity_T)
            bar.update()
    if empty:
        progress.warn(
            f"TF-IDF: no word or symbol in {empty:,} of {size:,} texts; they count as equal, and unlike the others"
        )
    return embeddings_ND


def words(text: str) -> list[str]:
    """The words of a text in lower case; characters in scripts without spaces, and symbols beyond ASCII.

    Equivalent spellings of a character (composed or not, full or half width) are unified.
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    found = WORD.findall(normalize("NFKC", text).lower())
    return [word for word in found if len(word) > 1 or category(word) not in PUNCTUATION]


@lru_cache(maxsize=2**16)
def term_hash(term: str) -> int:
    """A 64-bit hash; `sketch_places` and the document counts use different bits of it."""
    return int.from_bytes(blake2b(term.encode(), digest_size=8).digest(), "little")


def sketch_places(terms_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coordinates (2, K), signs (2, K)) of hashed terms (uint64). A term's two coordinates always differ."""
    first_K = (terms_K >> np.uint64(20)) % np.uint64(WIDTH)
    second_K = (first_K + 1 + (terms_K >> np.uint64(29)) % np.uint64(WIDTH - 1)) % np.uint64(WIDTH)
    bits_K = np.stack([terms_K >> np.uint64(63), terms_K >> np.uint64(62) & np.uint64(1)])
    return np.stack([first_K, second_K]).astype(np.int64), bits_K.astype(float) * 2 - 1


def _words(text: str) -> Counter[int]:
    """Counts of words and word pairs."""
    found = words(text)
    pairs = (f"{first} {second}" for first, second in pairwise(found))
    return Counter(map(term_hash, (*found, *pairs)))


def _cells(text: str) -> Counter[int]:
    """Counts of characters with their positions."""
    places = (
        f"{line} {column} {character}"
        for line, row in enumerate(text.splitlines())
        for column, character in enumerate(row)
        if character != " "
    )
    return Counter(map(term_hash, places))


def _sketch(row_D: np.ndarray, counts: Counter[int], rarity_T: np.ndarray) -> None:
    if not counts:
        return
    terms_K = np.fromiter(counts.keys(), np.uint64, len(counts))
    weights_K = (1 + np.log(np.fromiter(counts.values(), float, len(counts)))) * rarity_T[terms_K % TERMS]
    places, signs = sketch_places(terms_K)
    np.add.at(row_D, places, weights_K * signs)
    length = math.sqrt(float(row_D @ row_D))
    if length:
        row_D /= length
