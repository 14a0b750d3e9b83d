"""Files beside a pool that keep what a model has computed: each is written by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from reflect_rl.errors import SelectionError
from reflect_rl.progress import Progress
from reflect_rl.runs.locks import take_lock


@contextmanager
def kept_file(opened: Path, path: Path, progress: Progress) -> Iterator[IO[bytes]]:
    """Open a file for reading and appending, with a lock; `path` is its name in messages.

    Raises SelectionError if another process is writing it, or if it cannot be written.
    """
    try:
        with opened.open("a+b") as file:
            try:
                take_lock(file, path, progress.warn)
            except BlockingIOError:
                raise SelectionError(f"{path} is being written by another process. Wait until it ends.") from None
            yield file
    except OSError as error:
        raise SelectionError(
            f"{path} could not be written: {error.strerror or error}. What the model has computed so far is kept; mend "
            f"this and run the same command again to continue."
        ) from error
