"""Equal budget by task."""

from __future__ import annotations

from typing import Any, ClassVar

from reflect_rl.errors import SelectionError
from reflect_rl.selection.picks import Picks, Selector, Task
from reflect_rl.selection.uniform import Random


class EqualBudget(Selector):
    r"""The same number of picks for each group; within a group, another strategy decides (random by default).

    $$b_g = B / G$$

    Source: arXiv 2507.21482, task diversity. Cost: that of the other strategy. Left open, and settled here: what a
    small group cannot use goes to the others in equal parts; what does not divide evenly goes to the groups that come
    first in the pool. Labelled items do not count against a quota. Smaller budgets are not prefixes: quotas round.
    """

    name: ClassVar[str] = "equal-budget"
    quotas = "equal"

    def __init__(self, within: Selector | None = None) -> None:
        self.within = within or Random()
        self.input = self.within.input  # type: ignore[misc]  # that of the strategy within

    def check(self, scores: Any, groups: Any) -> None:
        if groups is None:
            raise SelectionError(f"{self.name} needs groups: a task's label for each item.")
        self.within.check(scores, groups)

    def choose(self, X: Any, task: Task) -> Picks:
        return self.within.choose(X, task)
