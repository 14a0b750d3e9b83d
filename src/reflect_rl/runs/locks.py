"""One process at a time at a file: the lock that every writer of ours takes."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import IO

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""What file systems answer that know no locks, such as some network drives."""


def take_lock(file: IO, path: Path, warn: Callable[[str], None]) -> None:
    """Lock an open file of this path until it is closed. Raises BlockingIOError if another process has it.

    Where the file system has no locks, this is announced, and the work goes on without.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(
            f"{path.parent} is on a file system without locks ({error.strerror}). Nothing keeps a second process out: "
            f"start no other command on it."
        )
