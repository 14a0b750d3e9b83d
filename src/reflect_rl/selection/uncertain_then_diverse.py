"""Uncertainty filter, then diversity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.selection.arrays import as_array
from reflect_rl.selection.facility_location import FacilityLocation
from reflect_rl.selection.picks import Picks, Selector, Task, renamed
from reflect_rl.selection.quality_facility_location import QualityFacilityLocation
from reflect_rl.selection.quotas import Room


class UncertainThenDiverse(Selector):
    """Of the most uncertain items, several times the budget, a diverse choice.

    The `keep` x budget items of largest score stay (in each group, of its quota), lowest index first among equals; the
    other strategy (facility location by default) chooses from them, what is labelled already being part of its pool.

    Source: a common combination, for which arXiv 2401.06692 gives no formula. scores: larger is more uncertain, for
    instance `MeanEntropy().uncertainty(entropies)`. Cost: the other strategy's, on keep x budget items. `objective`
    and `certificate` are the other strategy's, on the items that stayed. Smaller budgets are not prefixes: other items
    stay.
    """

    name: ClassVar[str] = "uncertain-then-diverse"

    def __init__(self, diverse: Selector | None = None, *, keep: float = 4.0, quotas: Any = "equal") -> None:
        if not 1 <= keep < np.inf:
            raise SelectionError(f"keep should be a number, at least 1, not {keep}.")
        self.diverse = diverse or FacilityLocation()
        if self.diverse.input == "tokens" or isinstance(self.diverse, QualityFacilityLocation | UncertainThenDiverse):
            raise SelectionError(
                f"{self.name} chooses from the uncertain items by what they have in common, or at random. "
                f"{self.diverse.name} needs scores of its own: take facility-location, k-center or random."
            )
        self.keep = keep
        self.quotas = quotas

    def check(self, scores: Any, groups: Any) -> None:
        if scores is None:
            raise SelectionError(f"{self.name} needs scores: the uncertainty of each item.")
        self.diverse.check(None, groups)

    def choose(self, X: Any, task: Task) -> Picks:
        if task.scores_N is None:
            raise SelectionError(f"{self.name} needs scores.")
        order = np.lexsort((np.arange(task.size), -task.scores_N))
        order = order[task.open_N[order]]
        room, most_G = task.room, np.ceil(self.keep * task.room.left_G).clip(max=task.size).astype(np.int64)
        kept = Room(room.group_N, most_G).first(order, int(most_G.sum()))
        stays_N = task.already_N.copy()
        stays_N[kept] = True
        items = np.flatnonzero(stays_N)
        cut = replace(
            task,
            size=len(items),
            already_N=task.already_N[items],
            room=Room(room.group_N[items], room.left_G),
            scores_N=None,
        )
        return renamed(self.diverse.choose(as_array(X)[items], cut), items)
