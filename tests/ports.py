"""Free ports for servers that have to be told one."""

from __future__ import annotations

import os
import socket
from itertools import count

FIRST, EACH = 20_000, 500
"""A worker's ports lie below those that the system gives to anybody, so that no other process takes one meanwhile."""
_given = count()


def free_port() -> int:
    """A port of 127.0.0.1 that is free, and that no other worker of the tests is given."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(EACH):
        port = FIRST + worker * EACH + next(_given) % EACH
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"None of {EACH} ports is free.")
