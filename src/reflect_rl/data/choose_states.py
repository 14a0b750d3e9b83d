"""Select: choose the states that the teacher is asked about, before any label exists.

The pool is the set of distinct collected states, and the budget is `annotate.reflections`. A strategy of
`reflect_rl.selection` picks by similarity (`select.embedding`), or by the uncertainty of a pretrained `reflector.model`
about the reflection that it would write: it reads the prompts that it will read as the reflector.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from reflect_rl.data.pool import PoolState, distinct, in_order, read_pool, state_texts
from reflect_rl.data.selection_map import map_points
from reflect_rl.players.context import Context
from reflect_rl.pools.tfidf import tfidf
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream_seed
from reflect_rl.selection import STRATEGIES, MeanEntropy, Picks, Random, UncertainThenDiverse, Uncertainty
from reflect_rl.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflect_rl.lm.text import Framed
    from reflect_rl.players.prompt import PromptBuilder


def choose_states(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Write selection.jsonl (id, rank, gain and strategy of each pick, in order of choice) and selection_map.jsonl.

    Returns counts for the manifest: pool size, distinct states, picks, the strategy's objective and certificate (None
    without one), and the share of the embeddings' variance on each axis of the map.
    """
    settings = context.settings
    collected = read_pool(run, settings)
    # Strategies break ties by the seeded order of the pool.
    pool = distinct(in_order(collected, settings))
    budget = min(settings.annotate.reflections, len(pool))
    if budget < settings.annotate.reflections:
        progress.warn(f"The budget of {settings.annotate.reflections} reflections is more than the pool's {len(pool)}.")
    texts = [text for _, text in state_texts(pool, settings)]
    name = settings.select.strategy
    with _torch(settings):
        embeddings_ND, picks = _choose(pool, texts, budget, context, progress)
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


def _torch(settings: Settings) -> AbstractContextManager[None]:
    """Context in which torch is set up if a model reads the states; otherwise torch is not even imported."""
    if not settings.select.by_model:
        return nullcontext()
    from reflect_rl.lm.torch_setup import torch_set_up

    return torch_set_up(settings.compute)


def _choose(
    pool: list[PoolState], texts: list[str], budget: int, context: Context, progress: Progress
) -> tuple[np.ndarray, Picks]:
    """(embeddings_ND, picks)."""
    settings = context.settings
    name, reads = settings.select.strategy, _ModelReads(pool, context, progress)
    if settings.select.embedding == "model":
        embeddings_ND = reads.embeddings()
    else:
        embeddings_ND = tfidf(lambda: texts, len(texts), progress, cells=settings.select.embedding == "cells")
    kind, scores_N = STRATEGIES[name], None
    if issubclass(kind, Uncertainty):
        return embeddings_ND, kind().select(reads.tokens(kind.quantity), budget=budget, progress=progress)
    if kind is UncertainThenDiverse:
        scores_N = MeanEntropy().uncertainty(reads.tokens(MeanEntropy.quantity))
    strategy = Random(seed=stream_seed(settings.seed, "select")) if kind is Random else kind()
    return embeddings_ND, strategy.select(embeddings_ND, budget=budget, scores=scores_N, progress=progress)


class _ModelReads:
    """The states as read by the untrained reflector model, which is loaded on first use."""

    def __init__(self, pool: list[PoolState], context: Context, progress: Progress) -> None:
        self.pool, self.context, self.progress = pool, context, progress

    def embeddings(self) -> np.ndarray:
        """(N, D) float32: means of the last hidden states."""
        from reflect_rl.lm.hidden import hidden_states

        return hidden_states(*self._loaded, self._prompts, progress=self.progress)

    def tokens(self, quantity: str) -> list[np.ndarray]:
        """For each state, the entropies, margins or logprobs of the reflection that the model would write."""
        from reflect_rl.lm.chat import turn_end
        from reflect_rl.lm.scoring import generated_scores

        longest, end = self.context.settings.reflector.max_new_tokens, turn_end(self._loaded[1], self._builder.frames)
        found = dict(
            generated_scores(*self._loaded, self._prompts, new_tokens=longest, turn_end=end, progress=self.progress)
        )
        return [getattr(found[row], quantity) for row in range(len(self.pool))]

    @cached_property
    def _builder(self) -> PromptBuilder:
        from reflect_rl.players.load import reflector_prompts

        return reflector_prompts(self.context, *self._loaded, self.progress)

    @cached_property
    def _prompts(self) -> list[str | Framed]:
        from reflect_rl.lm.text import Framed

        prompts = (self._builder.reflector_prompt(entry.state) for entry in self.pool)
        return [Framed(prompt.text, prompt.controls) if prompt.controls else prompt.text for prompt in prompts]

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        from reflect_rl.lm.pretrained import load_pretrained

        settings = self.context.settings
        return load_pretrained(settings.reflector.model, settings.compute.device, read_only=True)


def _finite(gain: float) -> float | None:
    """None for an infinite gain, which JSON cannot represent: the first pick of k-center has one."""
    return gain if math.isfinite(gain) else None
