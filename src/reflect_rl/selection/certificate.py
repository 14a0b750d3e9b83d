r"""An upper bound on facility location for any choice, usually within a fraction of a percent of the greedy one.

For any levels u_i, at least those that hold without a choice, and any set S of items (gains s_ij, weights w_i),

$$\sum_i w_i \max_{j \in S} s_{ij} \le \sum_i w_i u_i + \sum_{j \in S} \sum_i w_i (s_ij - u_i)^+,$$

and the right side is at most the sum of the largest sums over i: the Lagrangian dual of Cornuejols, Fisher and
Nemhauser (1977). With u = the similarity to the nearest pick this is Minoux's bound, which is loose. The search starts
from the similarity to the second nearest pick and makes Polyak's subgradient steps: it lowers u_i where no selected
item is above it, and raises it where several are. Levels are whole numbers, so that the bound is exact.
"""

from __future__ import annotations

import numpy as np

from reflect_rl.selection.coverage import SHIFT, Sparse
from reflect_rl.selection.picks import Task

STEPS = 20


def upper_bound(objective: Sparse, reached: int, of_N: np.ndarray, bonus_N: np.ndarray, task: Task) -> int:
    """No set of the task's size, under its quotas, has a larger objective (with bonuses) than this.

    objective: after the greedy choice, which attains `reached`.
    """
    levels_M, lowest_M = objective.second_M.astype(np.int64), objective.lowest_M.astype(np.int64)
    least: int | None = None
    for _ in range(STEPS):
        values_N = objective.above(levels_M)[of_N] + bonus_N
        best = task.room.best(values_N, task.open_N, task.budget)
        bound = int((objective.weights_M * (levels_M + SHIFT)).sum() + values_N[best].sum())
        least = bound if least is None else min(least, bound)
        times_M = np.bincount(of_N[best], minlength=len(levels_M))
        slope_M = objective.weights_M * (1.0 - objective.count_above(levels_M, times_M))
        slope_M[(levels_M <= lowest_M) & (slope_M > 0)] = 0
        steepness = float(slope_M @ slope_M)
        if not steepness or least <= reached:
            break
        step = (bound - reached) / steepness
        levels_M = np.maximum(np.rint(levels_M - step * slope_M).astype(np.int64), lowest_M)
    return reached if least is None else max(least, reached)
