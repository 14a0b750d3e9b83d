"""Out of memory on a GPU: work is done again in smaller passes, or ends with one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from reflect_rl.errors import ModelError

T = TypeVar("T")


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Raise ModelError with advice if the device runs out of memory in the block."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"The device has too little memory ({str(error).splitlines()[0]}). Lower compute.tokens or "
            f"reflector.batch, set compute.gradient_checkpointing: true, use fewer bits (--policy.model.bits 4, with "
            f"lora_rank), or a smaller model."
        ) from error


@out_of_memory_explained()
def fitted(work: Callable[[], T], halve: Callable[[], bool]) -> T:
    """Return `work()`. Whenever the device runs out of memory, halve the passes and do all of the work again.

    halve: returns False if the passes cannot be smaller. Then ModelError is raised.
    """
    import torch

    while True:
        try:
            return work()
        except torch.OutOfMemoryError:
            if not halve():
                raise
        torch.cuda.empty_cache()  # after the block: until its end, the error holds the tensors of the failed pass
