"""The models that SFT starts from: fresh ones with a tokenizer of the run's own texts, or pretrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reflect_rl.data.annotate import PoolState
from reflect_rl.players.labels import candidates, find_labels
from reflect_rl.players.models import end_id, load_pretrained, most_tokens, scratch_model, train_tokenizer
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.seeding import stream_seed
from reflect_rl.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPARE = 1.5
"""A fresh model has this many times the positions and labels that the pool needs, for states not seen yet."""


def start_model(
    part: ModelSettings,
    settings: Settings,
    task_text: str,
    pool: Sequence[PoolState],
    reflections: Sequence[str],
    who: str,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer of `who` ("reflector" or "policy") before SFT."""
    if part.source != "scratch":
        return load_pretrained(part, settings.compute.device, stream_seed(settings.seed, f"init {who}"))
    most = max(len(entry.state.actions) for entry in pool)
    labels = [label for label, _ in zip(candidates(), range(max(2, int(most * SPARE))), strict=False)]
    shown = labels if settings.policy.head == "labels" else None
    builder = PromptBuilder(task_text, settings.prompt, shown)
    longest = max(reflections, key=len, default="")
    texts = [builder.policy_prompt(entry.state, longest).text for entry in pool]
    tokenizer = train_tokenizer([*dict.fromkeys(texts), *dict.fromkeys(reflections), *labels])
    find_labels(tokenizer, most=len(labels))
    context = int(SPARE * most_tokens(tokenizer, list(dict.fromkeys(texts))))
    model = scratch_model(
        part, len(tokenizer), -(-context // 64) * 64, stream_seed(settings.seed, f"init {who}"), end_id(tokenizer)
    )
    return model.to(settings.compute.device), tokenizer  # type: ignore[arg-type]
