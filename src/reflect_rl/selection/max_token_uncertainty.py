"""Max token uncertainty."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from reflect_rl.selection.tokens import Tokens, Uncertainty


class MaxTokenUncertainty(Uncertainty):
    r"""Largest entropy of a single token.

    $$u(x) = \max_{t} H_t, \qquad H_t = -\sum_v p_t(v) \log p_t(v)$$

    Source: the strategy of that name in arXiv 2401.06692. Its exact formula was not available; that a token's
    uncertainty is its entropy is an assumption. X: entropies, 0 or more.
    """

    name: ClassVar[str] = "max-token-uncertainty"
    quantity: ClassVar[str] = "entropies"

    def score(self, tokens: Tokens) -> np.ndarray:
        return tokens.reduce(np.maximum)
