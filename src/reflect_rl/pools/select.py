"""Selection from a file: read what a strategy needs, select, and format the picks."""

from __future__ import annotations

import math
import os.path
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.pools.file import PoolFile, already_indices, read_array
from reflect_rl.pools.model_reads import ModelReads, ModelUse
from reflect_rl.pools.tfidf import WIDTH, tfidf
from reflect_rl.progress import Progress
from reflect_rl.selection import (
    STRATEGIES,
    InverseConfidence,
    MeanEntropy,
    Picks,
    Selector,
    UncertainThenDiverse,
    Uncertainty,
)
from reflect_rl.selection.cost import Cost, estimate
from reflect_rl.selection.picks import check_budget

TEXT = "text"
"""The column of the texts by default."""
UNUSED_WITHIN = {
    "equal-budget": {"quotas"},
    "inverse-confidence": {"quotas", "quality"},
    "uncertain-then-diverse": {"quality"},
}
"""Settings that have no effect on the strategy within another, which shares the budget or uses the scores itself."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to select from a file.

    embeddings: a .npy file or a column; by default from the model of `use`, or TF-IDF without one. budget: a number of
    items, or a share of the pool such as "10%". tokens: the column with a model's figures for each token, for
    strategies that rank by these; by default named after the quantity (entropies, margins, logprobs). use: the model
    that computes them instead.
    """

    path: Path
    strategy: Selector
    budget: str
    text: str = TEXT
    id: str | None = None
    embeddings: str | None = None
    tokens: str | None = None
    scores: str | None = None
    groups: str | None = None
    already: Path | None = None
    use: ModelUse = field(default_factory=ModelUse)

    @property
    def needs_tokens(self) -> bool:
        """Whether the strategy ranks by figures for each token."""
        return self.strategy.input == "tokens"

    @property
    def needs_scores(self) -> bool:
        """Whether the model has to compute scores, because no column gives them."""
        kinds = (UncertainThenDiverse, InverseConfidence)
        return self.use.model is not None and self.scores is None and isinstance(self.strategy, kinds)

    @property
    def needs_states(self) -> bool:
        """Whether the strategy needs embeddings that are not given."""
        return self.strategy.input == "embeddings" and self.embeddings is None

    @property
    def array(self) -> Path | None:
        """The .npy file with the embeddings; None if they are a column or not given."""
        return Path(self.embeddings) if self.embeddings and self.embeddings.lower().endswith(".npy") else None

    def check(self) -> None:
        """Raise SelectionError if models, columns and strategy do not fit together."""
        use = self.use
        use.check()
        ending = Path(self.embeddings or "").suffix
        if ending and not self.array and (ending.lower() == ".npz" or os.path.isfile(self.embeddings or "")):
            raise SelectionError(
                f"--embeddings {self.embeddings} is no .npy file. Save the array, with a row an item, by numpy.save; "
                f"or name a column of the pool."
            )
        if self.embeddings is not None and self.strategy.input != "embeddings":
            raise SelectionError(f"{self.strategy.name} uses no embeddings: leave out --embeddings.")
        if self.tokens is not None and not self.needs_tokens:
            raise SelectionError(f"{self.strategy.name} does not rank by tokens: leave out --tokens-column.")
        if use.model and self.tokens is not None:
            raise SelectionError(f"--model would compute what --tokens-column {self.tokens} gives: leave one out.")
        if use.embed_model and self.embeddings is not None:
            raise SelectionError(
                f"--embed-model would compute what --embeddings {self.embeddings} gives: leave one out."
            )
        if use.embed_model and not self.needs_states:
            raise SelectionError(f"{self.strategy.name} uses no embeddings: leave out --embed-model.")
        scores = self.needs_tokens or self.needs_scores
        if use.model and not scores and not (self.needs_states and not use.embed_model):
            raise SelectionError(f"{self.strategy.name} has no use for --model here: leave it out.")
        if (use.target is not None or use.new_tokens) and not scores:
            raise SelectionError(f"{self.strategy.name} scores no tokens: leave out --new-tokens and --target-column.")
        if (use.layer is not None or use.pooling) and not self.needs_states:
            raise SelectionError(f"{self.strategy.name} uses no hidden states here: leave out --layer and --pooling.")


@dataclass(frozen=True, slots=True)
class Pool:
    """The pool as read. X: the strategy's input; None if only sizes were requested."""

    ids: list[Any]
    budget: int
    already: np.ndarray
    groups: list[Any] | None
    scores_N: np.ndarray | None
    X: Any
    reads: ModelReads


@dataclass(frozen=True, slots=True)
class Selection:
    """The picks, with a score for every item if the strategy has one."""

    pool: Pool
    picks: Picks
    name: str
    scores_N: np.ndarray | None

    def rows(self) -> Iterator[dict[str, Any]]:
        """One JSON object per pick, in order of choice."""
        for rank, (index, gain) in enumerate(zip(self.picks.indices, self.picks.gains, strict=True), 1):
            yield {
                "id": self.pool.ids[index],
                "rank": rank,
                "gain": _finite(gain),
                "strategy": self.name,
                "score": None if self.scores_N is None else _finite(float(self.scores_N[index])),
            }


def make_strategy(name: str, given: dict[str, Any]) -> Selector:
    """Make a strategy by name; settings that are None are ignored. Raises SelectionError."""
    if name not in STRATEGIES:
        raise SelectionError(f"there is no strategy {name!r}. There are: {', '.join(STRATEGIES)}.")
    kind, settings = STRATEGIES[name], {key: value for key, value in given.items() if value is not None}
    inner: str | None = settings.pop("within", None)
    takes = kind.__init__.__annotations__
    own = {key: value for key, value in settings.items() if key in takes}
    rest = {key: value for key, value in settings.items() if key not in takes}
    place = next((key for key in ("within", "diverse") if key in takes), None)
    if unused := sorted(rest.keys() & UNUSED_WITHIN.get(name, set())):
        raise SelectionError(f"{name} has no setting {', '.join(unused)}.")
    if place and (inner is not None or rest):
        default = "facility-location" if place == "diverse" else "random"
        own[place], rest = make_strategy(default if inner is None else inner, rest), {}
    elif inner is not None:
        raise SelectionError(f"{name} has no strategy within it.")
    if rest:
        raise SelectionError(f"{name} has no setting {', '.join(rest)}.")
    return kind(**own)


def _check_strategy(request: Request, scores_N: np.ndarray | None, groups: list[Any] | None) -> None:
    """Run the strategy's own check; its error also names the options that provide missing input."""
    try:
        request.strategy.check(scores_N, groups)
    except SelectionError as error:
        options = "--score-column gives scores (an uncertainty comes from --model too), --quota-column gives groups."
        raise SelectionError(f"{error} {options}") from None


def read_pool(request: Request, progress: Progress, *, sizes_only: bool = False) -> Pool:
    """Read only what the strategy needs. Raises SelectionError."""
    request.check()
    file = PoolFile(request.path)
    named = (None if request.text == TEXT else request.text, request.tokens, request.use.target)
    next(file.rows([column for column in named if column is not None]), None)  # raises if one is missing
    ids = file.ids(request.id)
    if not ids:
        raise SelectionError(f"{request.path} has no items.")
    if request.needs_tokens and not request.use.model and request.tokens is None:
        quantity = _quantity(request.strategy)
        if quantity not in file.columns():
            raise SelectionError(
                f"{request.strategy.name} needs the {quantity} of each item's tokens: --model computes them, "
                f"--tokens-column names a column of lists. {request.path} has no column {quantity!r}, the default."
            )
    budget = parse_budget(request.budget, len(ids))
    if request.already and request.id is None and "id" in file.columns():
        progress.warn(
            f"The ids in {request.already} are taken as row numbers of {request.path}, which has a column 'id': add "
            f"--id-column id if they are those."
        )
    already = already_indices(request.already, request.id, ids) if request.already else np.empty(0, np.int64)
    check_budget(budget, len(ids) - len(already))
    groups = file.labels(request.groups) if request.groups is not None else None
    scores_N = file.numbers(request.scores) if request.scores is not None else None
    _check_strategy(request, np.ones(len(ids)) if request.needs_scores else scores_N, groups)
    reads = ModelReads(file, request.text, len(ids), request.use, progress)
    X = None
    if not sizes_only:
        scores_N = _scores(request, reads) if request.needs_scores else scores_N
        X = _input(request, file, reads, len(ids), progress)
    return Pool(ids, budget, already, groups, scores_N, X, reads)


def select_file(request: Request, progress: Progress) -> Selection:
    """Read the pool and select. Raises SelectionError."""
    with request.use.torch():
        pool = read_pool(request, progress)
    picks = request.strategy.select(
        pool.X, budget=pool.budget, already=pool.already, groups=pool.groups, scores=pool.scores_N, progress=progress
    )
    scores_N = pool.scores_N
    if isinstance(request.strategy, Uncertainty):
        scores_N = request.strategy.uncertainty(pool.X)
    return Selection(pool, picks, request.strategy.name, scores_N)


def expected_cost(request: Request, progress: Progress) -> tuple[Pool, Cost, str]:
    """(the pool's sizes, the cost of selecting, the expected model calls in words), without selecting."""
    pool = read_pool(request, progress, sizes_only=True)
    calls = []
    if request.use.model and (request.needs_tokens or request.needs_scores):
        calls.append(pool.reads.expected())
    width = 1
    if request.strategy.input == "embeddings":
        width = _width(request, pool)
        if request.needs_states and request.use.embeds:
            calls.append(pool.reads.expected_states())
    return pool, estimate(request.strategy, len(pool.ids), width, pool.budget), "; ".join(calls) or "no model calls"


def parse_budget(text: str, size: int) -> int:
    """Parse a budget such as "200" or "10%" into a number of items, 1 or more. Raises SelectionError."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*(%?)\s*", text)
    if not match or (not match[2] and "." in match[1]):
        raise SelectionError(f"--budget {text} should be a number of items, such as 2000, or a share, such as 10%.")
    if not float(match[1]):
        raise SelectionError(f"--budget {text} picks nothing. Ask for 1 item or more.")
    if not match[2]:
        return int(match[1])
    if float(match[1]) > 100:
        raise SelectionError(f"--budget {text} is more than the whole pool.")
    return max(1, math.floor(size * float(match[1]) / 100 + 0.5))


def _input(request: Request, file: PoolFile, reads: ModelReads, size: int, progress: Progress) -> Any:
    """The strategy's input."""
    strategy = request.strategy
    if strategy.input == "none":
        return size
    if strategy.input == "tokens":
        if request.use.model:
            return reads.tokens(_quantity(strategy))
        return list(file.lists(_quantity(strategy) if request.tokens is None else request.tokens))
    if request.embeddings is None:
        if request.use.embeds:
            return reads.states()
        progress.say(f"no --embeddings: TF-IDF of {request.text!r}, {WIDTH} numbers a text")
        return tfidf(lambda: file.texts(request.text), size, progress)
    if request.array:
        return read_array(request.array, size)
    return file.vectors(request.embeddings, size)


def _scores(request: Request, reads: ModelReads) -> np.ndarray:
    """(N,) scores computed by the model: mean entropy, or confidence in (0, 1]."""
    if isinstance(request.strategy, UncertainThenDiverse):
        reads.progress.say("no --score-column: items are uncertain by the mean entropy of the model's tokens")
        return MeanEntropy().uncertainty(reads.tokens("entropies"))
    reads.progress.say("no --score-column: confidence is the geometric mean of the tokens' probabilities")
    return np.exp(reads.tokens("logprobs").mean()).clip(min=1e-12)


def _quantity(strategy: Selector) -> str:
    """The quantity per token by which a strategy, or the one inside it, ranks."""
    inner = getattr(strategy, "within", strategy)
    return inner.quantity if isinstance(inner, Uncertainty) else _quantity(inner)


def _width(request: Request, pool: Pool) -> int:
    if request.embeddings is None:
        next(PoolFile(request.path).texts(request.text), None)  # raises if the column is missing
        return pool.reads.width if request.use.embeds else WIDTH
    if request.array:
        return read_array(request.array, len(pool.ids)).shape[1]
    return len(next(PoolFile(request.path).lists(request.embeddings)))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
