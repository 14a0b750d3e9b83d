"""Which other file of a repository answers a question as well: BM25 over its texts and its docstrings' sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reflect_rl.envs.autoexplore.pages import decoded, text_of
from reflect_rl.envs.autoexplore.questions import Docstring, docstrings, may_be_target
from reflect_rl.envs.autoexplore.tree import Tree, UnreadableError
from reflect_rl.envs.autoexplore.words import Bm25, words

TEXT_SHARE, SENTENCE_SHARE = 0.8, 0.6
"""A question is ambiguous if another file's text, or the first sentence of another file's docstring, reaches this share
of the score of its own."""


@dataclass(frozen=True, slots=True)
class Rival:
    """The other file that answers a question best.

    Attributes:
        path: The file; empty if no other shares a word with the question.
        share: From 0; from 1 up it answers as well as the target.
    """

    path: str
    share: float


class Library:
    """BM25 over the texts of a repository's files, and over the first sentences of their docstrings.

    A file's text holds its docstrings and what is left without them, so another file is a rival by either.

    Args:
        tree: The repository.
        read: Called for each file.

    Attributes:
        paths: The files that could be read.
        targets: Indices of the files that questions may ask for.
        candidates: (index of the file, docstring): docstrings of public things in these.
    """

    def __init__(self, tree: Tree, read: Callable[[], object] = lambda: None) -> None:
        self._tree, self._read_one = tree, read
        self.paths: list[str] = []
        self.targets: list[int] = []
        self.candidates: list[tuple[int, Docstring]] = []
        self._sentences: list[list[str]] = []
        self._owners: list[int] = []
        self._texts = Bm25(self._read())
        self._firsts = Bm25(self._sentences)
        self._owner_S = np.array(self._owners, np.int64)

    def _read(self) -> Iterator[list[str]]:
        for node in range(len(self._tree)):
            if not self._tree.is_file(node):
                continue
            self._read_one()
            try:
                data = self._tree.read(node)
            except UnreadableError:
                continue
            path, index = self._tree.path(node), len(self.paths)
            self.paths.append(path)
            if may_be_target(path):
                self.targets.append(index)
            for each in docstrings(decoded(data)) if path.endswith((".py", ".pyi")) else ():
                self._sentences.append(words(each.sentence))
                self._owners.append(index)
                if each.public and self.targets[-1:] == [index] and (each.symbol or not path.endswith("__init__.py")):
                    self.candidates.append((index, each))
            yield words(text_of(data))

    def rival(self, target: int, question: str) -> Rival:
        """The strongest rival of a file for a question. target: index into `paths`.

        First sentences are compared only with a question that is one: of other questions, no sentence of the target's
        own could be the measure.
        """
        asked = words(question)
        texts_F, own = self._texts.scores(asked), self._owner_S == target
        found = [self._strongest(texts_F, np.arange(len(self.paths)) == target, range(len(self.paths)), TEXT_SHARE)]
        if any(self._sentences[index] == asked for index in np.flatnonzero(own)):
            found.append(self._strongest(self._firsts.scores(asked), own, self._owners, SENTENCE_SHARE))
        rival = max(found, key=lambda rival: rival.share)
        return rival if rival.share else Rival("", 0.0)

    def _strongest(self, scores: np.ndarray, own: np.ndarray, owners: Sequence[int], share: float) -> Rival:
        """The rival with the best score. own: which scores are the target's. owners: whose each is."""
        measure = max(float(scores[own].max()), 1e-9)
        other = int(np.where(own, 0.0, scores).argmax())
        score = 0.0 if own[other] else float(scores[other])
        return Rival(self.paths[owners[other]], score / measure / share)
