"""Memory of this process: its peak, and the return of freed memory to the system."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in megabytes (10^6 bytes)."""
    status = Path("/proc/self/status")  # on Linux getrusage includes the parent's peak before exec
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    unit = 1 if sys.platform == "darwin" else 1024
    return round((int(found[1]) if found else getrusage(RUSAGE_SELF).ru_maxrss) * unit / 1e6, 1)


def memory_mb() -> float:
    """Resident memory of this process now, in megabytes; on systems without /proc, its peak so far."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return peak_memory_mb()
    return int(pages) * getpagesize() / 1e6


def forget_peak_memory() -> bool:
    """Start `peak_memory_mb` anew from the present memory; whether this system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or forbidden
        return False
    return True


def give_back_memory() -> None:
    """Return freed memory to the system. glibc does so by itself only at the end of its heap."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
