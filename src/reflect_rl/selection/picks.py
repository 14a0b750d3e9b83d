"""The interface of a strategy, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.progress import Progress
from reflect_rl.selection.arrays import as_array, as_floats
from reflect_rl.selection.quotas import Room, quota_rooms

Input = Literal["embeddings", "tokens", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class Picks:
    """The result of a strategy.

    Attributes:
        indices: (k,) int64, into the pool, in order of choice.
        gains: (k,) float64, what each pick added when it was chosen.
        objective: what the strategy optimises, of these picks and the items already labelled; None if it has none.
        certificate: a bound on the objective of *any* set of that size under the same quotas: an upper bound where
            the objective is maximised, a lower bound where it is minimised (k-center); None if there is no bound.
    """

    indices: np.ndarray
    gains: np.ndarray
    objective: float | None = None
    certificate: float | None = None

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, slots=True)
class Task:
    """One call of `select`, checked.

    already_N: the items that are labelled already and cannot be picked. room: how much of each quota is left.
    """

    size: int
    budget: int
    already_N: np.ndarray
    room: Room
    scores_N: np.ndarray | None
    progress: Progress

    @property
    def open_N(self) -> np.ndarray:
        """The items that may be picked, quotas aside."""
        return ~self.already_N


class Selector(ABC):
    """A strategy. Its settings are arguments of the constructor; the pool is an argument of `select`.

    Attributes:
        quotas: how the budget is shared among `groups`: "equal" (what a small group cannot use goes to the others),
            "proportional" to the items that can be picked, or a number for each group by its label (None is the label
            of items without one).
    """

    name: ClassVar[str]
    input: ClassVar[Input] = "embeddings"
    quotas: Any = "equal"

    def select(
        self,
        X: Any,
        *,
        budget: int,
        already: Sequence[int] | np.ndarray = (),
        groups: Sequence[Any] | np.ndarray | None = None,
        scores: Sequence[float] | np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> Picks:
        """Choose `budget` items that are not in `already`. Every array may be a torch tensor.

        Args:
            X: (N, D) embeddings, or what the strategy says.
            budget: how many items to pick.
            already: indices of items that are labelled already, or a boolean mask of length N.
            groups: a label for each item; the budget is then shared by `quotas`. Labels that are equal as keys of a
                dict are one group (1, 1.0 and True; "1" is another). Items without a label (None, NaN, NaT, pandas.NA)
                form a group of their own, which is announced.
            scores: a number for each item, for the strategies that use one.
            progress: hears how far the selection is.

        Raises:
            SelectionError: the pool, the budget or another argument cannot be used.
        """
        self.check(scores, groups)
        size = pool_size(X)
        already_N = _mask(already, size)
        progress = progress or Progress()
        room = quota_rooms(self.quotas, groups, ~already_N, check_budget(budget, int((~already_N).sum())), progress)
        numbers_N = None if scores is None else check_numbers(scores, size, "scores")
        return self.choose(X, Task(size, budget, already_N, room, numbers_N, progress))

    def check(self, scores: Any, groups: Any) -> None:
        """Raises SelectionError if the strategy needs something that was not given, or cannot use what was."""
        if scores is not None:
            raise SelectionError(f"{self.name} does not use scores.")

    @abstractmethod
    def choose(self, X: Any, task: Task) -> Picks:
        """The strategy itself."""

    # For those who come from scikit-learn or apricot

    def fit(self, X: Any, y: Any = None, *, budget: int | None = None, **given: Any) -> Selector:
        """Select, and keep the result in `picks_`, `ranking_` (indices in order of choice) and `gains_`.

        Args:
            X: as in `select`.
            y: ignored.
            budget: by default, everything that can be picked.
            given: further arguments of `select`.
        """
        free = int((~_mask(given.get("already", ()), pool_size(X))).sum())
        self.picks_ = self.select(X, budget=free if budget is None else budget, **given)
        self.ranking_, self.gains_ = self.picks_.indices, self.picks_.gains
        return self

    def transform(self, X: Any) -> Any:
        """The chosen rows of X in order of choice, after `fit`."""
        return as_array(X)[self.ranking_]


def pool_size(X: Any) -> int:
    """Items in a pool, which may also be given by its size alone."""
    try:
        size = int(X) if isinstance(X, int | np.integer) else len(X)
    except TypeError:
        size = -1
    if size < 0:
        raise SelectionError(f"a pool should be a sequence or an array, or its size, not {X!r:.80}.")
    return size


def check_budget(budget: int, free: int) -> int:
    """Raises SelectionError if so many cannot be picked."""
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < 0:
        raise SelectionError(f"a budget should be a whole number, 0 or more; this one is {budget!r}.")
    if budget > free:
        if not free:
            raise SelectionError(f"the budget is {budget:,}, but no item is left to pick.")
        items = "item" if free == 1 else "items"
        raise SelectionError(
            f"the budget is {budget:,}, but only {free:,} {items} can be picked. Ask for at most {free:,}."
        )
    return int(budget)


def check_numbers(values: Any, size: int, what: str) -> np.ndarray:
    """`size` finite numbers, float64. Raises SelectionError."""
    try:
        numbers_N = as_floats(values)
    except (ValueError, TypeError, OverflowError):
        raise SelectionError(f"{what} should be one number an item.") from None
    if numbers_N.shape != (size,):
        raise SelectionError(f"{what} should be one number an item: {size:,}, not an array of shape {numbers_N.shape}.")
    bad_N = ~np.isfinite(numbers_N)
    if bad_N.any():
        index = int(bad_N.argmax())
        raise SelectionError(f"{what} of item {index} is {numbers_N[index]}; it should be a finite number.")
    return numbers_N


def _mask(already: Any, size: int) -> np.ndarray:
    try:
        indices = as_array(already)
    except ValueError:
        raise SelectionError("already should be a list of indices into the pool.") from None
    if indices.dtype == bool:
        if indices.shape != (size,):
            raise SelectionError(f"already, as a mask, should have length {size:,}, not shape {indices.shape}.")
        return indices.copy()
    mask_N = np.zeros(size, bool)
    if not indices.size:
        return mask_N
    if indices.dtype.kind not in "iu" or indices.ndim != 1:
        raise SelectionError("already should be a list of indices into the pool.")
    outside = (indices < 0) | (indices >= size)
    if outside.any():
        raise SelectionError(f"already names item {indices[outside][0]}; the pool has items 0 to {size - 1:,}.")
    mask_N[indices] = True
    return mask_N


def top_picks(values_N: np.ndarray, task: Task) -> Picks:
    """The items of largest value, lowest index first among equals, under the quotas: optimal for the sum of values."""
    order = np.lexsort((np.arange(task.size), -values_N))
    order = order[task.open_N[order]]
    indices = task.room.first(order, task.budget)
    gains = values_N[indices]
    total = float(gains[np.isfinite(gains)].sum())
    return Picks(indices, gains, total, total)


def renamed(picks: Picks, indices: np.ndarray) -> Picks:
    """The same picks, of a pool that was cut down to `indices`."""
    return replace(picks, indices=indices[picks.indices])
