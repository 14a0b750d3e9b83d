"""Embeddings rounded to an integer grid, so that similarities are the same bits whatever computes them.

A matrix product in floating point depends on block shapes, threads and library, and a greedy choice between near ties
depends on the last bit. Unit vectors are therefore scaled by R and rounded to whole numbers, with R so small that
every partial sum of a product of two of them is a whole number that the floating-point type holds exactly
(|q . q'| <= |q| |q'| <= 2^24 in float32, 2^53 in float64). Such products are exact in any order of summation, so that
every implementation, block size and number of threads picks the same set, ties included.

The cost is resolution: in float32 a cosine is off by about 1e-4 (standard deviation), whatever the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.selection.arrays import as_array, as_floats

EXACT_BITS = {np.dtype(np.float32): 24, np.dtype(np.float64): 53}
ROWS = 8192


@dataclass(frozen=True, slots=True)
class Grid:
    """points_ND: whole numbers in a floating-point type. radius: the factor that scaled vectors over 2^exponent.

    off_N: the distance of each unit vector from its point (cosine only).

    Closeness of two points is a whole number that grows as they come nearer: q . q' for cosine, -|q - q'|^2 for
    euclidean.
    """

    points_ND: np.ndarray
    radius: float
    metric: str = "cosine"
    exponent: int = 0
    off_N: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points_ND)

    @property
    def rounding(self) -> float:
        """For any set of j, the mean over i of max_j (1 + cos_ij) / 2 exceeds its value on the grid by at most this."""
        if self.off_N is None or not len(self):
            return 0.0
        most = float(self.off_N.max())
        return float((self.off_N + (1 + self.off_N) * most).mean()) / 2

    def norms_N(self) -> np.ndarray:
        """Squared lengths, exact."""
        return np.einsum("nd,nd->n", self.points_ND, self.points_ND).astype(np.float64)


def check_embeddings(X: Any) -> np.ndarray:
    """X as an (N, D) array of finite numbers, float64 or less. Raises SelectionError, naming the first bad row."""
    try:
        array_ND = as_array(X)
        if array_ND.dtype.kind not in "fiub" or array_ND.dtype.itemsize > 8:
            array_ND = as_floats(array_ND)
    except (ValueError, TypeError, OverflowError) as error:
        raise SelectionError(
            f"embeddings should be one vector of numbers an item, all of one length ({error})."
        ) from None
    if array_ND.ndim != 2 or not array_ND.shape[1]:
        raise SelectionError(f"embeddings should be an (items, width) array; this one has shape {array_ND.shape}.")
    for start in range(0, len(array_ND), ROWS):
        bad_B = ~np.isfinite(array_ND[start : start + ROWS]).all(axis=1)
        if bad_B.any():
            raise SelectionError(
                f"the embedding of item {start + int(bad_B.argmax())} has a value that is not finite (NaN or "
                f"infinity). Leave the item out, or embed it again."
            )
    return array_ND


def cosine_grid(X: Any) -> Grid:
    """Unit vectors on the grid. All zero vectors are one point of their own, orthogonal to everything else."""
    array_ND = check_embeddings(X)
    count, width = array_ND.shape
    zeros_N = ~array_ND.any(axis=1)
    extra = int(zeros_N.any())
    radius = math.floor(2 ** (EXACT_BITS[np.dtype(np.float32)] / 2) - math.sqrt(width + extra) / 2)
    points_ND = np.zeros((count, width + extra), np.float32)
    off_N = np.zeros(count)
    for start in range(0, count, ROWS):
        part = slice(start, start + ROWS)
        block_BD, lengths_B = _measured(array_ND[part])
        block_BD *= (radius / lengths_B)[:, None]
        points_ND[part, :width] = np.rint(block_BD)
        block_BD -= points_ND[part, :width]
        off_N[part] = np.sqrt(np.einsum("bd,bd->b", block_BD, block_BD)) / radius
    if extra:
        points_ND[zeros_N, width] = radius
    return Grid(points_ND, radius, off_N=off_N)


def cosines(array_ND: np.ndarray, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """(P,) cosines of pairs of rows, float64, not rounded to the grid. Zero vectors are alike."""
    cosines_P = np.empty(len(first_P))
    for start in range(0, len(first_P), ROWS):
        part = slice(start, start + ROWS)
        (ours_BD, lengths_B), (theirs_BD, their_lengths_B) = (_measured(array_ND[p[part]]) for p in (first_P, second_P))
        products_B = np.einsum("bd,bd->b", ours_BD, theirs_BD) / (lengths_B * their_lengths_B)
        cosines_P[part] = np.where(ours_BD.any(axis=1) | theirs_BD.any(axis=1), products_B, 1.0)
    return cosines_P


def _measured(block_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in float64, scaled so that no square overflows or vanishes, and their lengths (1 for zero vectors)."""
    block_BD = block_BD.astype(np.float64)
    largest_B1 = np.abs(block_BD).max(axis=1, keepdims=True)
    block_BD /= np.where(largest_B1 > 0, largest_B1, 1)
    return block_BD, np.sqrt(np.einsum("bd,bd->b", block_BD, block_BD)).clip(min=1.0)


def euclidean_grid(X: Any) -> Grid:
    """Vectors as they are, moved to their mean and scaled as one, in float64."""
    array_ND = check_embeddings(X).astype(np.float64)
    exponent = _scale(array_ND)  # so that neither sums nor squares overflow or vanish
    if len(array_ND):
        array_ND -= array_ND.mean(axis=0)
    exponent += _scale(array_ND)
    longest = math.sqrt(np.einsum("nd,nd->n", array_ND, array_ND).max(initial=0.0))
    reach = 2 ** (EXACT_BITS[np.dtype(np.float64)] / 2 - 1) - math.sqrt(array_ND.shape[1]) / 2
    radius = reach / longest if longest else 1.0
    return Grid(np.rint(array_ND * radius), radius, "euclidean", exponent)


def _scale(array_ND: np.ndarray) -> int:
    """Divide in place by the power of two that brings the largest magnitude into [0.5, 1), and return its exponent."""
    largest = max(array_ND.max(initial=0.0), -array_ND.min(initial=0.0))
    exponent = int(np.frexp(largest)[1])
    np.ldexp(array_ND, -exponent, out=array_ND)
    return exponent


@dataclass(frozen=True, slots=True)
class Folded:
    """Distinct points of a grid. of_N: the distinct point of each item; weights_M: how many items each stands for."""

    points_MD: np.ndarray
    of_N: np.ndarray
    weights_M: np.ndarray


def fold(grid: Grid) -> Folded:
    """Equal points made one, in the order of their first items."""
    bytes_NB = (np.ascontiguousarray(grid.points_ND) + 0.0).view(np.uint8)  # no negative zero
    keys_N = bytes_NB.view(np.dtype((np.void, bytes_NB.shape[1]))).ravel()
    _, first_M, of_N = np.unique(keys_N, return_index=True, return_inverse=True)
    order_M = np.argsort(first_M)
    rank_M = np.empty_like(order_M)
    rank_M[order_M] = np.arange(len(order_M))
    of_N, first_M = rank_M[of_N.ravel()], first_M[order_M]
    if len(first_M) == len(grid):
        return Folded(grid.points_ND, of_N, np.ones(len(grid), np.int64))
    points_MD = grid.points_ND[first_M]
    return Folded(points_MD, of_N, np.bincount(of_N, minlength=len(first_M)).astype(np.int64))
