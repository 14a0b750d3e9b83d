"""What needs no learning: searchers that act step by step, and rankings of all files with the whole tree in view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reflect_rl.envs.autoexplore.world import AutoExplore
from reflect_rl.envs.autoexplore.words import Bm25, train_words, words
from reflect_rl.envs.checked import advance, begin
from reflect_rl.records import StopReason
from reflect_rl.seeding import stream

Rank = Callable[[str, Sequence[str]], np.ndarray]
"""(question, (files,) texts) -> (files,) scores, the highest for the answer."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a baseline did on the tasks of a split. kinds: the kind of tree of each; successes: whether it was found."""

    name: str
    kinds: tuple[str, ...]
    successes: tuple[bool, ...]


def bm25(question: str, texts: Sequence[str]) -> np.ndarray:
    """BM25 with the word weights of the train repositories."""
    return Bm25(map(words, texts), train_words()).scores(words(question))


def rank_tree(env: AutoExplore, task: str, rank: Rank, names_only: bool = False) -> bool:
    """Whether the file that is ranked first, of all that the task's tree shows, is the answer.

    Args:
        env: The world, whose `page` is not looked at: files are ranked whole.
        task: The task.
        rank: Scores the files; of equal scores the first counts.
        names_only: Rank the paths instead of the texts.
    """
    begin(env, 0, {"task": task})
    files = list(env.view.all_files())
    texts = [env.view.path(node) if names_only else env.reader.whole(node) for node in files]
    return files[int(np.argmax(rank(env.question, texts)))] == env.target


def play(env: AutoExplore, task: str, seed: int, is_random: bool) -> bool:
    """Whether the world's expert, or a random player, succeeds at a task within the horizon."""
    draw = stream(seed, f"random player {task}")
    _, actions, _ = begin(env, seed, {"task": task})
    stop = None
    while stop is None:
        _, actions, _, stop = advance(env, int(draw.integers(len(actions))) if is_random else env.expert())
    return stop is StopReason.SUCCESS
