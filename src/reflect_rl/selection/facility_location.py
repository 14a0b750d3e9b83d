"""Facility location: every item of the pool should have something similar among the chosen."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.selection.certificate import upper_bound
from reflect_rl.selection.coverage import SHIFT, Blocked, Dense, Sparse
from reflect_rl.selection.grid import Folded, cosine_grid, fold
from reflect_rl.selection.lazy_greedy import lazy_greedy
from reflect_rl.selection.neighbours import nearest
from reflect_rl.selection.picks import Picks, Selector, Task

Neighbours = int | Literal["auto", "exact"]

DENSE = 4096
"""Distinct items up to which the matrix of similarities is held: 64 MiB."""
EXACT = 10_000
"""Distinct items up to which "auto" is exact."""
FEWEST, MOST, COVER = 32, 256, 2.0
"""auto: enough neighbours to see COVER of the chosen on average, within these limits."""
LEAST_COVER = 0.6
"""auto: exact where MOST neighbours would see less of the chosen. (From 1 on, the choice was at least as good as greedy
on the whole pool wherever this was measured, on clustered and on unstructured pools.)"""
CERTAIN = 8.0
"""Neighbours for the certificate of an exact choice: enough to see this many of the chosen."""
FEW = 512
"""Distinct items up to which the certificate takes the whole matrix instead."""


class FacilityLocation(Selector):
    r"""Greedy maximiser of the similarity of each item to its nearest chosen one.

    $$f(S) = \frac{1}{N} \sum_{i=1}^{N} \max_{j \in S} s_{ij}, \qquad s_{ij} = \tfrac{1}{2} (1 + \cos(x_i, x_j))$$

    With `scores` q, in [0, 1] after min-max scaling, their sum is rewarded as well, at a share `quality` a in [0, 1):
    $(1 - a) f(S) + a \frac{1}{N} \sum_{j \in S} q_j$.

    Source: arXiv 2401.06692 (as "facility location"); the greedy algorithm is Nemhauser et al. 1978 (at least 1 - 1/e
    of the best), lazily (Minoux 1978). With scores: quality-diversity as in QDIT (arXiv 2311.14736).

    Cost. Exact (n_neighbors="exact"): the matrix of similarities up to 4,096 distinct items; above, some 2 N^2 D
    multiply-adds, as each item's column is computed about twice on the way to large budgets, and at most 256 MB for
    what is kept of columns. With n_neighbors=k: N^2 D / 2 multiply-adds and 24 k N bytes for the neighbours, then some
    70 microseconds a pick. "auto": exact up to 10,000 distinct items, or with fewer than about N / 400
    picks; else 2 N / budget neighbours, from 32 to 256.

    Left open by the paper, and settled here: the similarity (above, so that it is not negative and the first gains have
    a closed form); neighbours, where the pool is large (a point counts as represented as well as by its k-th nearest
    from the start; once each has a nearer one among the chosen, gains are the exact ones); ties (lowest index first).
    Equal embeddings are computed once; a zero vector is like other zero vectors and orthogonal to everything else.

    `objective` is f(S), exact also with n_neighbors. `certificate`: no set of that size has a larger f (see the module
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
        folded = fold(cosine_grid(X))
        coverage = self._coverage(folded, task)
        before = np.unique(folded.of_N[task.already_N])
        coverage.represent(before)
        lowest_M = coverage.begin()
        bonus_N, share = self._bonus(task)
        indices, gains, bounds_N = lazy_greedy(coverage, folded.of_N, bonus_N, task)
        bonus = int(bonus_N[indices].sum())
        objective = coverage.total() + bonus
        if isinstance(coverage, Sparse):
            objective = coverage.dense_total(np.union1d(before, folded.of_N[indices])) + bonus
        if isinstance(coverage, Sparse) or (isinstance(coverage, Dense) and len(folded.points_MD) <= FEW):
            reached = coverage.total() + bonus
            certificate = upper_bound(coverage, lowest_M, reached, folded.of_N, bonus_N, task)
        else:
            certificate = self._bound_of_exact(coverage, folded, before, indices, bounds_N, bonus_N, task)
        unit = share / (2 * SHIFT * max(1, task.size))
        return Picks(indices, gains * unit, objective * unit, certificate * unit)

    def _bound_of_exact(
        self,
        coverage: Dense | Blocked,
        folded: Folded,
        before: np.ndarray,
        indices: np.ndarray,
        bounds_N: np.ndarray,
        bonus_N: np.ndarray,
        task: Task,
    ) -> int:
        """The certificate of an exact choice: that of the objective with neighbours, which is never smaller.

        With so small a budget that too many neighbours would be needed, Minoux's bound by the last known gains.
        """
        bonus = int(bonus_N[indices].sum())
        enough = math.ceil(CERTAIN * len(folded.points_MD) / max(1, task.budget))
        if enough > MOST:
            left_N = task.open_N.copy()
            left_N[indices] = False
            best = task.room.best(bounds_N, left_N, task.budget)
            return coverage.total() + bonus + int(bounds_N[best].sum())
        fewer = max(1, min(max(FEWEST, enough), len(folded.points_MD) - 1))
        near = Sparse(folded, nearest(folded.points_MD, fewer, task.progress))
        near.represent(before)
        lowest_M = near.begin()
        for point in folded.of_N[indices].tolist():
            near.take(point)
        return upper_bound(near, lowest_M, near.total() + bonus, folded.of_N, bonus_N, task)

    def neighbours(self, distinct: int, budget: int) -> int | None:
        """How many neighbours a pool of so many distinct items is searched for; None: exact."""
        if isinstance(self.n_neighbors, int):
            return self.n_neighbors if self.n_neighbors < distinct else None
        if self.n_neighbors == "exact":
            return None
        if distinct <= EXACT or MOST * budget < LEAST_COVER * distinct:
            return None
        return min(max(FEWEST, math.ceil(COVER * distinct / budget)), MOST)

    def _coverage(self, folded: Folded, task: Task) -> Dense | Blocked | Sparse:
        distinct = len(folded.points_MD)
        k = self.neighbours(distinct, task.budget)
        if k is not None:
            return Sparse(folded, nearest(folded.points_MD, k, task.progress))
        return Dense(folded) if distinct <= DENSE else Blocked(folded)

    def _bonus(self, task: Task) -> tuple[np.ndarray, float]:
        """(what each item's score is worth in the units of the products, the share of f in the objective)."""
        if task.scores_N is None or not task.size:
            return np.zeros(task.size, np.int64), 1.0
        worth = self.quality / (1 - self.quality) * 2 * SHIFT
        if worth * task.size > 2**62:
            raise SelectionError(f"a quality of {self.quality} is too near to 1: similarity would count for nothing.")
        scores_N = np.ldexp(task.scores_N, -np.frexp(np.abs(task.scores_N).max())[1])  # so that high - low is finite
        low, high = scores_N.min(), scores_N.max()
        scaled_N = (scores_N - low) / (high - low) if high > low else np.zeros(task.size)
        return np.rint(scaled_N * worth).astype(np.int64), 1 - self.quality
