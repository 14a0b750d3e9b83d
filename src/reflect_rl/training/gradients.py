"""The gradients of one optimizer step: over the passes of this process, and over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from reflect_rl.lm.out_of_memory import fitted
from reflect_rl.ranks import Ranks


def accumulate(
    parts: Callable[[], Iterable[Tensor]], module: nn.Module, ranks: Ranks, halve: Callable[[], bool]
) -> float:
    """Return the loss, and leave its gradients in the trained weights of `module`.

    parts: gives this rank's share of the loss in parts to be summed; each part's backward pass runs before the next
    part is computed. Ranks meet only after their last part, so one that runs out of memory may halve its passes and
    begin its share again. halve: as for `fitted`.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]

    def backward() -> float:
        total = 0.0
        for weight in weights:
            weight.grad = None  # of passes that ran out of memory
        for part in parts():
            part.backward()
            total += float(part.detach())
        return total

    loss = fitted(backward, halve)
    ranks.sum_gradients(weights)
    return sum(ranks.gather(loss))
