"""Speed of the small worlds through the TextEnv API, in one process on one core.

Steps are whole calls as users make them (`env.step`), with random choices, and resets between episodes. CPU time, the
best of REPEATS.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from reflect_rl.envs.registry import make
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream

STEPS, REPEATS = 100_000, 3
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "taxi": ("taxi", {}),
    "frozenlake 8x8": ("frozenlake", {"map": "8x8"}),
    "frozenlake 8x8, slippery": ("frozenlake", {"map": "8x8", "slippery": True}),
    "cliffwalking": ("cliffwalking", {}),
    "blackjack": ("blackjack", {}),
}


def bench_worlds(progress: Progress, steps: int = STEPS) -> dict[str, Any]:
    """Measure every world; some seconds. steps: how many each repeat makes."""
    speeds = {}
    with progress.bar("bench", len(WORLDS), "worlds") as bar:
        for title, (name, options) in WORLDS.items():
            speeds[title] = max(_walked(name, options, steps, repeat) for repeat in range(REPEATS))
            bar.update()
    return {"steps_per_second": speeds, "machine": {"cpus": os.cpu_count(), "python": sys.version.split()[0]}}


def _walked(name: str, options: dict[str, Any], steps: int, repeat: int) -> float:
    env = make(name, **options)
    _, info = env.reset(seed=repeat)
    choices = stream(repeat, "bench worlds").integers(len(info["actions"]), size=steps).tolist()
    began = time.process_time()
    for choice in choices:
        _, _, terminated, truncated, _ = env.step(choice)
        if terminated or truncated:
            env.reset()
    seconds = time.process_time() - began
    env.close()
    return steps / seconds


def worlds_table(figures: dict[str, Any]) -> str:
    """What `bench_worlds` measured, for people."""
    rows = [f"{title:<28}{speed:>12,.0f}" for title, speed in figures["steps_per_second"].items()]
    return "\n".join([f"{'steps/s':<28}{'one core':>12}", *rows])
