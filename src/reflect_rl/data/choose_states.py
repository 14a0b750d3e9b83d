"""Select: which states of the pool the teacher is asked about, chosen before any of them is labelled.

The pool is every distinct state that was collected, the budget is `annotate.reflections`. States are embedded without
a model (`select.embedding`), and a strategy of `reflect_rl.selection` picks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reflect_rl.data.annotate import PoolState, distinct, id_builder, in_order, read_pool
from reflect_rl.data.tfidf import tfidf
from reflect_rl.progress import Progress
from reflect_rl.run_folder import RunFolder
from reflect_rl.seeding import stream_seed
from reflect_rl.selection import STRATEGIES, Random, Selector
from reflect_rl.settings import Settings


def choose_states(run: RunFolder, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Write selection.jsonl: id, rank, gain, strategy of each pick, in order of choice."""
    # In the seeded order of the pool: a strategy breaks its ties by it.
    pool = distinct(in_order(read_pool(run, settings), settings))
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
            {"id": pool[index].id, "rank": rank, "gain": float(gain), "strategy": name}
            for rank, (index, gain) in enumerate(zip(picks.indices, picks.gains, strict=True))
        ),
    )
    return {
        "pool_distinct": len(pool),
        "picked": len(picks),
        "objective": picks.objective,
        "certificate": picks.certificate,
    }


def state_texts(pool: Iterable[PoolState], settings: Settings) -> Iterable[tuple[str, str]]:
    """(id, what a reflector would read) of each state."""
    builder = id_builder(settings)
    return ((entry.id, builder.reflector_prompt(entry.state).text) for entry in pool)
