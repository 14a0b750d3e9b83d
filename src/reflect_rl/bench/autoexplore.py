"""Speed and memory of AutoExplore: the index of a large folder.

- index_seconds: time to index INDEX_FILES files in 1,000 folders on the third level. They were just written, so their
  names are in memory. The best of REPEATS, since other load on the machine only ever slows it down.
- index_mb: the most memory that Python objects take meanwhile, of which index_kept_mb remain afterwards.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflect_rl.envs.autoexplore.tree import Tree
from reflect_rl.progress import Progress

INDEX_FILES = 100_000
FOLDERS = 10
"""Folders in each folder, on three levels."""
REPEATS = 3


def bench_autoexplore(progress: Progress, files: int = INDEX_FILES) -> dict[str, Any]:
    """Measure everything; about a minute, mostly for writing the files. files: how many are indexed."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="reflect-rl-bench-") as folder, progress.bar("bench", 3, "parts") as bar:
        write_files(Path(folder), files)
        bar.update()
        index_seconds = min(timed_index(Path(folder)) for _ in range(REPEATS))
        bar.update()
        memory = measure_memory(Path(folder))
        bar.update()
    return {
        "index_files": files,
        "index_seconds": index_seconds,
        **memory,
        "machine": {"cpus": os.cpu_count(), "python": sys.version.split()[0]},
        "seconds": time.perf_counter() - started,
    }


def write_files(folder: Path, files: int) -> None:
    """Spread empty files evenly over folders on the third level."""
    places = [
        folder / f"package_{i}" / f"module_{j}" / f"part_{k}"
        for i in range(FOLDERS)
        for j in range(FOLDERS)
        for k in range(FOLDERS)
    ]
    for place in places:
        place.mkdir(parents=True)
    for number in range(files):
        (places[number % len(places)] / f"some_source_{number}.py").touch()


def timed_index(folder: Path) -> float:
    """Seconds to index a folder."""
    began = time.perf_counter()
    Tree.index(folder)
    return time.perf_counter() - began


def measure_memory(folder: Path) -> dict[str, float]:
    """Megabytes (10^6 bytes) of an index: at most while it is made, and when it is done."""
    tracemalloc.start()
    try:
        tree = Tree.index(folder)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return {"index_nodes": len(tree), "index_mb": peak / 1e6, "index_kept_mb": kept / 1e6}


def autoexplore_table(figures: Mapping[str, Any]) -> str:
    """The results as text."""
    machine = figures["machine"]
    return (
        f"index of {figures['index_files']:,} files           {figures['index_seconds']:>8.2f} s, "
        f"{figures['index_mb']:.0f} MB at most, {figures['index_kept_mb']:.0f} MB kept\n"
        f"one core of {machine['cpus']}, Python {machine['python']}, {figures['seconds']:.0f} seconds"
    )
