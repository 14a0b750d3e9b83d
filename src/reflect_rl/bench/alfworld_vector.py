"""Speed of many ALFWorld games at once: the drop-in beside alfworld's own AlfredTWEnv, and Gymnasium's vectors.

- dropin_steps_per_second: batches of BATCH games, random admissible commands; `dropin_reset_ms`: a cold reset of one
  game, its file and all.
- dropin_ratio: the drop-in relative to the real AlfredTWEnv, unmodified, at REAL_BATCH games, on the same games and
  commands; the real one plays each game in a process of its own. "not measured" if it is not installed.
- vector_steps_per_second: `gymnasium.make_vec` of BATCH games in this process; vector_processes_steps_per_second: of
  REAL_BATCH games in a process each.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from reflect_rl.envs.alfworld.batch import BatchEnv
from reflect_rl.envs.alfworld.dropin import AlfredTWEnv
from reflect_rl.envs.alfworld.engine import forget_scenes
from reflect_rl.envs.alfworld.games import games_of
from reflect_rl.envs.alfworld.real_process import RealEngineError, RealProcess
from reflect_rl.envs.alfworld.verify_dropin import configuration, lay_out
from reflect_rl.seeding import stream

BATCH, REAL_BATCH = 64, 8
STEPS, REAL_STEPS = 50, 10
REPEATS = 5
COLD_RESETS = 20
NOT_MEASURED = "not measured"


def measure_many(options: Mapping[str, Any], games: Sequence[str], grammar: str) -> dict[str, Any]:
    """Measure everything. options: those of Alfworld. games: names of games to play."""
    load = games_of(options.get("data")).load
    with tempfile.TemporaryDirectory(prefix="alfworld-bench-") as folder:
        for number, game in enumerate(games):
            lay_out(load(game), grammar, Path(folder) / game.replace("/", "-"), number)
        config = configuration(folder)
        files = AlfredTWEnv(config)
        return {
            "dropin_steps_per_second": _best(files.init_env(BATCH), BATCH),
            "dropin_reset_ms": _cold_reset(files.init_env(1)),
            **_beside_the_real_one(files, config),
            "vector_steps_per_second": _vector("sync", BATCH, options),
            "vector_processes_steps_per_second": _vector("async", REAL_BATCH, options),
        }


def _best(env: BatchEnv, size: int) -> float:
    """Steps/s of a batch without resets; the best of REPEATS."""
    seconds = []
    for repeat in range(REPEATS):
        _, infos = env.reset()
        draws = stream(repeat, "bench batch").random((STEPS, size)).tolist()
        began = time.perf_counter()
        for row in draws:
            offered = infos["admissible_commands"]
            commands = [its[int(draw * len(its))] for its, draw in zip(offered, row, strict=True)]
            infos = env.step(commands)[-1]
        seconds.append(time.perf_counter() - began)
    return STEPS * size / min(seconds)


def _cold_reset(env: BatchEnv) -> float:
    seconds = []
    for _ in range(COLD_RESETS):
        forget_scenes()
        began = time.perf_counter()
        env.reset()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def _beside_the_real_one(files: AlfredTWEnv, config: Mapping[str, Any]) -> dict[str, Any]:
    """Both environments, side by side: the same games and the same commands."""
    env = files.init_env(REAL_BATCH)
    _, infos = env.reset()
    rows, fast, real = [], 0.0, 0.0
    for row in stream(0, "bench real batch").random((REAL_STEPS, REAL_BATCH)).tolist():
        offered = infos["admissible_commands"]
        rows.append([its[int(draw * len(its))] for its, draw in zip(offered, row, strict=True)])
        began = time.perf_counter()
        infos = env.step(rows[-1])[-1]
        fast += time.perf_counter() - began
    try:
        process = RealProcess(timeout=600)
    except RealEngineError:
        return {"dropin_ratio": NOT_MEASURED}
    try:
        process.ask(do="init_env", config=config, train_eval="train", batch_size=REAL_BATCH, seed=1234)
        process.ask(do="reset all")
        for commands in rows:
            began = time.perf_counter()
            process.ask(do="step all", commands=commands)
            real += time.perf_counter() - began
    finally:
        process.close()
    return {"real_batch_steps_per_second": REAL_STEPS * REAL_BATCH / real, "dropin_ratio": real / fast}


def _vector(mode: str, size: int, options: Mapping[str, Any]) -> float:
    """Steps/s of `gymnasium.make_vec`, its own new episodes among them."""
    from reflect_rl.envs import gym as _registered  # noqa: F401

    shared = {"shared_memory": False} if mode == "async" else {}
    own = {name: value for name, value in options.items() if name != "engine"}
    envs: Any = gymnasium.make_vec(
        "reflect_rl/ALFWorld-v0", num_envs=size, vectorization_mode=mode, vector_kwargs=shared, **own
    )
    _, infos = envs.reset(seed=0)
    rng = stream(0, "bench vector")
    began = time.perf_counter()
    for _ in range(STEPS):
        counts = infos["action_mask"].sum(axis=1)
        infos = envs.step((rng.random(size) * counts).astype(np.int64))[-1]
    seconds = time.perf_counter() - began
    envs.close()
    return STEPS * size / seconds


def many_lines(figures: Mapping[str, Any]) -> list[str]:
    """The results as lines of text."""
    lines = [
        f"drop-in, {BATCH} games a batch           {figures['dropin_steps_per_second']:>12,.0f} /s, "
        f"{figures['dropin_reset_ms']:.2f} ms a cold reset with its file",
        f"make_vec, {BATCH} games in one process   {figures['vector_steps_per_second']:>12,.0f} /s",
        f"make_vec, {REAL_BATCH} games in {REAL_BATCH} processes    "
        f"{figures['vector_processes_steps_per_second']:>12,.0f} /s",
    ]
    if figures["dropin_ratio"] == NOT_MEASURED:
        return lines
    real = figures["real_batch_steps_per_second"]
    ratio = f"{figures['dropin_ratio']:,.0f}x by the drop-in"
    return [*lines, f"the real AlfredTWEnv, {REAL_BATCH} games      {real:>12,.1f} /s, {ratio}"]
