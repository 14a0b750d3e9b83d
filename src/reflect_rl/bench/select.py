"""Speed, memory and quality of selection, beside plain numpy on the same machine in the same run.

The pool is made up: N points around N / 100 centres in 384 dimensions, with noise about as large as
what tells the centres apart. Half of it is picked, as in the largest setting that the paper reports.

- facility_location, k_center: LARGE points, wall seconds of `select` and the peak of a process of its own that holds
  the pool, Python and numpy as well.
- plain: the loops below as a multiple of our time for the same: k-center's first FIRST picks of LARGE points, scaled up
  to all of them (each costs the same); FEW picks of SMALL points by facility location, which holds the whole matrix.
- quality: SMALL points. (f - random) / (exact - random), f being computed from the embeddings as they are, in float64;
  exact is greedy with the whole pool in view, random the mean of RANDOM seeds.
- submodlib: its lazy greedy on the dense matrix, FEW picks of SMALL points; "not measured" where it is not installed.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from reflect_rl.pipeline.workers import worker_pool
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream
from reflect_rl.selection import FacilityLocation, KCenter, Random, Selector
from reflect_rl.selection.neighbours import cores

LARGE, SMALL, WIDTH = 90_000, 10_000, 384
NEIGHBOURS = 32
FEW, FIRST = 1000, 200
RANDOM = 5
MAKE = 65_536
NOT_MEASURED = "not measured"


def bench_select(progress: Progress, large: int = LARGE, small: int = SMALL) -> dict[str, Any]:
    """Measure everything; about two minutes on two cores."""
    began = time.perf_counter()
    few = min(FEW, small // 2)
    with progress.bar("bench", 5, "parts") as bar:
        figures: dict[str, Any] = {}
        for name in ("facility_location", "k_center"):
            with worker_pool(1) as alone:
                figures[name] = alone.submit(measure, name, large, large // 2).result()
            bar.update()
        X = make_pool(small)
        figures["quality"] = measure_quality(X, small // 2)
        bar.update()
        loop = plain_k_center_seconds(make_pool(large), large // 2)
        figures["plain"] = {
            **measure_plain(X, few),
            "k_center_seconds": loop,
            "k_center_ratio": loop / figures["k_center"]["seconds"],
        }
        bar.update()
        figures["submodlib"] = measure_submodlib(X, few)
        bar.update()
    return {
        **figures,
        "machine": {"cpus": cores(), "python": sys.version.split()[0], "numpy": np.__version__},
        "load": os.getloadavg()[0],
        "seconds": time.perf_counter() - began,
    }


def bench_large(progress: Progress, items: int, picks: int) -> dict[str, Any]:
    """Facility location alone on a pool of another size, in this process, with the progress of its search."""
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


def measure(name: str, size: int, budget: int, progress: Progress | None = None) -> dict[str, Any]:
    """One selection in this process, which does nothing else."""
    strategy: Selector = FacilityLocation(NEIGHBOURS) if name == "facility_location" else KCenter()
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


def measure_quality(X: np.ndarray, budget: int) -> dict[str, Any]:
    """Where facility location with neighbours stands between random and exact greedy."""
    unit_ND = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    exact, exact_seconds = _timed(FacilityLocation("exact"), X, budget)
    near, near_seconds = _timed(FacilityLocation(NEIGHBOURS), X, budget)
    random = [Random(seed).select(len(X), budget=budget).indices for seed in range(RANDOM)]
    best, found = represented(unit_ND, exact), represented(unit_ND, near)
    base = float(np.mean([represented(unit_ND, indices) for indices in random]))
    return {
        "normalised": (found - base) / (best - base),
        "exact": best,
        "neighbours": found,
        "random": base,
        "exact_seconds": exact_seconds,
        "neighbours_seconds": near_seconds,
        "items": len(X),
        "picks": budget,
    }


def represented(unit_ND: np.ndarray, indices: np.ndarray) -> float:
    """The objective of facility location, from unit vectors."""
    sums = [
        (unit_ND[start : start + 1024] @ unit_ND[indices].T).max(axis=1).sum() for start in range(0, len(unit_ND), 1024)
    ]
    return float((1 + sum(sums) / len(unit_ND)) / 2)


def measure_plain(X: np.ndarray, budget: int) -> dict[str, Any]:
    """Facility location as one writes it first, and ours."""
    unit_ND = X / np.linalg.norm(X, axis=1, keepdims=True)
    began = time.perf_counter()
    plain_facility_location(unit_ND, budget)
    seconds = time.perf_counter() - began
    _, exact = _timed(FacilityLocation("exact"), X, budget)
    return {
        "facility_location_ratio": seconds / exact,
        "facility_location_seconds": seconds,
        "items": len(X),
        "picks": budget,
    }


def plain_k_center_seconds(X: np.ndarray, budget: int) -> float:
    """What k-center takes as one writes it first, from its first picks."""
    unit_ND = X / np.linalg.norm(X, axis=1, keepdims=True)
    few = min(FIRST, budget)
    began = time.perf_counter()
    plain_k_center(unit_ND, few)
    return (time.perf_counter() - began) * budget / few


def plain_k_center(unit_ND: np.ndarray, budget: int) -> list[int]:
    """Farthest-first in a loop."""
    chosen = [int((unit_ND @ unit_ND.sum(axis=0)).argmax())]
    nearest_N = unit_ND @ unit_ND[chosen[0]]
    while len(chosen) < budget:
        chosen.append(int(nearest_N.argmin()))
        np.maximum(nearest_N, unit_ND @ unit_ND[chosen[-1]], out=nearest_N)
    return chosen


def plain_facility_location(unit_ND: np.ndarray, budget: int) -> list[int]:
    """Lazy greedy on the dense matrix of similarities, in a loop."""
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


def measure_submodlib(X: np.ndarray, budget: int) -> dict[str, Any]:
    try:
        from submodlib.functions.facilityLocation import FacilityLocationFunction  # type: ignore[import-not-found]
    except ImportError:
        return {"ratio": NOT_MEASURED, "why": "pip install submodlib-py"}
    began = time.perf_counter()
    function = FacilityLocationFunction(n=len(X), mode="dense", data=X, metric="cosine")
    function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
    theirs = time.perf_counter() - began
    _, ours = _timed(FacilityLocation("exact"), X, budget)
    return {"ratio": theirs / ours, "seconds": theirs, "items": len(X), "picks": budget}


def _timed(strategy: Selector, X: np.ndarray, budget: int) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    indices = strategy.select(X, budget=budget).indices
    return indices, time.perf_counter() - began


def measured_line(name: str, found: Mapping[str, Any]) -> str:
    """What `measure` found, as a line of text."""
    return (
        f"{name.replace('_', ' '):<24}{found['seconds']:>8.1f} s, {found['peak_mb']:,.0f} MB at most: "
        f"{found['picks']:,} of {found['items']:,} x {WIDTH} ({found['cpu_seconds']:.1f} CPU seconds)"
    )


def select_table(figures: Mapping[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [measured_line(name, figures[name]) for name in ("facility_location", "k_center")]
    quality, plain, other = figures["quality"], figures["plain"], figures["submodlib"]
    lines += [
        f"{'quality':<24}{100 * quality['normalised']:>8.2f} % of exact greedy (0: random), {quality['picks']:,} of "
        f"{quality['items']:,}; {quality['neighbours_seconds']:.1f} s, exact {quality['exact_seconds']:.1f} s",
        f"{'plain k-center':<24}{plain['k_center_ratio']:>8.1f} x our time, from its first {FIRST} picks",
        f"{'plain facility location':<24}{plain['facility_location_ratio']:>8.1f} x our exact time, its matrix held, "
        f"{plain['picks']:,} of {plain['items']:,}",
    ]
    if other["ratio"] == NOT_MEASURED:
        lines.append(f"submodlib: not measured ({other['why']})")
    else:
        lines.append(
            f"{'submodlib':<24}{other['ratio']:>8.1f} x our exact time, {other['picks']:,} of {other['items']:,}"
        )
    machine = figures["machine"]
    return "\n".join(
        [
            *lines,
            f"{machine['cpus']} cores (load {figures['load']:.1f}), Python {machine['python']}, "
            f"numpy {machine['numpy']}, {figures['seconds']:.0f} seconds",
        ]
    )
