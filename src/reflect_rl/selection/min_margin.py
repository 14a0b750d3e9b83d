"""Min margin."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from reflect_rl.selection.tokens import Tokens, Uncertainty


class MinMargin(Uncertainty):
    r"""Smallest gap between the two likeliest tokens, anywhere in the text.

    $$u(x) = -\min_{t} m_t, \qquad m_t = p_t^{(1)} - p_t^{(2)}$$

    Source: arXiv 2401.06692. X: margins of probabilities, from 0 to 1. As in `mean_margin`.
    """

    name: ClassVar[str] = "min-margin"
    quantity: ClassVar[str] = "margins"
    high: ClassVar[float] = 1.0

    def score(self, tokens: Tokens) -> np.ndarray:
        return -tokens.reduce(np.minimum)
