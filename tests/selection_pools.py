"""Pools to select from, and plain implementations of what selection computes: an item at a time, nothing remembered."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from reflect_rl.selection.coverage import SHIFT
from reflect_rl.selection.grid import cosine_grid


@st.composite
def pools(draw: st.DrawFn, most: int = 60) -> np.ndarray:
    """Embeddings (N, D): random, clustered, with many duplicates, or on a coarse lattice where most gains tie."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, width = draw(st.integers(2, most)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["random", "clustered", "duplicates", "lattice"]))
    if kind == "random":
        return rng.standard_normal((size, width))
    if kind == "lattice":
        return rng.integers(-1, 2, (size, width)).astype(np.float32)  # zero vectors among them
    centres = rng.standard_normal((max(1, size // 6), width))
    noise = rng.standard_normal((size, width)) * (0.0 if kind == "duplicates" else 0.1)
    return (centres[rng.integers(0, len(centres), size)] + noise).astype(np.float32)


def similarities(X: np.ndarray) -> np.ndarray:
    """(N, N) float64 in [0, 1], of the points on the grid."""
    points_ND = cosine_grid(X).points_ND.astype(np.float64)
    return (points_ND @ points_ND.T + SHIFT) / (2 * SHIFT)


def true_similarities(X: np.ndarray) -> np.ndarray:
    """(N, N) float64, (1 + cos) / 2 of the embeddings as they are; zero vectors are alike, and orthogonal to others."""
    X = np.asarray(X, np.float64)
    X = np.c_[X, ~X.any(axis=1)]
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return (1 + X @ X.T) / 2


def plain_facility_location(
    similar_NN: np.ndarray, budget: int, already: np.ndarray, floors_N: np.ndarray | float = 0.0
) -> list[int]:
    """Greedy by evaluating every item at every step. floors_N: how well each is represented from the start."""
    best_N = np.maximum(similar_NN[already].max(axis=0, initial=0.0), floors_N)
    left = [item for item in range(len(similar_NN)) if item not in set(already.tolist())]
    chosen: list[int] = []
    for _ in range(budget):
        gains = [(np.maximum(similar_NN[item] - best_N, 0) * 2 * SHIFT).sum() for item in left]
        chosen.append(left.pop(int(np.argmax(gains))))
        best_N = np.maximum(best_N, similar_NN[chosen[-1]])
    return chosen


def plain_k_center(similar_NN: np.ndarray, budget: int, already: np.ndarray, first: int) -> list[int]:
    """Farthest-first, an item at a time."""
    size = len(similar_NN)
    nearest_N = similar_NN[already].max(axis=0, initial=-1.0)
    taken_N = np.zeros(size, bool)
    taken_N[already] = True
    chosen: list[int] = []
    for _ in range(budget):
        item = first if not chosen and not len(already) else int(np.where(taken_N, 2.0, nearest_N).argmin())
        chosen.append(item)
        taken_N[item] = True
        nearest_N = np.maximum(nearest_N, similar_NN[item])
    return chosen
