"""Remember the weights that solve most valid tasks (`rl.keep: best`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reflect_rl.training.checkpoint import Checkpoint, named_trained, trained_weights


class BestWeights:
    """The trained weights with the highest success on the valid tasks; of equal ones, the latest.

    iterations: how many iterations of RL they have had; 0: the weights after SFT. valid_success: their share of the
    valid tasks, 0 to 1. weights: copies on the CPU, by name; none before the first offer.
    """

    def __init__(self, module: nn.Module, found: Checkpoint | None = None) -> None:
        figures = found.extra["best"] if found else {"iterations": 0, "valid_success": 0.0}
        self._module = module
        self.iterations: int = figures["iterations"]
        self.valid_success: float = figures["valid_success"]
        self.weights: dict[str, Tensor] = found.earlier if found else {}

    def offer(self, iterations: int, valid_success: float) -> None:
        """Copy the module's weights unless earlier ones are better."""
        if valid_success >= self.valid_success:
            self.iterations, self.valid_success = iterations, valid_success
            self.weights = trained_weights(self._module)

    def restore(self) -> None:
        """Give the module the best weights."""
        with torch.no_grad():
            for name, weight in named_trained(self._module):
                weight.copy_(self.weights[name])

    def figures(self) -> dict[str, float]:
        return {"iterations": self.iterations, "valid_success": self.valid_success}
