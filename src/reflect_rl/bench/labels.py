"""Label efficiency of every selection strategy on a text pool (`label_study`), over seeds, shares and strategies.

Each (seed, strategy, share) has its own file, so an interrupted study continues. Seeds run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from reflect_rl.bench.label_pool import Pair, fingerprint, package, standard_library
from reflect_rl.evaluation.report import report_labels
from reflect_rl.intervals import mean_interval
from reflect_rl.pipeline.workers import worker_pool
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder, remove
from reflect_rl.runs.outputs import claim_folder
from reflect_rl.selection import STRATEGIES, Random

SEEDS = (0, 1, 2)
SHARES = (0.2, 0.3, 0.45)
TWICE = tuple(2 * share for share in SHARES)
HALF = SHARES[0] / 2
RANDOM = Random.name
POLL_SECONDS = 2.0
POOL, KNOWN = "pool.jsonl", "known.jsonl"
BEFORE = "torch"
"""The package whose functions the model knows beforehand; torch is installed wherever this runs."""
Measured = dict[tuple[str, float], list[dict[str, float]]]
"""Loss and exact matches by (strategy, share), one entry per seed."""


def bench_labels(
    out: Path,
    progress: Progress,
    *,
    seeds: Sequence[int] = SEEDS,
    strategies: Sequence[str] = tuple(STRATEGIES),
    workers: int = 1,
) -> dict[str, Any]:
    """Measure what is missing and write labels.json and report.html; about 15 minutes per seed on one core.

    out: the study's folder. Results and the pool of an earlier study there are kept. Raises OutputError if the folder
    holds something else.
    """
    claim_folder(out, "study of label efficiency", known_by=KNOWN)
    run = RunFolder(out)
    if not (run / POOL).is_file():
        run.write_jsonl(KNOWN, map(asdict, package(BEFORE)))
        run.write_jsonl(POOL, map(asdict, standard_library()))
    pairs, known = (run.read_jsonl(name, _pair) for name in (POOL, KNOWN))
    about = {"pool": fingerprint(pairs), "pairs": len(pairs), "known before": len(known), "package": BEFORE}
    cells = _cells(strategies)
    places = [run / _file(seed, *cell) for seed in seeds for cell in cells]
    shown = _finished(places)
    with progress.bar("labels", len(places), "trainings", done=shown) as bar, worker_pool(workers) as pool:
        waiting = {pool.submit(study_seed, out, seed, cells) for seed in seeds}
        while waiting:
            done, waiting = wait(waiting, timeout=POLL_SECONDS)
            for task in done:
                task.result()
            now = _finished(places)
            bar.update(now - shown)
            shown = now
    found = {cell: [run.read_json(_file(seed, *cell)) for seed in seeds] for cell in cells}
    figures = {**about, "seeds": list(seeds), "strategies": summary(found, strategies)}
    run.write_json("labels.json", figures)
    report_labels(out)
    return figures


def _pair(row: dict[str, Any]) -> Pair:
    return Pair(row["text"], row["name"], row["group"])


def study_seed(out: Path, seed: int, cells: Sequence[tuple[str, float]]) -> None:
    """Measure what is missing for one seed."""
    run = RunFolder(out)
    missing = [cell for cell in cells if not (run / _file(seed, *cell)).is_file()]
    if not missing:
        return
    import torch

    from reflect_rl.bench.label_study import choose, learn, make_task, read_pool, train_base

    torch.set_num_threads(1)
    progress = Progress()
    pairs, known = (run.read_jsonl(name, _pair) for name in (POOL, KNOWN))
    task = make_task(pairs, known, seed, RunFolder(run / f"seed-{seed}"))
    train_base(task, progress)
    reads = read_pool(task, progress)
    for name, share in missing:
        picks = choose(name, round(share * len(task.pool)), task, reads)
        figures = learn(task, picks.indices.tolist(), f"{name}-{share:g}", progress)
        run.write_json(_file(seed, name, share), {**figures, "labels": len(picks.indices)})
        remove(task.run / f"training/checkpoints/sft-{name}-{share:g}")


def _finished(places: Sequence[Path]) -> int:
    return sum(place.is_file() for place in places)


def _cells(strategies: Sequence[str]) -> list[tuple[str, float]]:
    """What is trained: every strategy at every share; random also at twice each share and at half the smallest."""
    chance = [(RANDOM, share) for share in sorted({HALF, *SHARES, *TWICE})]
    return chance + [(name, share) for name in strategies if name != RANDOM for share in SHARES]


def _file(seed: int, name: str, share: float) -> str:
    return f"seed-{seed}/results/{name}-{share:g}.json"


def summary(found: Measured, strategies: Sequence[str]) -> dict[str, Any]:
    """By strategy and share: loss, exact matches, the difference from random, and the labels that random would need.

    Differences are paired by seed. "labels for random's loss" is this share divided by the share that random needs for
    the same loss, read off its curve (linear between its shares, without extrapolation).
    """
    shares = sorted(share for name, share in found if name == RANDOM)
    told: dict[str, Any] = {}
    for name in (RANDOM, *(name for name in strategies if name != RANDOM)):
        rows = {}
        for share in shares if name == RANDOM else SHARES:
            mine, chance = found[name, share], found[RANDOM, share]
            row: dict[str, Any] = {"labels": mine[0]["labels"]}
            for figure in ("loss", "exact"):
                values = [one[figure] for one in mine]
                row[figure] = _mean(values)
                row[f"{figure} less random's"] = _mean(
                    [ours - theirs[figure] for ours, theirs in zip(values, chance, strict=True)]
                )
            if name != RANDOM:
                curves = [[found[RANDOM, point][seed]["loss"] for point in shares] for seed in range(len(mine))]
                needs = [_needed(shares, curve, one["loss"]) for curve, one in zip(curves, mine, strict=True)]
                row["labels for random's loss"] = _mean([share / needed for needed in needs])
                twice = fmean(one["loss"] for one in found[RANDOM, 2 * share])
                row["reaches random at twice the budget"] = row["loss"]["mean"] <= twice
            rows[f"{share:g}"] = row
        told[name] = rows
    return told


def _needed(shares: Sequence[float], losses: Sequence[float], loss: float) -> float:
    """The share at which a falling curve reaches a loss; outside the curve, its first or last share."""
    falling = np.minimum.accumulate(losses)
    return float(np.interp(-loss, -falling, shares))


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": fmean(values), "interval": mean_interval(values) if len(values) > 1 else None, "each": list(values)}


def labels_table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row per strategy and share, after a heading."""
    rows = [("strategy", "share", "labels", "loss", "less random's", "exact %", "less random's", "labels of random's")]
    for name, shares in figures["strategies"].items():
        for share, row in shares.items():
            needed = row.get("labels for random's loss")
            rows.append(
                (
                    name,
                    f"{100 * float(share):.0f} %",
                    f"{row['labels']:,}",
                    _text(row["loss"], 3),
                    "" if name == RANDOM else _text(row["loss less random's"], 3),
                    _text(row["exact"], 1, 100),
                    "" if name == RANDOM else _text(row["exact less random's"], 1, 100),
                    _text(needed, 2) if needed else "",
                )
            )
    return rows


def _text(figures: dict[str, Any], digits: int, scale: float = 1) -> str:
    text = f"{scale * figures['mean']:.{digits}f}"
    if figures["interval"] is None:
        return text
    low, high = (scale * end for end in figures["interval"])
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
