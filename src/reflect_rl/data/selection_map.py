"""A map of the pool for the report: each state as a point, on the two axes along which the embeddings vary most."""

from __future__ import annotations

from typing import Any

import numpy as np

from reflect_rl.players.prompt import CUE_REFLECTION
from reflect_rl.selection.blas import single_threaded

MOST_SHOWN = 3000
"""Points of a map. Of larger pools evenly spaced ones are kept, of the picks by rank, of the others in pool order."""
MOST_TEXT = 600
"""Characters of a state's text that are kept: the last ones, which hold the observation."""
DIGITS = 4
ROWS = 8192


def map_points(
    ids: list[str], texts: list[str], embeddings_ND: np.ndarray, picks: np.ndarray
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """(rows of selection_map.jsonl, share of the variance on each of the two axes (2,)).

    ids, texts: of the N states. picks: (k,) indices in order of choice. The axes are those of all N states, whichever
    of them are shown. Rows are the picks by rank, then the others; rank is None for those.
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
    """(coordinates (N, 2), share of the variance that each axis holds (2,)) of principal component analysis, float64.

    Exact, by the eigenvectors of the D x D covariance. An axis points to where its largest entry is positive. Shares
    are 0 where all rows are alike. Width D is 2 or more.
    """
    count, width = embeddings_ND.shape
    mean_D = embeddings_ND.mean(axis=0, dtype=np.float64)
    blocks = range(0, count, ROWS)
    with single_threaded():  # the order of summation, and so the last bit, depends on the number of threads
        scatter_DD = np.zeros((width, width))
        for start in blocks:
            centred_BD = embeddings_ND[start : start + ROWS] - mean_D
            scatter_DD += centred_BD.T @ centred_BD
        axes_D2 = np.linalg.eigh(scatter_DD).eigenvectors[:, :-3:-1]  # ascending: the last two, largest first
        axes_D2 *= np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), [0, 1]])
        places_N2 = np.concatenate([(embeddings_ND[start : start + ROWS] - mean_D) @ axes_D2 for start in blocks])
    total = float(np.trace(scatter_DD))
    if total <= 1e-9 * (total + count * float(mean_D @ mean_D)):  # only what rounding makes of equal rows
        return np.zeros((count, 2)), np.zeros(2)
    return places_N2, (places_N2**2).sum(axis=0) / total


def _shown(size: int, picks: np.ndarray) -> list[int]:
    """Indices of the states on the map: half of the room each for picks and others, unless one needs less."""
    others = np.setdiff1d(np.arange(size), picks)
    room = max(MOST_SHOWN // 2, MOST_SHOWN - len(picks))
    kept = [_evenly(picks, max(MOST_SHOWN // 2, MOST_SHOWN - len(others))), _evenly(others, room)]
    return np.concatenate(kept).astype(int).tolist()


def _evenly(items: np.ndarray, most: int) -> np.ndarray:
    """At most so many, evenly spaced, the first and the last among them."""
    return items if len(items) <= most else items[np.linspace(0, len(items) - 1, most).round().astype(int)]


def _shortened(text: str) -> str:
    text = text.removesuffix(CUE_REFLECTION).strip("\n")
    return text if len(text) <= MOST_TEXT else f"… {text[-MOST_TEXT:]}"
