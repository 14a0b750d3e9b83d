"""The memory of this process: the most that it held, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage


def peak_memory_mb() -> float:
    """The most memory that this process has held so far (resident, 10^6 bytes)."""
    status = Path("/proc/self/status")  # Linux, whose getrusage counts what the parent held before exec
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    unit = 1 if sys.platform == "darwin" else 1024
    return round((int(found[1]) if found else getrusage(RUSAGE_SELF).ru_maxrss) * unit / 1e6, 1)


def give_back_memory() -> None:
    """Return freed memory to the system, which glibc does by itself only at the end of its heap."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
