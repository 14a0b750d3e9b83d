"""Stop training when a number is not finite, before anything affected is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from reflect_rl.errors import NonFiniteError
from reflect_rl.training.checkpoint import Checkpointer


def finite(what: str, value: float) -> float:
    """Return `value`. Raises NonFiniteError if it is NaN or infinite."""
    if not math.isfinite(value):
        raise NonFiniteError(f"{what} is {value}")
    return value


@contextmanager
def stopping(stage: str, unit: str, number: int, checkpoint: Checkpointer, advice: str) -> Iterator[None]:
    """Extend a NonFiniteError from the block with its place, the last good checkpoint, and advice.

    unit, number: the current position, such as step 3. advice: used if the error has none of its own.
    """
    try:
        yield
    except NonFiniteError as error:
        place, done = checkpoint.run / checkpoint.name, checkpoint.done
        saved = f"the last checkpoint, after {unit} {done}, is finite ({place})"
        raise NonFiniteError(
            f"training stopped in {stage}, {unit} {number}: {error.what}. Nothing of it was written; "
            f"{saved if done else 'there is no checkpoint yet'}",
            f"{error.advice or advice} With other settings the stage begins anew.",
        ) from error
