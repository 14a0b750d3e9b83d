"""Limit matrix products to one thread each, while our own threads compute blocks side by side.

Idle OpenBLAS threads spin, which costs a third of the time when blocks are examined between products. numpy has no
setting for this, so OpenBLAS, which numpy's wheels contain, is called directly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

PREFIXES_SUFFIXES = (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", ""))


@contextmanager
def single_threaded() -> Iterator[bool]:
    """Run matrix products on one thread each within the block. Yields False where numpy uses another library."""
    library = _openblas()
    if library is None:
        yield False
        return
    get, set_ = library
    before = get()
    set_(1)
    try:
        yield True
    finally:
        set_(before)


def _openblas() -> tuple[Any, Any] | None:
    """OpenBLAS's functions that get and set the number of threads, found through numpy's own extension module."""
    spec = find_spec("numpy._core._multiarray_umath")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError:
        return None
    for prefix, suffix in PREFIXES_SUFFIXES:
        get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
        set_ = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
        if get is not None and set_ is not None:
            return get, set_
    return None
