"""Speed of the fast ALFWorld engine through the TextEnv API, against the real engine on the same games and commands.

One process on one core. All figures are of whole calls as users make them (`env.reset`, `env.step`).

- steps_per_second: random admissible actions in GAMES games; resets are timed separately.
- reset_cold_ms: the first reset to a game whose file is loaded but whose scene is not compiled; reset_warm_ms: later
  resets. load_ms: reading the file.
- side_by_side: steps/s of 64 environments stepped in turn, relative to one environment.
- memory_mb: growth of the process after every game has been reset once.
- ratio_steps, ratio_start: speed of the fast engine relative to the unmodified real one; "not measured" if that is not
  installed.
- what begins with dropin, real_batch or vector: see `alfworld_vector`.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from reflect_rl.bench.alfworld_vector import many_lines, measure_many
from reflect_rl.envs.alfworld.world import Alfworld
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream

GAMES, STEPS = 40, 50
REAL_GAMES, REAL_STEPS = 4, 20
SIDE_BY_SIDE = 64
REPEATS = 5
NOT_MEASURED = "not measured"


def bench_engine(options: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Measure everything; about a minute, mostly for the real engine. options: those of Alfworld."""
    started = time.perf_counter()
    env = Alfworld(**{**options, "engine": "fast"})
    tasks = list(env.tasks("train"))
    order = stream(0, "bench alfworld").permutation(len(tasks))
    games = [tasks[i] for i in order[:GAMES]]
    with progress.bar("bench", 6, "parts") as bar:
        resets = measure_resets(env, games)
        bar.update()
        alone = measure_steps([env], games)
        bar.update()
        together = measure_steps([Alfworld(**{**options, "engine": "fast"}) for _ in range(SIDE_BY_SIDE)], games)
        bar.update()
        memory = measure_memory(env, [task for split in ("train", "valid", "test") for task in env.tasks(split)])
        bar.update()
        real = measure_real(env, games[:REAL_GAMES], options)
        bar.update()
        many = measure_many(options, games, env.grammar)
        bar.update()
    return {
        "steps_per_second": alone,
        **resets,
        "side_by_side": together / alone,
        **memory,
        **real,
        **many,
        "games": len(games),
        "grammar": env.grammar,
        "machine": {"cpus": os.cpu_count(), "python": sys.version.split()[0]},
        "seconds": time.perf_counter() - started,
    }


def measure_steps(envs: Sequence[Alfworld], games: Sequence[str]) -> float:
    """Steps/s of environments stepped in turn with random admissible actions, without resets.

    The best of REPEATS, since other load on the machine only ever slows it down.
    """
    best = 0.0
    for repeat in range(REPEATS):
        seconds, steps = 0.0, 0
        for first in range(0, max(len(games), len(envs)), len(envs)):
            offered = []
            for index, env in enumerate(envs):
                _, info = env.reset(seed=repeat, options={"task": games[(first + index) % len(games)]})
                offered.append(len(info["actions"]))
            draws = stream(repeat, "bench actions", first).random((STEPS, len(envs))).tolist()
            playing = list(range(len(envs)))
            began = time.perf_counter()
            for row in draws:
                for index in playing:
                    _, _, terminated, truncated, info = envs[index].step(int(row[index] * offered[index]))
                    offered[index] = 0 if terminated or truncated else len(info["actions"])
                    steps += 1
                playing = [index for index in playing if offered[index]]
            seconds += time.perf_counter() - began
        best = max(best, steps / seconds)
    return best


def measure_resets(env: Alfworld, games: Sequence[str]) -> dict[str, float]:
    """Medians over games."""
    from reflect_rl.envs.alfworld.engine import forget_scenes
    from reflect_rl.envs.alfworld.games import load

    reads, cold, warm = [], [], []
    for task in games:
        load.cache_clear()
        reads.append(_timed(lambda task=task: load(env.data, task)))
    for task in games:
        load(env.data, task)
        forget_scenes()
        cold.append(_timed(lambda task=task: env.reset(seed=0, options={"task": task})))
        warm += [_timed(lambda task=task: env.reset(seed=1, options={"task": task})) for _ in range(3)]
    return {
        "load_ms": 1000 * statistics.median(reads),
        "reset_cold_ms": 1000 * statistics.median(cold),
        "reset_cold_ms_worst": 1000 * max(cold),
        "reset_warm_ms": 1000 * statistics.median(warm),
    }


def measure_memory(env: Alfworld, tasks: Sequence[str]) -> dict[str, float]:
    """Growth of the process, in megabytes, while every game is reset once."""
    before = _resident_mb()
    for task in tasks:
        env.reset(seed=0, options={"task": task})
    gc.collect()
    return {"memory_mb": _resident_mb() - before, "memory_games": len(tasks)}


def measure_real(env: Alfworld, games: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Steps/s and start times of both engines on the same games and commands."""
    from reflect_rl.envs.alfworld.real import RealEngineError

    real = Alfworld(**{**options, "engine": "textworld"})
    try:
        real_starts, real_steps = zip(*(_walk(real, *each) for each in enumerate(games)), strict=True)
    except RealEngineError as error:
        return {"ratio_steps": NOT_MEASURED, "ratio_start": NOT_MEASURED, "why": str(error)}
    finally:
        real.close()
    fast_starts, fast_steps = zip(*(_walk(env, *each) for each in enumerate(games)), strict=True)
    return {
        "real_steps_per_second": 1 / statistics.fmean(real_steps),
        "real_start_ms": 1000 * statistics.fmean(real_starts),
        "ratio_steps": statistics.fmean(real_steps) / statistics.fmean(fast_steps),
        "ratio_start": statistics.fmean(real_starts) / statistics.fmean(fast_starts),
        "real_games": len(games),
    }


def _walk(env: Alfworld, number: int, task: str) -> tuple[float, float]:
    """A random walk, the same on both engines: seconds to start, and mean seconds per step."""
    start = _timed(lambda: env.reset(seed=0, options={"task": task}))
    steps, began = 0, time.perf_counter()
    for draw in stream(number, "bench real").random(REAL_STEPS).tolist():
        _, _, terminated, truncated, _ = env.step(int(draw * len(env.game.admissible)))
        steps += 1
        if terminated or truncated:
            break
    return start, (time.perf_counter() - began) / steps


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _resident_mb() -> float:
    """Resident memory of this process in megabytes; 0 without /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def engine_table(figures: Mapping[str, Any]) -> str:
    """The results as text."""
    lines = [
        f"steps through the TextEnv API      {figures['steps_per_second']:>12,.0f} /s",
        f"reset, cold (median)               {figures['reset_cold_ms']:>12,.2f} ms, "
        f"{figures['reset_cold_ms_worst']:.2f} at worst",
        f"reset, warm (median)               {figures['reset_warm_ms']:>12,.3f} ms",
        f"reading a game's file (median)     {figures['load_ms']:>12,.2f} ms",
        f"{SIDE_BY_SIDE} environments in turn           {figures['side_by_side']:>12.0%} of one's steps/s",
        f"memory after {figures['memory_games']:,} games           {figures['memory_mb']:>12,.0f} MB more",
    ]
    if figures["ratio_steps"] == NOT_MEASURED:
        lines.append(f"the real engine: not measured ({figures['why']})")
    else:
        lines += [
            f"the real engine                    {figures['real_steps_per_second']:>12,.1f} /s, "
            f"{figures['real_start_ms']:,.0f} ms a start",
            f"ratio                              {figures['ratio_steps']:>12,.0f}x steps, "
            f"{figures['ratio_start']:,.0f}x starts",
        ]
    lines += many_lines(figures)
    machine = figures["machine"]
    return "\n".join(
        [*lines, f"one core of {machine['cpus']}, Python {machine['python']}, {figures['seconds']:.0f} seconds"]
    )
