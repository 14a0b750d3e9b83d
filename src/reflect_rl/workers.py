"""Processes side by side on one machine, which end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Fresh processes (not forked). One that outlived its parent would go on writing to a run, and keep it locked."""
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_the_parent
    )


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()  # returns also when the parent was killed
        os._exit(1)  # runs continue from their checkpoints

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
