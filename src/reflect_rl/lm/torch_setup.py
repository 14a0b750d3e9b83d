"""Set up torch for a stage (threads, determinism, device), and restore the process afterwards."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reflect_rl.errors import SettingsError
from reflect_rl.lm.out_of_memory import out_of_memory_explained
from reflect_rl.settings import ComputeSettings

BITWISE = {"MKL_CBWR": "AUTO", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Environment variables that the same results to the bit need; libraries read them on first use.

Without the first, Intel's MKL uses other kernels for the rows of a second thread, so a prompt's last bits would depend
on its position in a batch. Without the second, torch refuses deterministic matrix products on an NVIDIA GPU.
"""


def check_device(device: str) -> None:
    """Raise SettingsError if the device is not available."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        raise SettingsError(f"compute.device: {device} is not available here. Use compute.device: cpu.")


@contextmanager
def torch_set_up(compute: ComputeSettings) -> Iterator[None]:
    """Set threads and determinism; afterwards restore them and torch's generator.

    Raises SettingsError if the device is not available, and ModelError if it runs out of memory.
    """
    import torch

    check_device(compute.device)
    given = {name: os.environ.get(name) for name in BITWISE}
    for name, value in BITWISE.items():
        os.environ.setdefault(name, value)
    memory: Any = torch.utils.deterministic
    threads, fills, frozen = torch.get_num_threads(), memory.fill_uninitialized_memory, gc.get_freeze_count()
    strict, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    gc.freeze()  # exclude the libraries' objects, whose traversal takes a tenth of a second each time
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(compute.device != "mps")
    memory.fill_uninitialized_memory = False  # uninitialised memory is never read here
    try:
        # New layers draw from torch's generator before their weights are set.
        with out_of_memory_explained(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=only_warns)
        memory.fill_uninitialized_memory = fills
        for name in (name for name, value in given.items() if value is None):
            os.environ.pop(name, None)
        if not frozen:
            gc.unfreeze()
