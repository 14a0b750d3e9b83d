"""Speed, memory and quality of selection, against plain numpy on the same machine in the same run.

- facility_location: FEW picks from SMALL points, in a clustered pool (see below) and an unstructured one (normal).
  Compared are a plain lazy greedy with the whole matrix in memory, n_neighbors="exact" and "auto", and submodlib's lazy
  greedy if it is installed. Objectives are computed from the embeddings in float64; `shown` is the objective of
  `Picks`. times_plain: the plain loop's time relative to ours. normalised: 0 is a random choice (mean of RANDOM seeds),
  1 is exact greedy.
- large: half of LARGE clustered points, the largest setting in the paper, by facility location and by k-center, each in
  its own process: wall seconds of `select`, and peak memory including Python and the pool. For k-center, a plain loop
  is timed for its first FIRST picks and extrapolated, since every pick costs the same.

The clustered pool has N points around N / 100 centres in 384 dimensions; the noise is about as large as the distances
between centres.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reflect_rl.pipeline.workers import worker_pool
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream
from reflect_rl.selection import FacilityLocation, KCenter, Random, Selector
from reflect_rl.selection.neighbours import cores

LARGE, SMALL, WIDTH = 90_000, 10_000, 384
FEW, FIRST = 1000, 200
RANDOM = 5
MAKE = 65_536


def bench_select(progress: Progress, large: int = LARGE, small: int = SMALL) -> dict[str, Any]:
    """Measure everything; about a minute and a half on two cores."""
    began = time.perf_counter()
    with progress.bar("bench", 5, "parts") as bar:
        small_figures = {}
        for name, make in POOLS.items():
            small_figures[name] = compare(make(small), min(FEW, small // 2))
            bar.update()
        large_figures = {}
        for name in ("facility_location", "k_center"):
            with worker_pool(1) as alone:
                large_figures[name] = alone.submit(measure, name, large, large // 2).result()
            bar.update()
        loop = plain_k_center_seconds(make_pool(large), large // 2)
        large_figures["k_center"] |= {
            "plain_seconds": loop,
            "times_plain": loop / large_figures["k_center"]["seconds"],
        }
        bar.update()
    return {
        "facility_location": small_figures,
        "large": large_figures,
        "machine": {"cpus": cores(), "python": sys.version.split()[0], "numpy": np.__version__},
        "load": os.getloadavg()[0],
        "seconds": time.perf_counter() - began,
    }


def bench_large(progress: Progress, items: int, picks: int) -> dict[str, Any]:
    """Facility location only, on a pool of another size, in this process, with a progress bar."""
    return measure("facility_location", items, picks, progress)


def make_pool(size: int, width: int = WIDTH) -> np.ndarray:
    """(size, width) float32."""
    draw = stream(0, "bench select", size)
    centres = draw.standard_normal((max(2, size // 100), width), dtype=np.float32)
    pool = centres[draw.integers(0, len(centres), size)]
    for start in range(0, size, MAKE):
        part = pool[start : start + MAKE]
        part += np.float32(0.9) * draw.standard_normal(part.shape, dtype=np.float32)
    return pool


def unstructured_pool(size: int, width: int = WIDTH) -> np.ndarray:
    """(size, width) float32, normal."""
    return stream(1, "bench select", size).standard_normal((size, width), dtype=np.float32)


POOLS = {"clustered": make_pool, "unstructured": unstructured_pool}


def measure(name: str, size: int, budget: int, progress: Progress | None = None) -> dict[str, Any]:
    """One selection in this process, which should do nothing else."""
    strategy: Selector = FacilityLocation() if name == "facility_location" else KCenter()
    X = make_pool(size)
    began, busy = time.perf_counter(), time.process_time()
    picks = strategy.select(X, budget=budget, progress=progress)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - busy,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
        "items": size,
        "picks": budget,
        "objective": picks.objective,
        "certificate": picks.certificate,
    }


def compare(X: np.ndarray, budget: int) -> dict[str, Any]:
    """Facility location on one pool: plain loop, exact, auto, and random."""
    unit_ND = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    random = [represented(unit_ND, Random(seed).select(len(X), budget=budget).indices) for seed in range(RANDOM)]
    figures: dict[str, Any] = {"items": len(X), "picks": budget, "random": float(np.mean(random))}
    began = time.perf_counter()
    chosen = plain_facility_location(unit_ND.astype(np.float32), budget)
    figures["plain"] = {"seconds": time.perf_counter() - began, "objective": represented(unit_ND, chosen)}
    for way in ("exact", "auto"):
        began = time.perf_counter()
        picks = FacilityLocation(way).select(X, budget=budget)
        seconds = time.perf_counter() - began
        figures[way] = {
            "seconds": seconds,
            "times_plain": figures["plain"]["seconds"] / seconds,
            "objective": represented(unit_ND, picks.indices),
            "shown": picks.objective,
            "certificate": picks.certificate,
        }
    gained, most = (figures[way]["objective"] - figures["random"] for way in ("auto", "exact"))
    figures["auto"]["normalised"] = gained / most
    figures["submodlib"] = submodlib_seconds(X, budget)
    return figures


def represented(unit_ND: np.ndarray, indices: Sequence[int] | np.ndarray) -> float:
    """The facility-location objective, from unit vectors."""
    sums = [
        (unit_ND[start : start + 1024] @ unit_ND[indices].T).max(axis=1).sum() for start in range(0, len(unit_ND), 1024)
    ]
    return float((1 + sum(sums) / len(unit_ND)) / 2)


def plain_k_center_seconds(X: np.ndarray, budget: int) -> float:
    """Time of a plain k-center loop, extrapolated from its first picks."""
    unit_ND = X / np.linalg.norm(X, axis=1, keepdims=True)
    few = min(FIRST, budget)
    began = time.perf_counter()
    plain_k_center(unit_ND, few)
    return (time.perf_counter() - began) * budget / few


def plain_k_center(unit_ND: np.ndarray, budget: int) -> list[int]:
    """Farthest-first traversal in a loop."""
    chosen = [int((unit_ND @ unit_ND.sum(axis=0)).argmax())]
    nearest_N = unit_ND @ unit_ND[chosen[0]]
    while len(chosen) < budget:
        chosen.append(int(nearest_N.argmin()))
        np.maximum(nearest_N, unit_ND @ unit_ND[chosen[-1]], out=nearest_N)
    return chosen


def plain_facility_location(unit_ND: np.ndarray, budget: int) -> list[int]:
    """Lazy greedy on the dense similarity matrix, in a loop."""
    import heapq

    similar_NN = (1 + unit_ND @ unit_ND.T) / 2
    best_N = np.zeros(len(unit_ND), np.float32)
    heap = [(-float(gain), item) for item, gain in enumerate(similar_NN.sum(axis=1))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < budget:
        _, item = heap[0]
        gain = float(np.maximum(similar_NN[item] - best_N, 0).sum())
        if len(heap) > 1 and (-gain, item) > min(heap[1:3]):
            heapq.heapreplace(heap, (-gain, item))
            continue
        heapq.heappop(heap)
        chosen.append(item)
        np.maximum(best_N, similar_NN[item], out=best_N)
    return chosen


def submodlib_seconds(X: np.ndarray, budget: int) -> float | None:
    """Time of submodlib's lazy greedy on the dense matrix; None if it is not installed (pip install submodlib-py)."""
    try:
        from submodlib.functions.facilityLocation import FacilityLocationFunction  # type: ignore[import-not-found]
    except ImportError:
        return None
    began = time.perf_counter()
    function = FacilityLocationFunction(n=len(X), mode="dense", data=X, metric="cosine")
    function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
    return time.perf_counter() - began


def measured_line(name: str, found: Mapping[str, Any]) -> str:
    """The result of `measure` as a line of text."""
    return (
        f"{name.replace('_', ' '):<24}{found['seconds']:>8.1f} s, {found['peak_mb']:,.0f} MB at most: "
        f"{found['picks']:,} of {found['items']:,} x {WIDTH} ({found['cpu_seconds']:.1f} CPU seconds)"
    )


def select_table(figures: Mapping[str, Any]) -> str:
    """The results as text."""
    lines = []
    for name, found in figures["facility_location"].items():
        lines.append(f"facility location, {found['picks']:,} of {found['items']:,} x {WIDTH}, {name}")
        for way in ("plain", "exact", "auto"):
            row = found[way]
            line = f"  {way:<22}{row['seconds']:>8.1f} s, objective {row['objective']:.5f}"
            if way != "plain":
                line += (
                    f" (shown {row['shown']:.5f}, at most {row['certificate']:.5f}), {row['times_plain']:.1f} x plain"
                )
            lines.append(line)
        other = found["submodlib"]
        lines.append(f"  {'submodlib':<22}" + ("  not installed" if other is None else f"{other:>8.1f} s"))
        lines.append(f"  auto: {100 * found['auto']['normalised']:.2f} % of exact greedy (0: random)")
    large, machine = figures["large"], figures["machine"]
    lines += [measured_line(name, large[name]) for name in ("facility_location", "k_center")]
    lines.append(f"  k-center as a plain loop: {large['k_center']['times_plain']:.1f} x our time")
    lines.append(
        f"{machine['cpus']} cores (load {figures['load']:.1f}), Python {machine['python']}, numpy {machine['numpy']}, "
        f"{figures['seconds']:.0f} seconds"
    )
    return "\n".join(lines)
