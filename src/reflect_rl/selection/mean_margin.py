"""Mean margin."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from reflect_rl.selection.tokens import Tokens, Uncertainty


class MeanMargin(Uncertainty):
    r"""Smallest mean gap between the two likeliest tokens.

    $$u(x) = -\frac{1}{T} \sum_{t=1}^{T} m_t, \qquad m_t = p_t^{(1)} - p_t^{(2)}$$

    Source: arXiv 2401.06692. X: margins of probabilities, from 0 to 1. Left open by the paper, and settled here: the
    gap is one of probabilities, not of logits.
    """

    name: ClassVar[str] = "mean-margin"
    quantity: ClassVar[str] = "margins"
    high: ClassVar[float] = 1.0

    def score(self, tokens: Tokens) -> np.ndarray:
        return -tokens.mean()
