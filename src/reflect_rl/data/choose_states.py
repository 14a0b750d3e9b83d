"""Select: which states of the pool the teacher is asked about, chosen before any of them is labelled.

The pool is every distinct state that was collected, the budget is `annotate.reflections`. States are embedded without
a model (`select.embedding`), and a strategy of `reflect_rl.selection` picks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from reflect_rl.data.annotate import PoolState, distinct, id_builder, in_order, read_pool
from reflect_rl.data.selection_map import map_points
from reflect_rl.data.tfidf import tfidf
from reflect_rl.progress import Progress
from reflect_rl.run_folder import RunFolder
from reflect_rl.seeding import stream_seed
from reflect_rl.selection import STRATEGIES, Random, Selector
from reflect_rl.settings import Settings


def choose_states(run: RunFolder, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Write selection.jsonl (id, rank, gain, strategy of each pick, in order of choice) and selection_map.jsonl.

    Returns the counts of the manifest: states of the pool, distinct ones, picks, the strategy's objective and
    certificate (None where it has none), and the share of the embeddings' variance on either axis of the map.
    """
    collected = read_pool(run, settings)
    # In the seeded order of the pool: a strategy breaks its ties by it.
    pool = distinct(in_order(collected, settings))
    budget = min(settings.annotate.reflections, len(pool))
    if budget < settings.annotate.reflections:
        progress.warn(f"The budget of {settings.annotate.reflections} reflections is more than the pool's {len(pool)}.")
    texts = [text for _, text in state_texts(pool, settings)]
    embeddings_ND = tfidf(lambda: texts, len(texts), progress, cells=settings.select.embedding == "cells")
    name = settings.select.strategy
    strategy: Selector = STRATEGIES[name]()
    if name == Random.name:
        strategy = Random(seed=stream_seed(settings.seed, "select"))
    picks = strategy.select(embeddings_ND, budget=budget, progress=progress)
    run.write_jsonl(
        "selection.jsonl",
        (
            {"id": pool[index].id, "rank": rank, "gain": _finite(float(gain)), "strategy": name}
            for rank, (index, gain) in enumerate(zip(picks.indices, picks.gains, strict=True))
        ),
    )
    points, shares_2 = map_points([entry.id for entry in pool], texts, embeddings_ND, picks.indices)
    run.write_jsonl("selection_map.jsonl", points)
    return {
        "pool": len(collected),
        "pool_distinct": len(pool),
        "picked": len(picks),
        "objective": picks.objective,
        "certificate": picks.certificate,
        "variance_x": round(float(shares_2[0]), 6),
        "variance_y": round(float(shares_2[1]), 6),
    }


def state_texts(pool: Iterable[PoolState], settings: Settings) -> Iterable[tuple[str, str]]:
    """(id, what a reflector would read) of each state."""
    builder = id_builder(settings)
    return ((entry.id, builder.reflector_prompt(entry.state).text) for entry in pool)


def _finite(gain: float) -> float | None:
    """None for the first pick of k-center, which is far from nothing: JSON has no infinity."""
    return gain if math.isfinite(gain) else None
