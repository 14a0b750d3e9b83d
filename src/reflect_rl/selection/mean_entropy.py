"""Mean entropy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from reflect_rl.selection.tokens import Tokens, Uncertainty


class MeanEntropy(Uncertainty):
    r"""Largest mean entropy of the generated tokens' distributions.

    $$u(x) = \frac{1}{T} \sum_{t=1}^{T} H_t, \qquad H_t = -\sum_v p_t(v) \log p_t(v)$$

    Source: arXiv 2401.06692. X: entropies, 0 or more, in any one unit. Left open by the paper, and settled here: the
    mean is over the tokens that were generated, the end token included if it is in the list.
    """

    name: ClassVar[str] = "mean-entropy"
    quantity: ClassVar[str] = "entropies"

    def score(self, tokens: Tokens) -> np.ndarray:
        return tokens.mean()
