"""95 % confidence intervals for success rates, and for means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

Z = 1.959964
"""97.5 % quantile of the normal distribution."""
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120)
"""97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom."""


def wilson(successes: float, episodes: int) -> tuple[float, float]:
    """Wilson's score interval of a success rate; (0, 1) for no episodes."""
    if not episodes:
        return 0.0, 1.0
    share, spread = successes / episodes, Z * Z / episodes
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / episodes + spread / (4 * episodes))
    return max(0.0, centre - half), min(1.0, centre + half)


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond the table by the Cornish-Fisher expansion (error below 0.001)."""
    if freedom <= len(T):
        return T[freedom - 1]
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)


def mean_interval(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """Student's t interval for the mean of independent values (seeds), clipped to [low, high].

    With fewer than two values the spread is unknown, and the interval is [low, high].
    """
    if len(values) < 2:
        return low, high
    half = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return max(low, fmean(values) - half), min(high, fmean(values) + half)
