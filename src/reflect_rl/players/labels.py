"""Single-token labels: the possible answers of a policy, found and verified for any tokenizer.

A label is a string such as " A" that is exactly one token both where the policy answers and at the start of an action's
line, so the answer is the same token that the prompt shows. In the plain format, the policy answers after "Action:"; in
the chat format, with the first token of the assistant's turn, where labels have no space before them.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from reflect_rl.errors import ModelError
from reflect_rl.lm.text import encode
from reflect_rl.players.prompt import CUE_ACTION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MOST_LABELS = 256
"""Most actions of a state that can have a label."""


def candidates(chat: bool = False) -> Iterator[str]:
    """Candidate labels, simplest first: 26 capital letters, 26 small letters, then pairs of capitals."""
    space = "" if chat else " "
    yield from (f"{space}{letter}" for letter in string.ascii_uppercase + string.ascii_lowercase)
    yield from (f"{space}{a}{b}" for a, b in product(string.ascii_uppercase, repeat=2))


def find_labels(tokenizer: PreTrainedTokenizerBase, most: int = MOST_LABELS, chat: bool = False) -> dict[str, int]:
    """Up to `most` labels with their token ids. chat: for the chat format.

    Raises ModelError if there are fewer than two.
    """
    answered = "" if chat else CUE_ACTION  # a message's text is tokenized by itself
    cue = encode(tokenizer, answered)
    line = encode(tokenizer, "\n")
    labels: dict[str, int] = {}
    for label in candidates(chat):
        after_cue = encode(tokenizer, answered + label)
        if len(after_cue) != len(cue) + 1 or after_cue[:-1] != cue or after_cue[-1] in labels.values():
            continue
        before_line = encode(tokenizer, f"\n{label}) x")
        if before_line[: len(line) + 1] != [*line, after_cue[-1]] or after_cue[-1] == tokenizer.unk_token_id:
            continue
        labels[label] = after_cue[-1]
        if len(labels) == most:
            break
    if len(labels) < 2:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no single-token labels: it splits (or does "
            f"not know) '{next(candidates(chat))}' and the like. Use policy.head: pointer, "
            f"{'prompt.format: plain, ' if chat else ''}or another model."
        )
    return labels
