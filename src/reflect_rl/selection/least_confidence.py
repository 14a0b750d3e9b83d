"""Least confidence."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from reflect_rl.selection.tokens import Tokens, Uncertainty


class LeastConfidence(Uncertainty):
    r"""Smallest probability of the generated sequence.

    $$u(x) = -\log p(y \mid x) = -\sum_{t=1}^{T} \log p_t(y_t)$$

    Source: arXiv 2401.06692. X: log-probabilities of the generated tokens, 0 or less, natural logarithm. Ranked by the
    negative logarithm, which orders as 1 - p does and does not vanish on long texts. Left open by the paper, and
    settled here: nothing is divided by the length, so that long texts count as less certain.
    """

    name: ClassVar[str] = "least-confidence"
    quantity: ClassVar[str] = "logprobs"
    low: ClassVar[float] = -1e30
    high: ClassVar[float] = 0.0

    def score(self, tokens: Tokens) -> np.ndarray:
        return -tokens.reduce(np.add)
