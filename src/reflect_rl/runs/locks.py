"""A file lock that admits one process at a time."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import IO

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""Error codes of file systems without locks, such as some network drives."""


def take_lock(file: IO, path: Path, warn: Callable[[str], None], shared: bool = False) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError if another process holds the lock.

    shared: others may share it.

    On a file system without locks, warn and continue without one.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(
            f"{path.parent} is on a file system without locks ({error.strerror}). Nothing keeps a second process out: "
            f"start no other command on it."
        )
