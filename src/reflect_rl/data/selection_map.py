"""A map of the pool for the report: each state as a point on the first two principal axes of the embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from reflect_rl.players.prompt import CUE_REFLECTION
from reflect_rl.selection.blas import single_threaded

MOST_SHOWN = 3000
"""Maximum points on a map. From larger pools, an evenly spaced subset is kept: picks by rank, others in pool order."""
MOST_TEXT = 600
"""Maximum characters of a state's text. The end is kept, since it holds the observation."""
DIGITS = 4
ROWS = 8192


def map_points(
    ids: list[str], texts: list[str], embeddings_ND: np.ndarray, picks: np.ndarray
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """(rows of selection_map.jsonl, share of the variance on each axis (2,)).

    ids, texts: of the N states. picks: (k,) indices in order of choice. The axes are computed from all N states, even
    if not all are shown. Picks come first, by rank, then the others with rank None.
    """
    places_N2, shares_2 = principal_axes(embeddings_ND)
    places_N2 = places_N2.round(DIGITS) + 0.0  # no negative zero
    rank = {int(index): place for place, index in enumerate(picks)}
    return [
        {
            "id": ids[index],
            "x": float(places_N2[index, 0]),
            "y": float(places_N2[index, 1]),
            "rank": rank.get(index),
            "text": _shortened(texts[index]),
        }
        for index in _shown(len(ids), picks)
    ], shares_2


def principal_axes(embeddings_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coordinates (N, 2), share of the variance on each axis (2,)) of principal component analysis, float64.

    Exact, by the eigenvectors of the D x D covariance. The largest entry of an axis is positive. Shares are 0 if all
    rows are equal. D must be at least 2.
    """
    count, width = embeddings_ND.shape
    mean_D = embeddings_ND.mean(axis=0, dtype=np.float64)
    blocks = range(0, count, ROWS)
    with single_threaded():  # the thread count changes the order of summation, and so the last bits
        scatter_DD = np.zeros((width, width))
        for start in blocks:
            centred_BD = embeddings_ND[start : start + ROWS] - mean_D
            scatter_DD += centred_BD.T @ centred_BD
        axes_D2 = np.linalg.eigh(scatter_DD).eigenvectors[:, :-3:-1]  # ascending: the last two, largest first
        axes_D2 *= np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), [0, 1]])
        places_N2 = np.concatenate([(embeddings_ND[start : start + ROWS] - mean_D) @ axes_D2 for start in blocks])
    total = float(np.trace(scatter_DD))
    if total <= 1e-9 * (total + count * float(mean_D @ mean_D)):  # equal rows, up to rounding
        return np.zeros((count, 2)), np.zeros(2)
    return places_N2, (places_N2**2).sum(axis=0) / total


def _shown(size: int, picks: np.ndarray) -> list[int]:
    """Indices of the states on the map: half the room for picks and half for others, unless one side needs less."""
    others = np.setdiff1d(np.arange(size), picks)
    room = max(MOST_SHOWN // 2, MOST_SHOWN - len(picks))
    kept = [_evenly(picks, max(MOST_SHOWN // 2, MOST_SHOWN - len(others))), _evenly(others, room)]
    return np.concatenate(kept).astype(int).tolist()


def _evenly(items: np.ndarray, most: int) -> np.ndarray:
    """At most `most` evenly spaced items, including the first and the last."""
    return items if len(items) <= most else items[np.linspace(0, len(items) - 1, most).round().astype(int)]


def _shortened(text: str) -> str:
    text = text.removesuffix(CUE_REFLECTION).strip("\n")
    return text if len(text) <= MOST_TEXT else f"… {text[-MOST_TEXT:]}"
