"""Budgets shared among groups, and the items that may still be picked under them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.progress import Progress


class Room:
    """How many picks each group has left. One instance serves one greedy run: `take` uses it up.

    group_N: the group of each item, 0 <= g < G. left_G: picks left. Without groups there is one, with the whole budget.
    """

    def __init__(self, group_N: np.ndarray, left_G: np.ndarray) -> None:
        self.group_N, self.left_G = group_N, left_G.astype(np.int64)
        self.shared = len(left_G) > 1
        self._whole_G = self.left_G.copy()

    def take(self, item: int) -> bool:
        """Count a pick. Whether its group is full now."""
        group = self.group_N[item]
        self.left_G[group] -= 1
        return bool(self.left_G[group] == 0)

    def open(self, item: int) -> bool:
        return not self.shared or bool(self.left_G[self.group_N[item]] > 0)

    def open_N(self) -> np.ndarray:
        """The items whose group is not full."""
        return (self.left_G > 0)[self.group_N]

    def first(self, order: np.ndarray, budget: int) -> np.ndarray:
        """The first `budget` items of an order that fit."""
        if not self.shared:
            return order[:budget].astype(np.int64)
        ranks = np.empty(len(order), np.int64)
        by_group = np.argsort(self.group_N[order], kind="stable")
        sorted_groups = self.group_N[order][by_group]
        ranks[by_group] = np.arange(len(order)) - np.searchsorted(sorted_groups, sorted_groups)
        return order[ranks < self.left_G[self.group_N[order]]][:budget].astype(np.int64)

    def best(self, values_N: np.ndarray, open_N: np.ndarray, budget: int) -> np.ndarray:
        """The `budget` items in open_N of the largest values, at most the *whole* quota of each group, in any order."""
        kept = []
        for group, quota in enumerate(self._whole_G):
            members = np.flatnonzero(open_N & (self.group_N == group) if self.shared else open_N)
            kept.append(_largest(members, values_N, int(quota)))
        return _largest(np.concatenate(kept), values_N, budget)


def _largest(items: np.ndarray, values_N: np.ndarray, count: int) -> np.ndarray:
    if count >= len(items):
        return items
    if not count:
        return items[:0]
    return items[np.argpartition(values_N[items], len(items) - count)[len(items) - count :]]


def quota_rooms(quotas: Any, groups: Any, open_N: np.ndarray, budget: int, progress: Progress) -> Room:
    """The room of each group. Raises SelectionError if the quotas cannot hold the budget.

    quotas: "equal", "proportional", or a Mapping from label to number; groups: a label for each item, or None. Warns of
    items without a label.
    """
    size = len(open_N)
    if groups is None:
        return Room(np.zeros(size, np.int64), np.array([budget]))
    labels, group_N = group_indices(groups, size)
    if None in labels:
        bare = int((group_N == labels.index(None)).sum())
        what = (
            "has no group (None or NaN); it is a group of its own"
            if bare == 1
            else "have no group (None or NaN); together they are one"
        )
        progress.warn(f"{bare:,} of {size:,} items {what}")
    sizes_G = np.bincount(group_N[open_N], minlength=len(labels))
    if isinstance(quotas, Mapping):
        return Room(group_N, _given(quotas, labels, sizes_G, budget))
    if quotas == "equal":
        weights_G = np.ones(len(labels))
    elif quotas == "proportional":
        weights_G = sizes_G.astype(float)
    else:
        raise SelectionError(f'quotas should be "equal", "proportional" or a number for each group, not {quotas!r}.')
    return Room(group_N, share(budget, weights_G, sizes_G))


def group_indices(groups: Any, size: int) -> tuple[list[Any], np.ndarray]:
    """(labels in the order of their first items, the group of each item). Raises SelectionError.

    Labels that are equal are one group; None is the label of all items without one.
    """
    try:
        given = list(groups.tolist() if hasattr(groups, "tolist") else groups)
    except TypeError:
        raise SelectionError(f"groups should be one label an item, not {groups!r:.80}.") from None
    if len(given) != size:
        raise SelectionError(f"groups should be one label an item: {size:,}, not {len(given):,}.")
    known: dict[Any, int] = {}
    try:
        group_N = np.fromiter((known.setdefault(_label(each), len(known)) for each in given), np.int64, size)
    except (TypeError, ValueError):
        raise SelectionError("a group's label should be a text or a number.") from None
    return list(known), group_N


def _label(given: Any) -> Any:
    """A label as Python has it; None for a missing one: NaN, NaT and pandas.NA are not equal to themselves."""
    label = given.item() if hasattr(given, "item") else given
    return label if (label == label) is True else None


def _given(quotas: Mapping[Any, int], labels: list[Any], sizes_G: np.ndarray, budget: int) -> np.ndarray:
    asked, there = {_label(label): quota for label, quota in quotas.items()}, set(labels)
    for label, quota in asked.items():
        if label not in there:
            raise SelectionError(f"there is a quota for {label!r}, but no item of that group.")
        if isinstance(quota, bool) or not isinstance(quota, int | np.integer) or quota < 0:
            raise SelectionError(f"a quota should be a whole number, 0 or more; that of {label!r} is {quota!r}.")
    left_G = np.array([min(int(asked.get(label, 0)), size) for label, size in zip(labels, sizes_G, strict=True)])
    if left_G.sum() < budget:
        raise SelectionError(
            f"the quotas leave room for {left_G.sum():,} picks, the budget is {budget:,}. "
            f"Raise a quota, or lower the budget."
        )
    return left_G


def share(budget: int, weights_G: np.ndarray, sizes_G: np.ndarray) -> np.ndarray:
    """`budget` shared by weight, no group getting more than its size; what it cannot use goes to the others.

    Whole numbers by largest remainder, the first group first among equals. budget <= sum of the sizes of groups.
    """
    sizes_G, weights_G = sizes_G.astype(np.int64), np.asarray(weights_G, float).copy()
    fixed_G = np.zeros(len(sizes_G), bool)
    quotas_G = np.zeros(len(sizes_G))
    while not fixed_G.all():
        free = ~fixed_G
        if weights_G[free].sum() <= 0:  # only groups of no weight have room left
            weights_G[free] = 1.0
        left = budget - sizes_G[fixed_G].sum()
        quotas_G[free] = left * weights_G[free] / weights_G[free].sum()
        full = free & (quotas_G >= sizes_G)
        if not full.any():
            break
        quotas_G[full], fixed_G[full] = sizes_G[full], True
    whole_G = np.floor(quotas_G + 1e-9).astype(np.int64)
    rest = int(budget - whole_G.sum())
    order = np.lexsort((np.arange(len(sizes_G)), -(quotas_G - whole_G)))
    order = order[whole_G[order] < sizes_G[order]][:rest]
    whole_G[order] += 1
    return whole_G
