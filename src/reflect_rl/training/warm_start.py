"""The models that SFT starts from: new ones with a tokenizer trained on the run's texts, or pretrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reflect_rl.data.pool import PoolState
from reflect_rl.lm.layers import load_player_model
from reflect_rl.lm.models import end_id
from reflect_rl.lm.pretrained import load_tokenizer
from reflect_rl.lm.scratch import scratch_model, train_tokenizer
from reflect_rl.lm.text import most_tokens
from reflect_rl.players.context import Context
from reflect_rl.players.labels import candidates, find_labels
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.seeding import stream_seed
from reflect_rl.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPARE = 1.5
"""New models get this many times the positions and labels that the pool needs, for unseen states."""
SERVED_TOKEN = 16
"""Bytes taken to be in a token of a server. A text with more may not fit the context of a new policy."""
CONTEXT_STEP = 64
"""Context lengths of new models are multiples of this."""


def start_model(
    part: ModelSettings,
    context: Context,
    pool: Sequence[PoolState],
    reflections: Sequence[str],
    who: str,
    read: Sequence[str] = (),
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer of `who` ("reflector" or "policy") before SFT.

    reflections: the bought teacher texts. read: the reflections in the policy's examples.
    """
    settings = context.settings
    if part.source != "scratch":
        seed = stream_seed(settings.seed, f"init {who}")
        return load_player_model(part, settings.compute, seed, context.bases)
    most = max(len(entry.state.actions) for entry in pool)
    labels = [label for label, _ in zip(candidates(), range(max(2, int(most * SPARE))), strict=False)]
    shown = labels if settings.policy.head == "labels" else None
    builder = PromptBuilder(context.world.task_text, settings.prompt, shown)
    longest = max(reflections, key=len, default="")
    texts = dict.fromkeys(builder.policy_prompt(entry.state, longest).text for entry in pool)
    tokenizer = train_tokenizer([*texts, *dict.fromkeys(reflections), *labels])
    find_labels(tokenizer, most=len(labels))
    told = most_tokens(tokenizer, (f" {text}" for text in (*reflections, *read)))
    if who == "reflector":
        prompt = most_tokens(tokenizer, (builder.reflector_prompt(entry.state).text for entry in pool))
        needed = SPARE * prompt + max(settings.reflector.max_new_tokens, told + 1)
    else:
        prompt = most_tokens(tokenizer, (builder.policy_prompt(entry.state, "").text for entry in pool))
        needed = max(SPARE * (prompt + told), prompt + 1 + _most_written(tokenizer, settings))
    positions = -(-max(int(needed), part.context) // CONTEXT_STEP) * CONTEXT_STEP
    model = scratch_model(part, len(tokenizer), positions, stream_seed(settings.seed, f"init {who}"), end_id(tokenizer))
    return model.to(settings.compute.device), tokenizer  # type: ignore[arg-type]


def _most_written(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> int:
    """Maximum length, in tokens of `tokenizer`, of a reflection that a model can write, meaningful or not.

    A stray byte is one token when written, but three tokens when its replacement character is read.
    """
    if settings.reflector.is_served:
        return settings.reflector.max_new_tokens * SERVED_TOKEN
    if not settings.reflector.is_loaded:
        return 0
    source = settings.reflector.model.source
    writer = tokenizer if source == "scratch" else load_tokenizer(source)  # new players have equal tokenizers
    pieces = writer.batch_decode([[index] for index in range(len(writer))], skip_special_tokens=True)
    return settings.reflector.max_new_tokens * most_tokens(tokenizer, pieces)
