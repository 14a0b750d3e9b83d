"""An order of points in which similar ones are often adjacent. It affects only the time of the neighbour search."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from reflect_rl.seeding import stream

PER_LEADER = 64
"""Points for each leader, the points that the others follow."""
CHAINED = 1024
"""Points up to which each is followed by the most similar one that is left."""
ROUNDS = 2
"""How often leaders are moved to the middle of what follows them."""
PART = 512

Map = Callable[[Callable[[slice], np.ndarray], Iterable[slice]], Iterable[np.ndarray]]
Like = Callable[[np.ndarray], Callable[[slice], np.ndarray]]
"""leaders_LD -> a function from a slice of the points to the leader that each is (nearly) most similar to."""


def order_by_likeness(points_MD: np.ndarray, like: Like | None = None, spread: Map = map) -> np.ndarray:
    """The order (M,): by leaders, and these by leaders of their own, down to a chain.

    spread: how parts are worked on, a thread pool's map for example.
    """
    if len(points_MD) <= CHAINED:
        return chain(points_MD)
    drawn = stream(0, "neighbours").permutation(len(points_MD))[: len(points_MD) // PER_LEADER]
    leaders_LD = points_MD[drawn]
    parts = [slice(start, start + PART) for start in range(0, len(points_MD), PART)]

    def followed() -> np.ndarray:
        most_similar = like(leaders_LD) if like else lambda part: (points_MD[part] @ leaders_LD.T).argmax(axis=1)
        return np.concatenate(list(spread(most_similar, parts)))

    for _ in range(ROUNDS):
        leaders_LD = middles(points_MD, followed(), leaders_LD)
    place_L = np.empty(len(leaders_LD), np.int64)
    place_L[order_by_likeness(leaders_LD)] = np.arange(len(leaders_LD))
    return np.argsort(place_L[followed()], kind="stable")


def chain(points_MD: np.ndarray) -> np.ndarray:
    """From the first point on always the most similar one that is left."""
    like_MM = points_MD @ points_MD.T
    order, here = [0][: len(points_MD)], 0
    for _ in range(1, len(points_MD)):
        like_MM[:, here] = -np.inf
        here = int(like_MM[here].argmax())
        order.append(here)
    return np.array(order, np.int64)


def middles(points_MD: np.ndarray, near_M: np.ndarray, leaders_LD: np.ndarray) -> np.ndarray:
    """The direction of the sum of each leader's points, as long as the leader; the leader itself where it has none."""
    sums_LD = np.zeros(leaders_LD.shape)
    by_leader = np.argsort(near_M, kind="stable")
    leaders, starts = np.unique(near_M[by_leader], return_index=True)
    for leader, own in zip(leaders, np.split(by_leader, starts[1:]), strict=True):
        sums_LD[leader] = points_MD[own].sum(axis=0, dtype=np.float64)
    lengths_L = np.sqrt(np.einsum("ld,ld->l", sums_LD, sums_LD))
    scale_L = np.sqrt(np.einsum("ld,ld->l", leaders_LD, leaders_LD)) / np.maximum(lengths_L, 1)
    return np.where(lengths_L[:, None] > 0, sums_LD * scale_L[:, None], leaders_LD).astype(np.float32)
