"""Batches of token ids from a stream of texts, one window at a time, so memory does not grow with their number.

Within a window, equal texts are one item, and items are sorted by length. Batches depend on the texts and settings
only, not on what is done already, so a continued process gets the same batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from reflect_rl.errors import ModelError
from reflect_rl.lm.text import Framed, encode_all, encode_prompt, opening_ids
from reflect_rl.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 4096
"""Number of texts that are sorted by length together."""
TOKEN_BUDGET = 16_384
"""Maximum tokens of a batch: rows times the longest row, generated tokens included."""
CELLS = 2**24
"""Maximum size of a vocabulary-wide tensor: 64 MiB of float32."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Pair = tuple[str | Framed, str | None]
"""A prompt, and optionally a text that follows it."""


class Texts(Protocol[T_co]):
    """A sized iterable that can be read repeatedly: a list, or a column of a file."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


@dataclass(frozen=True, slots=True)
class Item:
    """Token ids of a prompt and its target. rows: the indices of the equal texts that it stands for."""

    rows: tuple[int, ...]
    prompt: list[int]
    target: list[int]


class Encoder:
    """Encodes texts for a model. Prompts beyond the context length lose their beginning, with a warning."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, progress: Progress) -> None:
        self.tokenizer = tokenizer
        self.progress = progress
        self.context = context_of(model)
        self.head = list(opening_ids(tokenizer))
        self.announced = False

    def items(self, pairs: dict[Pair, tuple[int, ...]], room: int) -> list[Item]:
        """room: tokens to reserve after a prompt without a target. Raises ModelError for an empty text."""
        prompts = self._prompts([prompt for prompt, _ in pairs])
        told = any(target is not None for _, target in pairs)
        given = encode_all(self.tokenizer, [target or "" for _, target in pairs]) if told else []
        items = []
        for number, ((prompt, target), rows) in enumerate(pairs.items()):
            written = given[number] if target is not None else []
            if not prompts[number] or (target is not None and not written):
                what = "target" if prompts[number] else "text"
                raise ModelError(f"The {what} of item {rows[0]} is empty: a model has nothing to read. Leave it out.")
            head = [] if isinstance(prompt, Framed) else self.head  # a template writes its own
            most = self.context - max(room, len(written)) - len(head)
            if most < 1:
                raise ModelError(
                    f"{max(room, len(written)):,} tokens after the prompt of item {rows[0]} leave it no room: the "
                    f"model reads {self.context:,}. Ask for fewer, or choose a model that reads more."
                )
            items.append(Item(rows, head + self._cut(prompts[number], most, rows[0]), written))
        return items

    def _prompts(self, prompts: Sequence[str | Framed]) -> list[list[int]]:
        plain = iter(encode_all(self.tokenizer, [prompt for prompt in prompts if isinstance(prompt, str)]))
        return [next(plain) if isinstance(p, str) else encode_prompt(self.tokenizer, *p) for p in prompts]

    def _cut(self, ids: list[int], most: int, row: int) -> list[int]:
        if len(ids) > most and not self.announced:
            self.announced = True
            self.progress.warn(
                f"Item {row} has {len(ids):,} tokens and the model has room for {most:,}: the beginning is left out, "
                f"here and wherever a text is too long."
            )
        return ids[-most:]


def context_of(model: PreTrainedModel) -> int:
    """The model's context length; a very large number if its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30


def batches(
    encoder: Encoder,
    pairs: Iterable[Pair],
    *,
    room: int,
    token_budget: int,
    most_rows: int,
    padded: bool,
    done_N: np.ndarray,
) -> Iterator[list[Item]]:
    """Batches with at least one text that is not done; longest first within each window.

    room: as in `Encoder.items`. most_rows: maximum rows of a batch. padded: whether a batch may mix prompt lengths.
    """
    source, first = iter(pairs), 0
    while window := list(islice(source, WINDOW)):
        if not done_N[first : first + len(window)].all():
            rows: dict[Pair, tuple[int, ...]] = {}
            for row, pair in enumerate(window, first):
                rows[pair] = (*rows.get(pair, ()), row)
            items = encoder.items(rows, room)
            items.sort(key=lambda item: (-len(item.prompt), -len(item.target), item.rows))
            for batch in _packed(items, room, token_budget, most_rows, padded):
                if not all(done_N[row] for item in batch for row in item.rows):
                    yield batch
        first += len(window)


def _packed(items: Sequence[Item], room: int, token_budget: int, most_rows: int, padded: bool) -> Iterator[list[Item]]:
    """Consecutive items, as many per batch as the budget allows, and at least one."""
    batch: list[Item] = []
    longest = 0
    for item in items:
        behind = max(longest, room, len(item.target))
        if batch and (
            len(batch) == most_rows
            or (len(batch) + 1) * (len(batch[0].prompt) + behind) > token_budget
            or not (padded or len(item.prompt) == len(batch[0].prompt))
        ):
            yield batch
            batch, longest = [], 0
        batch.append(item)
        longest = max(longest, room, len(item.target))
    if batch:
        yield batch
