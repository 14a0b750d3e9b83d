"""k-center: no item of the pool should be far from the nearest chosen one."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.selection.farthest_first import FarthestFirst
from reflect_rl.selection.grid import Grid, cosine_grid, euclidean_grid
from reflect_rl.selection.picks import Picks, Selector, Task


class KCenter(Selector):
    r"""Greedy farthest-first traversal.

    $$\min_{S} \max_{i} \min_{j \in S} d(x_i, x_j)$$

    Each pick is the item farthest from everything chosen or labelled. metric "cosine": d is the Euclidean distance of
    the unit vectors, sqrt(2 - 2 cos); "euclidean": of the vectors as they are.

    Source: arXiv 2401.06692 (as "k-center"); Gonzalez 1985 (at most twice the smallest radius); Sener and Savarese
    2018.

    Cost: between k^2 D / 2 and N k D multiply-adds for k picks, the same picks as the plain loop makes, which takes
    N k D, one pick at a time. Memory: the embeddings on the grid (4 N D bytes; 8 for "euclidean") and some 100 MB.

    Left open by the paper, and settled here: the metric (cosine by default); the first pick, where nothing is labelled
    (the item most similar to the mean, the most central one); ties (lowest index first). Zero vectors are one point of
    their own with "cosine". Equal embeddings: the second one is at distance 0, so that it comes last.

    `gains` are distances at the time of the pick; the first is infinite where there is nothing to be far from.
    `objective` is the radius: the largest distance of an item from its nearest chosen one, to be small. `certificate`:
    no set of that size has a smaller radius (half the distance between the picks and what is left; None with quotas).
    """

    name: ClassVar[str] = "k-center"

    def __init__(self, metric: Literal["cosine", "euclidean"] = "cosine", *, quotas: Any = "equal") -> None:
        if metric not in ("cosine", "euclidean"):
            raise SelectionError(f'metric should be "cosine" or "euclidean", not {metric!r}.')
        self.metric = metric
        self.quotas = quotas

    def choose(self, X: Any, task: Task) -> Picks:
        grid = cosine_grid(X) if self.metric == "cosine" else euclidean_grid(X)
        indices, closeness = FarthestFirst(grid, task).run()
        gains, radius = distances(grid, closeness[:-1]), distances(grid, closeness[-1:])
        if not task.size or closeness[-1] == -np.inf:  # nothing there, or nothing chosen
            return Picks(indices, gains)
        least = None if task.room.shared else _least(grid, float(closeness[-1]))
        return Picks(indices, gains, float(radius[0]), least)


def distances(grid: Grid, closeness: np.ndarray) -> np.ndarray:
    """In units of the embeddings (of unit vectors for cosine); inf where float64 does not reach as far."""
    if grid.metric == "euclidean":
        with np.errstate(over="ignore"):
            return np.ldexp(np.sqrt(np.maximum(-closeness, 0)) / grid.radius, grid.exponent)
    return np.sqrt(np.maximum(2 - 2 * closeness / grid.radius**2, 0))


def _least(grid: Grid, closeness: float) -> float:
    """A radius that no set of as many picks can be below.

    The picks and the item farthest from them are pairwise at least r apart, so two of them share a representative, and
    one of those is at least r / 2 from it: by the triangle inequality, which holds for the points on the grid. For
    cosine, whose distance takes all of them for unit vectors, what rounding did to the lengths is taken off.
    """
    if grid.metric == "euclidean":
        return float(distances(grid, np.array([closeness]))[0]) / 2
    squares_N = grid.norms_N() / grid.radius**2
    apart = 2 * float(squares_N.min()) - 2 * closeness / grid.radius**2
    return math.sqrt(max(apart / 4 - 2 * max(float(squares_N.max()) - 1, 0.0), 0.0))
