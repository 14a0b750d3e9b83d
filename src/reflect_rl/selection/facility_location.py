"""Facility location: every item of the pool should have something similar among the chosen."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.selection.certificate import upper_bound
from reflect_rl.selection.coverage import SHIFT, Exact, Sparse
from reflect_rl.selection.grid import Folded, Grid, check_embeddings, cosine_grid, cosines, fold
from reflect_rl.selection.lazy_greedy import lazy_greedy
from reflect_rl.selection.neighbours import nearest
from reflect_rl.selection.picks import Picks, Selector, Task

Neighbours = int | Literal["auto", "exact"]

SMALL = 1024
"""Distinct items up to which "auto" is exact."""
FEWEST, MOST, COVER = 32, 256, 2.0
"""Enough neighbours to see COVER of the picks on average, within these limits."""
LEAST_COVER = 0.6
"""With so few picks that MOST neighbours would see less of them on average, "auto" is exact."""


class FacilityLocation(Selector):
    r"""Greedy maximiser of the similarity of each item to its nearest chosen one.

    $$f(S) = \frac{1}{N} \sum_{i=1}^{N} \max_{j \in S} s_{ij}, \qquad s_{ij} = \tfrac{1}{2} (1 + \cos(x_i, x_j))$$

    With `scores` q, in [0, 1] after min-max scaling, their sum is rewarded as well, at a share `quality` a in [0, 1):
    $(1 - a) f(S) + a \frac{1}{N} \sum_{j \in S} q_j$.

    Source: arXiv 2401.06692 (as "facility location"); the greedy algorithm is Nemhauser et al. 1978 (at least 1 - 1/e
    of the best), lazily (Minoux 1978). With scores: quality-diversity as in QDIT (arXiv 2311.14736).

    n_neighbors. "exact": greedy with all similarities in view. k: each item is compared with its k nearest only, and
    starts as well represented as by the k-th of them; once it has a nearer pick, gains are exact. "auto": exact up to
    1,024 distinct items, or with fewer than about N / 430 picks; otherwise 2 N / budget neighbours, from 32 to 256. In
    clustered and unstructured pools of 3,000 and 10,000 items, with budgets of 1, 10 and 50 %, neighbours reached a
    higher objective than exact greedy each time, in less time (docs/selection.md has the figures).

    Cost. Exact: N^2 D / 2 multiply-adds and 4 N^2 bytes up to 16,384 distinct items (1 GiB); above, nothing is held and
    a large budget costs some 7 N^2 D multiply-adds. k neighbours: N^2 D / 2 multiply-adds and 40 k N bytes, then some
    70 microseconds a pick.

    Left open by the paper, and settled here: the similarity (above, so that it is not negative and the first gains have
    a closed form), and ties (lowest index first). Equal embeddings are computed once. A zero vector is like other zero
    vectors and orthogonal to everything else.

    `objective` is f(S) of the embeddings as they are, in float64, whatever n_neighbors is. Picks and `gains` come from
    embeddings on a grid (see the module `grid`). `certificate`: no set of that size has a larger f (see the module
    `certificate`).
    """

    name: ClassVar[str] = "facility-location"

    def __init__(self, n_neighbors: Neighbours = "auto", *, quality: float = 0.5, quotas: Any = "equal") -> None:
        if isinstance(n_neighbors, np.integer):
            n_neighbors = int(n_neighbors)
        enough = isinstance(n_neighbors, int) and not isinstance(n_neighbors, bool) and n_neighbors >= 2
        if not enough and n_neighbors not in ("auto", "exact"):
            raise SelectionError(
                f'n_neighbors should be a whole number, 2 or more, "exact" or "auto", not {n_neighbors!r}.'
            )
        if not 0 <= quality < 1:
            raise SelectionError(f"quality should be at least 0 and below 1, not {quality}.")
        self.n_neighbors: Neighbours = n_neighbors
        self.quality = quality
        self.quotas = quotas

    def check(self, scores: Any, groups: Any) -> None:
        pass

    def choose(self, X: Any, task: Task) -> Picks:
        array_ND = check_embeddings(X)
        grid = cosine_grid(array_ND)
        folded = fold(grid)
        labelled = np.flatnonzero(task.already_N)
        before = np.unique(folded.of_N[labelled])
        bonus_N, share = self._bonus(task, grid)
        coverage = self._coverage(folded, before, task)
        indices, gains = lazy_greedy(coverage, folded.of_N, bonus_N, task)
        bound = self._bound(coverage, folded, before, indices, bonus_N, task)
        unit = share / (2 * grid.radius**2 * max(1, task.size))
        below_zero = task.size * (
            SHIFT - round(grid.radius**2)
        )  # sums count from -SHIFT, a similarity of 0 is -radius^2
        if isinstance(coverage, Exact) and not len(before):
            gains[:1] -= below_zero
        represented = _represented(array_ND, coverage, folded, np.r_[indices, labelled])
        objective = share * represented + int(bonus_N[indices].sum()) * unit
        certificate = (bound - below_zero) * unit + share * grid.rounding
        return Picks(indices, gains * unit, objective, max(objective, certificate))

    def _bound(
        self,
        coverage: Exact | Sparse,
        folded: Folded,
        before: np.ndarray,
        indices: np.ndarray,
        bonus_N: np.ndarray,
        task: Task,
    ) -> int:
        """An upper bound for any choice, on the grid: that of the objective with neighbours, which is never smaller.

        For very few picks, Minoux's bound: the sum of the largest gains that are left.
        """
        bonus, distinct = int(bonus_N[indices].sum()), len(folded.points_MD)
        if isinstance(coverage, Exact):
            enough = enough_neighbours(distinct, task.budget)
            if enough is None or distinct < 2:
                left_N = task.open_N.copy()
                left_N[indices] = False
                gains_N = coverage.gains_M()[folded.of_N] + bonus_N
                best = task.room.best(gains_N, left_N, task.budget)
                return coverage.total() + bonus + int(gains_N[best].sum())
            enough = min(enough, distinct - 1)
            coverage = Sparse(folded, before, nearest(folded.points_MD, enough, task.progress))
            for point in folded.of_N[indices].tolist():
                coverage.take(point)
        return upper_bound(coverage, coverage.total() + bonus, folded.of_N, bonus_N, task)

    def neighbours(self, distinct: int, budget: int) -> int | None:
        """How many neighbours of each of so many distinct items are searched for; None: exact."""
        if isinstance(self.n_neighbors, int):
            return self.n_neighbors if self.n_neighbors < distinct else None
        if self.n_neighbors == "exact" or distinct <= SMALL:
            return None
        return enough_neighbours(distinct, budget)

    def _coverage(self, folded: Folded, before: np.ndarray, task: Task) -> Exact | Sparse:
        k = self.neighbours(len(folded.points_MD), task.budget)
        if k is None:
            return Exact(folded, before)
        return Sparse(folded, before, nearest(folded.points_MD, k, task.progress))

    def _bonus(self, task: Task, grid: Grid) -> tuple[np.ndarray, float]:
        """(what each item's score is worth in the units of the products, the share of f in the objective)."""
        if task.scores_N is None or not task.size:
            return np.zeros(task.size, np.int64), 1.0
        worth = self.quality / (1 - self.quality) * 2 * grid.radius**2
        if worth * task.size > 2**62:
            raise SelectionError(f"a quality of {self.quality} is too near to 1: similarity would count for nothing.")
        scores_N = np.ldexp(task.scores_N, -np.frexp(np.abs(task.scores_N).max())[1])  # so that high - low is finite
        low, high = scores_N.min(), scores_N.max()
        scaled_N = (scores_N - low) / (high - low) if high > low else np.zeros(task.size)
        return np.rint(scaled_N * worth).astype(np.int64), 1 - self.quality


def enough_neighbours(distinct: int, budget: int) -> int | None:
    """How many neighbours see COVER of the picks on average, from FEWEST to MOST; None where MOST see too few."""
    if MOST * budget < LEAST_COVER * distinct:
        return None
    return min(max(FEWEST, math.ceil(COVER * distinct / max(1, budget))), MOST)


def _represented(array_ND: np.ndarray, coverage: Exact | Sparse, folded: Folded, chosen: np.ndarray) -> float:
    """f, from each item's representative and the embeddings as they are."""
    if isinstance(coverage, Sparse):
        coverage.represent_the_rest(np.unique(folded.of_N[chosen]))
    item_M = np.full(len(folded.points_MD), -1)
    item_M[folded.of_N[chosen]] = chosen
    near_N = coverage.nearest_M[folded.of_N]
    items = np.flatnonzero(near_N >= 0)
    similar = (1 + cosines(array_ND, items, item_M[near_N[items]])) / 2
    return float(similar.sum()) / max(1, len(array_ND))
