"""Worker processes on one machine, which end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess

from reflect_rl.errors import WorkerError

SAFE_PATH = "PYTHONSAFEPATH"


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned (not forked) processes, which end with their parent: an orphan would keep its run locked.

    A keyboard interrupt, which workers receive too, ends them silently: the parent reports it. Raises WorkerError if
    a worker was killed.
    """
    given = (os.environ.get(SAFE_PATH),)
    with _started_safely():  # creating the pool already starts a process, the resource tracker
        made = ProcessPoolExecutor(workers, mp_context=_Context(), initializer=_begin, initargs=given)
    with made as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise WorkerError(
                "A worker process was killed, perhaps for want of memory. What is finished is kept: run the same "
                "command again, with fewer workers if there are several."
            ) from error


class _Process(SpawnProcess):
    def start(self) -> None:
        with _started_safely():
            super().start()


class _Context(SpawnContext):
    Process = _Process


@contextmanager
def _started_safely() -> Iterator[None]:
    """Processes started here import nothing from the current folder, and get no interrupt before `_begin`."""
    former = os.environ.get(SAFE_PATH)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        _set_safe_path(former)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _set_safe_path(value: str | None) -> None:
    if value is None:
        os.environ.pop(SAFE_PATH, None)
    else:
        os.environ[SAFE_PATH] = value


def _begin(safe_path: str | None) -> None:
    _set_safe_path(safe_path)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with_the_parent()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()  # also returns when the parent was killed
        os._exit(1)  # runs continue from their checkpoints

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
