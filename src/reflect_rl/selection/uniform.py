"""Random choice: the baseline of every other strategy."""

from __future__ import annotations

from typing import Any, ClassVar

from reflect_rl.seeding import stream
from reflect_rl.selection.picks import Input, Picks, Selector, Task


class Random(Selector):
    """Uniformly, without replacement.

    Source: arXiv 2401.06692, the baseline. Cost: N log N. The order is a permutation of the pool by seed, from which
    labelled items are left out, so that a smaller budget picks a prefix. No objective.
    """

    name: ClassVar[str] = "random"
    input: ClassVar[Input] = "none"

    def __init__(self, seed: int = 0, *, quotas: Any = "equal") -> None:
        self.seed = seed
        self.quotas = quotas

    def choose(self, X: Any, task: Task) -> Picks:
        order = stream(self.seed, "random selection").permutation(task.size)
        indices = task.room.first(order[task.open_N[order]], task.budget)
        return Picks(indices, indices * 0.0)
