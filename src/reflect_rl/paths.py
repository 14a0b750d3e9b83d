"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with a leading ~ or ~user replaced by that home folder, or as it is if there is none."""
    return Path(os.path.expanduser(path))
