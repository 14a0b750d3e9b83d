"""Speed and memory of AutoExplore: steps and resets in a tree of 1,000 files, and the index of a large folder.

One process on one core. Steps and resets are whole calls as users make them (`env.reset`, `env.step`).

- steps_per_second: random moves but `id`, EPISODE steps an episode, once every file was read; the best of REPEATS. Of
  "page", `cat` shows pages whole; of "matches", the lines that share most words with the question.
- first_steps_per_second: the same while files are read for the first time.
- reset_ms: the median of all resets.
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
from statistics import median
from typing import Any

from reflect_rl.envs.autoexplore.tree import Tree
from reflect_rl.envs.autoexplore.world import SHOWN, AutoExplore
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream

INDEX_FILES = 100_000
FOLDERS = 10
"""Folders in each folder, on three levels."""
REPEATS = 3
TREE_FILES, EPISODE, STEPS = 1_000, 50, 20_000
LINE = "    value_{0} = parse_header(response, encoding='utf-8')  # cookies of part {0}\n"
QUESTION = "Which function parses the cookies of a response?"


def bench_autoexplore(progress: Progress, files: int = INDEX_FILES) -> dict[str, Any]:
    """Measure everything; about a minute, mostly for writing the files. files: how many are indexed."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="reflect-rl-bench-") as folder, progress.bar("bench", 4, "parts") as bar:
        write_files(Path(folder, "small"), TREE_FILES, "".join(map(LINE.format, range(60))))
        speeds = {shown: measure_steps(Path(folder, "small"), shown) for shown in SHOWN}
        bar.update()
        write_files(Path(folder, "large"), files)
        bar.update()
        index_seconds = min(timed_index(Path(folder, "large")) for _ in range(REPEATS))
        bar.update()
        memory = measure_memory(Path(folder, "large"))
        bar.update()
    return {
        **{name: {shown: speeds[shown][name] for shown in SHOWN} for name in speeds[SHOWN[0]]},
        "tree_files": TREE_FILES,
        "index_files": files,
        "index_seconds": index_seconds,
        **memory,
        "machine": {"cpus": os.cpu_count(), "python": sys.version.split()[0]},
        "seconds": time.perf_counter() - started,
    }


def measure_steps(folder: Path, shown: str) -> dict[str, float]:
    """Steps per second and milliseconds of a reset, as the module says."""
    env = AutoExplore(root=str(folder), question=QUESTION, shown=shown, horizon=EPISODE)
    resets: list[float] = []
    speeds = [_walked(env, repeat, resets) for repeat in range(REPEATS + 1)]
    return {
        "steps_per_second": max(speeds[1:]),
        "first_steps_per_second": speeds[0],
        "reset_ms": 1000 * median(resets),
    }


def _walked(env: AutoExplore, repeat: int, resets: list[float]) -> float:
    """Steps per second of random moves. resets: takes the seconds of each reset."""
    draws = stream(repeat, "bench autoexplore").random(STEPS).tolist()
    seconds = 0.0
    for start in range(0, STEPS, EPISODE):
        began = time.perf_counter()
        _, info = env.reset(seed=start)
        resets.append(time.perf_counter() - began)
        began = time.perf_counter()
        for draw in draws[start : start + EPISODE]:
            actions = info["actions"]
            moves = next((index for index, name in enumerate(actions) if name.startswith("id ")), len(actions))
            *_, info = env.step(int(draw * moves))
        seconds += time.perf_counter() - began
    return STEPS / seconds


def write_files(folder: Path, files: int, text: str = "") -> None:
    """Spread files evenly over folders on the third level."""
    places = [
        folder / f"package_{i}" / f"module_{j}" / f"part_{k}"
        for i in range(FOLDERS)
        for j in range(FOLDERS)
        for k in range(FOLDERS)
    ]
    for place in places:
        place.mkdir(parents=True)
    for number in range(files):
        (places[number % len(places)] / f"some_source_{number}.py").write_text(text, encoding="utf-8")


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
    steps, first, resets = (figures[name] for name in ("steps_per_second", "first_steps_per_second", "reset_ms"))
    return (
        f"tree of {figures['tree_files']:,} files, cat shows     {'page':>12}{'matches':>12}\n"
        f"steps/s, every file read before    {steps['page']:>12,.0f}{steps['matches']:>12,.0f}\n"
        f"steps/s, files read for the first time{first['page']:>9,.0f}{first['matches']:>12,.0f}\n"
        f"reset, ms                          {resets['page']:>12.3f}{resets['matches']:>12.3f}\n"
        f"index of {figures['index_files']:,} files           {figures['index_seconds']:>8.2f} s, "
        f"{figures['index_mb']:.0f} MB at most, {figures['index_kept_mb']:.0f} MB kept\n"
        f"one core of {machine['cpus']}, Python {machine['python']}, {figures['seconds']:.0f} seconds"
    )
