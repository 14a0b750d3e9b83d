"""What needs no learning: searchers that act step by step, and rankings of all files with the whole tree in view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from reflect_rl.envs.autoexplore.words import Bm25, train_words, words
from reflect_rl.envs.autoexplore.world import AutoExplore
from reflect_rl.envs.checked import advance, begin
from reflect_rl.progress import Progress
from reflect_rl.records import StopReason
from reflect_rl.seeding import stream

Rank = Callable[[str, Sequence[str]], np.ndarray]
"""(question, (files,) texts) -> (files,) scores, the highest for the answer."""
Choose = Callable[[AutoExplore, Sequence[str], np.random.Generator], int]
"""(world, actions, random numbers) -> the choice."""
Outcomes = Mapping[str, Sequence[bool]]
"""Whether the answer was found, by the kind of tree."""


def _first(env: AutoExplore, actions: Sequence[str], draw: np.random.Generator) -> int:
    return env.expert()


def _drawn(env: AutoExplore, actions: Sequence[str], draw: np.random.Generator) -> int:
    return int(draw.choice(sorted(env.expert_set())))


def _random(env: AutoExplore, actions: Sequence[str], draw: np.random.Generator) -> int:
    return int(draw.integers(len(actions)))


PLAYERS: Mapping[str, tuple[str, Choose]] = {
    "random moves": ("searcher", _random),
    "searcher": ("searcher", _first),
    "searcher, ties drawn": ("searcher", _drawn),
    "leaf-searcher": ("leaf-searcher", _first),
    "leaf-searcher, ties drawn": ("leaf-searcher", _drawn),
}
"""The step-by-step players: an expert, and how it moves. Of moves that it thinks equally good, it takes the one that
is listed first, so the first by name, or draws one."""


def by_names(rank: Rank) -> Choose:
    """Of moves that the expert thinks equally good, take the one whose path is ranked first."""

    def choose(env: AutoExplore, actions: Sequence[str], draw: np.random.Generator) -> int:
        moves = sorted(env.expert_set())
        if len(moves) == 1:
            return moves[0]
        return moves[int(np.argmax(rank(env.question, [env.path_of(move) for move in moves])))]

    return choose


def bm25(question: str, texts: Sequence[str]) -> np.ndarray:
    """BM25 with the word weights of the train repositories."""
    return Bm25(map(words, texts), train_words()).scores(words(question))


def ranked(env: AutoExplore, split: str, rank: Rank, progress: Progress, names_only: bool = False) -> Outcomes:
    """Whether the file that is ranked first, of all that a task's tree shows, is the answer.

    Args:
        env: The world.
        split: The tasks.
        rank: Scores the files, which are read whole; of equal scores the first counts.
        progress: Shows how many tasks are done.
        names_only: Rank the paths instead of the texts.
    """

    def is_found(task: str) -> bool:
        begin(env, 0, {"task": task})
        files = list(env.view.all_files())
        texts = [env.view.path(node) if names_only else env.reader.whole(node) for node in files]
        return files[int(np.argmax(rank(env.question, texts)))] == env.target

    return _of_all(env, split, is_found, progress)


def played(env: AutoExplore, split: str, progress: Progress, choose: Choose) -> Outcomes:
    """Whether a player succeeds within the horizon. choose: its moves."""

    def is_found(task: str) -> bool:
        draw = stream(0, f"baseline {task}")
        _, actions, _ = begin(env, 0, {"task": task})
        stop = None
        while stop is None:
            _, actions, _, stop = advance(env, choose(env, actions, draw))
        return stop is StopReason.SUCCESS

    return _of_all(env, split, is_found, progress)


def _of_all(env: AutoExplore, split: str, is_found: Callable[[str], bool], progress: Progress) -> Outcomes:
    found: dict[str, list[bool]] = defaultdict(list)
    tasks = env.tasks(split)
    with progress.bar("play", len(tasks), "tasks") as bar:
        for task in tasks:
            found[env.kind(task)].append(is_found(task))
            bar.update()
    return found


def measure(
    make: Callable[..., AutoExplore],
    split: str,
    horizons: Sequence[int],
    progress: Progress,
    embed: Rank | None = None,
    names: Rank | None = None,
) -> Iterator[tuple[str, str, Outcomes]]:
    """All baselines, as (name, horizon, outcomes); the horizon is "-" where no step is made.

    Args:
        make: Makes the world, with more options.
        split: The tasks.
        horizons: Those under which the step-by-step players are measured.
        progress: Shows what is done.
        embed: Ranks files by embeddings of their texts; None leaves that out.
        names: Ranks files and folders by what their paths say to a model; None leaves that out.
    """
    world, players = make(), dict(PLAYERS)
    yield "BM25 of names, whole tree in view", "-", ranked(world, split, bm25, progress, names_only=True)
    if names is not None:
        yield "a model's view of names, whole tree in view", "-", ranked(world, split, names, progress, names_only=True)
        players["leaf-searcher, ties by a model's view of names"] = "leaf-searcher", by_names(names)
    yield "BM25 of texts, whole tree in view", "-", ranked(world, split, bm25, progress)
    if embed is not None:
        yield "embeddings of texts, whole tree in view", "-", ranked(world, split, embed, progress)
    for horizon in horizons:
        for name, (expert, choose) in players.items():
            yield name, str(horizon), played(make(horizon=horizon, expert=expert), split, progress, choose)
