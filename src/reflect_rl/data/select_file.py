"""Select from a file: what to read for a strategy, the choice, the rows to write."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reflect_rl.data.pool_file import PoolFile, already_indices, read_array
from reflect_rl.data.tfidf import WIDTH, tfidf
from reflect_rl.errors import SelectionError
from reflect_rl.progress import Progress
from reflect_rl.selection import STRATEGIES, Picks, Selector, Uncertainty
from reflect_rl.selection.cost import Cost, estimate
from reflect_rl.selection.picks import check_budget


@dataclass(frozen=True, slots=True)
class Request:
    """What to select from a file. embeddings: a .npy file or a column; None: TF-IDF of the texts.

    budget: a number of items, or a share of the pool such as "10%". tokens: the column of what a model said of each
    token, for the strategies that rank by it; by default the one of that name (entropies, margins, logprobs).
    """

    path: Path
    strategy: Selector
    budget: str
    text: str = "text"
    id: str | None = None
    embeddings: str | None = None
    tokens: str | None = None
    scores: str | None = None
    groups: str | None = None
    already: Path | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """What was read. X: what the strategy takes; None where only sizes were asked for."""

    ids: list[Any]
    budget: int
    already: np.ndarray
    groups: list[Any] | None
    scores_N: np.ndarray | None
    X: Any


@dataclass(frozen=True, slots=True)
class Selection:
    """The picks, and the score of every item where the strategy has one."""

    pool: Pool
    picks: Picks
    name: str
    scores_N: np.ndarray | None

    def rows(self) -> Iterator[dict[str, Any]]:
        """One JSON object a pick, in order of choice."""
        for rank, (index, gain) in enumerate(zip(self.picks.indices, self.picks.gains, strict=True), 1):
            yield {
                "id": self.pool.ids[index],
                "rank": rank,
                "gain": _finite(gain),
                "strategy": self.name,
                "score": None if self.scores_N is None else _finite(float(self.scores_N[index])),
            }


def make_strategy(name: str, given: dict[str, Any]) -> Selector:
    """A strategy by its name, with those of the given settings that are not None. Raises SelectionError."""
    if name not in STRATEGIES:
        raise SelectionError(f"there is no strategy {name!r}. There are: {', '.join(STRATEGIES)}.")
    kind, settings = STRATEGIES[name], {key: value for key, value in given.items() if value is not None}
    inner = settings.pop("within", None)
    takes = kind.__init__.__annotations__
    own = {key: value for key, value in settings.items() if key in takes}
    rest = {key: value for key, value in settings.items() if key not in takes}
    place = next((key for key in ("within", "diverse") if key in takes), None)
    if place and (inner or rest):
        default = "facility-location" if place == "diverse" else "random"
        own[place], rest = make_strategy(inner or default, rest), {}
    elif inner:
        raise SelectionError(f"{name} has no strategy within it.")
    if rest:
        raise SelectionError(f"{name} has no setting {', '.join(rest)}.")
    return kind(**own)


def read_pool(request: Request, progress: Progress, *, sizes_only: bool = False) -> Pool:
    """Read what the strategy needs, and nothing else. Raises SelectionError."""
    file = PoolFile(request.path)
    ids = file.ids(request.id)
    if not ids:
        raise SelectionError(f"{request.path} has no items.")
    budget = parse_budget(request.budget, len(ids))
    already = already_indices(request.already, request.id, ids) if request.already else np.empty(0, np.int64)
    check_budget(budget, len(ids) - len(already))
    groups = file.labels(request.groups) if request.groups else None
    scores_N = file.numbers(request.scores) if request.scores else None
    request.strategy.check(scores_N, groups)
    X = None if sizes_only else _input(request, file, len(ids), progress)
    return Pool(ids, budget, already, groups, scores_N, X)


def select_file(request: Request, progress: Progress) -> Selection:
    """Read the pool and choose. Raises SelectionError."""
    pool = read_pool(request, progress)
    picks = request.strategy.select(
        pool.X, budget=pool.budget, already=pool.already, groups=pool.groups, scores=pool.scores_N, progress=progress
    )
    scores_N = pool.scores_N
    if isinstance(request.strategy, Uncertainty):
        scores_N = request.strategy.uncertainty(pool.X)
    return Selection(pool, picks, request.strategy.name, scores_N)


def expected_cost(request: Request, progress: Progress) -> tuple[Pool, Cost]:
    """(the pool's sizes, what the choice would cost), without choosing."""
    pool = read_pool(request, progress, sizes_only=True)
    width = 1
    if request.strategy.input == "embeddings":
        width = _width(request, len(pool.ids))
    return pool, estimate(request.strategy, len(pool.ids), width, pool.budget)


def parse_budget(text: str, size: int) -> int:
    """ "200" or "10%" as a number of items; a share is rounded to the nearest, and is at least one."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
    if not match or (not match[2] and "." in match[1]):
        raise SelectionError(f"--budget {text} should be a number of items, such as 2000, or a share, such as 10%.")
    if not match[2]:
        return int(match[1])
    if float(match[1]) > 100:
        raise SelectionError(f"--budget {text} is more than the whole pool.")
    return max(1, math.floor(size * float(match[1]) / 100 + 0.5)) if float(match[1]) else 0


def _input(request: Request, file: PoolFile, size: int, progress: Progress) -> Any:
    """What the strategy selects by."""
    strategy = request.strategy
    if strategy.input == "none":
        return size
    if strategy.input == "tokens":
        return list(file.lists(request.tokens or _quantity(strategy)))
    if request.embeddings is None:
        progress.say(f"no --embeddings: TF-IDF of {request.text!r}, {WIDTH} numbers a text")
        return tfidf(lambda: file.texts(request.text), size, progress)
    if request.embeddings.endswith(".npy"):
        return read_array(Path(request.embeddings), size)
    return file.vectors(request.embeddings, size)


def _quantity(strategy: Selector) -> str:
    """What a strategy that ranks by tokens, or the one within it, wants to know of each."""
    inner = getattr(strategy, "within", strategy)
    return inner.quantity if isinstance(inner, Uncertainty) else _quantity(inner)


def _width(request: Request, size: int) -> int:
    if request.embeddings is None:
        next(PoolFile(request.path).texts(request.text), None)  # that the column is there
        return WIDTH
    if request.embeddings.endswith(".npy"):
        return read_array(Path(request.embeddings), size).shape[1]
    return len(next(PoolFile(request.path).lists(request.embeddings)))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
