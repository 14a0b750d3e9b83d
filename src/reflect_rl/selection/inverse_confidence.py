"""Inverse-confidence budget by task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.selection.picks import Picks, Selector, Task
from reflect_rl.selection.quotas import Room, share
from reflect_rl.selection.uniform import Random


class InverseConfidence(Selector):
    r"""More picks for the groups of which the model is less sure; within a group, another strategy decides.

    $$b_g \propto 1 / \bar c_g, \qquad \bar c_g = \frac{1}{|g|} \sum_{i \in g} c_i$$

    Source: arXiv 2507.21482, inverse-confidence weighting. scores: the model's confidence in each item, above 0 and at
    most 1. Cost: that of the other strategy (random by default). Left open, and settled here: the mean is over all
    items of a group, labelled or not; whole numbers by largest remainder; what a small group cannot use goes to the
    others, by the same weights. Smaller budgets are not prefixes: quotas round.
    """

    name: ClassVar[str] = "inverse-confidence"

    def __init__(self, within: Selector | None = None) -> None:
        self.within = within or Random()
        self.input = self.within.input  # type: ignore[misc]  # that of the strategy within

    def check(self, scores: Any, groups: Any) -> None:
        if groups is None or scores is None:
            raise SelectionError(f"{self.name} needs groups (a task's label) and scores (a confidence) for each item.")
        self.within.check(None, groups)

    def choose(self, X: Any, task: Task) -> Picks:
        confidence_N, group_N = task.scores_N, task.room.group_N
        if confidence_N is None:
            raise SelectionError(f"{self.name} needs scores.")
        if task.size and not (confidence_N.min() > 0 and confidence_N.max() <= 1):
            raise SelectionError(f"the scores of {self.name} are confidences: above 0, and at most 1.")
        sizes_G = np.bincount(group_N, minlength=len(task.room.left_G))
        means_G = np.bincount(group_N, confidence_N, len(sizes_G)) / np.maximum(sizes_G, 1)
        free_G = np.bincount(group_N[task.open_N], minlength=len(sizes_G))
        quotas_G = share(task.budget, 1 / means_G.clip(min=1e-12), free_G)
        return self.within.choose(X, replace(task, room=Room(group_N, quotas_G), scores_N=None))
