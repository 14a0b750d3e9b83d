"""Scores of generated tokens, a list for each item, and the base of the strategies that rank by them."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.selection.arrays import as_floats
from reflect_rl.selection.picks import Input, Picks, Selector, Task, top_picks


@dataclass(frozen=True, slots=True)
class Tokens:
    """values_T: one number a generated token, all items one after the other. lengths_N: tokens of each item."""

    values_T: np.ndarray
    lengths_N: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths_N)

    def reduce(self, ufunc: np.ufunc) -> np.ndarray:
        """A reduction over each item's tokens, float64; NaN where it has none."""
        result_N = np.full(len(self), np.nan)
        some_N = self.lengths_N > 0
        starts_N = np.cumsum(self.lengths_N) - self.lengths_N
        if some_N.any():
            result_N[some_N] = ufunc.reduceat(self.values_T, starts_N[some_N])
        return result_N

    def mean(self) -> np.ndarray:
        return self.reduce(np.add) / np.maximum(self.lengths_N, 1)


def read_tokens(X: Any, what: str, low: float, high: float) -> Tokens:
    """X: Tokens, or a sequence of number sequences. Raises SelectionError, naming the first bad item."""
    if isinstance(X, Tokens):
        lengths_N, values_T = X.lengths_N, np.asarray(X.values_T, np.float64)
    else:
        try:
            rows = [as_floats(row) for row in X]
        except (TypeError, ValueError, OverflowError):
            raise SelectionError(f"{what} should be a list of numbers an item, one number a token.") from None
        for index, row in enumerate(rows):
            if row.ndim != 1:
                raise SelectionError(f"{what} of item {index} should be a list of numbers, one a token.")
        lengths_N = np.array([len(row) for row in rows], np.int64)
        values_T = np.concatenate(rows) if rows else np.empty(0)
    bad_T = ~((values_T >= low) & (values_T <= high))
    if bad_T.any():
        place = int(bad_T.argmax())
        item = int(np.searchsorted(np.cumsum(lengths_N), place, side="right"))
        raise SelectionError(f"{what} of item {item} has {values_T[place]}; they should be from {low:g} to {high:g}.")
    return Tokens(values_T, lengths_N)


class Uncertainty(Selector):
    """Ranks items by an uncertainty computed from their tokens; the first is the most uncertain.

    X: for each item the list of its tokens' `quantity`. An item without tokens comes last. Lowest
    index first among equals. Cost: the number of tokens, and N log N. `objective` is the sum of the uncertainties of
    the picks, which no other set of that size exceeds: `certificate` is equal to it.
    """

    input: ClassVar[Input] = "tokens"
    quantity: ClassVar[str]
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = math.inf

    def __init__(self, *, quotas: Any = "equal") -> None:
        self.quotas = quotas

    def uncertainty(self, X: Any) -> np.ndarray:
        """(N,) float64, larger for the more uncertain, -inf for an item without tokens."""
        values_N = self.score(read_tokens(X, self.quantity, self.low, self.high))
        return np.where(np.isnan(values_N), -np.inf, values_N)

    @abstractmethod
    def score(self, tokens: Tokens) -> np.ndarray:
        """(N,) float64, larger for the more uncertain, NaN for an item without tokens."""

    def choose(self, X: Any, task: Task) -> Picks:
        return top_picks(self.uncertainty(X), task)
