"""Training stops where a number is no longer finite, before anything of it is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from reflect_rl.errors import NonFiniteError
from reflect_rl.training.checkpoint import Checkpointer


def finite(what: str, value: float) -> float:
    """`value`. Raises NonFiniteError if it is NaN or infinite."""
    if not math.isfinite(value):
        raise NonFiniteError(f"{what} is {value}")
    return value


@contextmanager
def stopping(where: str, checkpoint: Checkpointer, advice: str) -> Iterator[None]:
    """Tell of a NonFiniteError in the block where it arose, which checkpoint is still good, and what to do.

    where: the stage and the step. advice: for numbers of which no better advice is known.
    """
    try:
        yield
    except NonFiniteError as error:
        left = "There is no checkpoint before it"
        if checkpoint.done:
            place = checkpoint.run / checkpoint.name
            left = f"The last checkpoint, of {checkpoint.done} before it ({place}), is finite"
        raise NonFiniteError(
            f"training stopped in {where}: {error.what}. {left}; nothing that is not finite was written",
            f"{error.advice or advice} With other settings the stage begins anew.",
        ) from error
