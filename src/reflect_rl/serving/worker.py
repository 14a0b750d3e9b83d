"""A thread that runs the code of worlds, which may hang: one thing after another, and never in the way of the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """A thread like an executor's, but the process ends without it. name: the thread's."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still works; not for ever after `close`, unless it hangs."""
        return self._thread.is_alive()

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        """Do a job after the earlier ones; never, after `close`."""
        done: Future[Result] = Future()
        self._jobs.put((done, job))
        return done

    def close(self) -> None:
        """End after the jobs that are there. Does not wait."""
        self._jobs.put(None)

    def join(self, seconds: float) -> None:
        """Wait until it has ended."""
        self._thread.join(max(seconds, 0))

    def _work(self) -> None:
        while next_one := self._jobs.get():
            done, job = next_one
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(job())
                except BaseException as error:  # noqa: BLE001  whoever waits for the result raises it
                    done.set_exception(error)
            del next_one, done, job  # it would keep them until the next


def wait_for(workers: Iterable[Worker], seconds: float) -> None:
    """Wait until these have ended, for so long in all."""
    given_up = time.monotonic() + seconds
    for worker in workers:
        worker.join(given_up - time.monotonic())
