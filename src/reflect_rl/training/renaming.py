"""Renamed copies of SFT examples, which teach a model to read names instead of learning them by heart.

A small model from scratch that has only seen carrots chopped chops the pepper too, or cannot spell it. In a copy, some
names of an example are other words, everywhere: in the state, in the actions, and in the text. Copies cost no labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from typing import NamedTuple, TypeVar

import numpy as np

from reflect_rl.errors import PromptError
from reflect_rl.progress import Progress
from reflect_rl.records import State
from reflect_rl.seeding import stream

Row = TypeVar("Row")

WORD = re.compile(r"[^\W\d_]{2,}")
COMMON = 0.5
"""A word in at least this share of the examples is part of the language, not a name."""
CHANGED, INVENTED = 0.7, 0.25
"""Probability that a name is another one in a copy, and that this is no word of the examples but made of two."""


class Example(NamedTuple):
    """What a player learns from: a state and the reflection on it. chooses: it learns to choose, not to write."""

    state: State
    text: str | None
    chooses: bool


class Copy(NamedTuple):
    """A copy of an example, given by its index."""

    example: int
    state: State
    text: str | None


def rows_of_copies(
    examples: Sequence[Example], copies: int, seed: int, who: str, row: Callable[[Copy], Row], progress: Progress
) -> list[Row]:
    """The rows of the renamed copies of `who`'s examples. A copy that is longer than the model reads is left out."""
    rows, longer = list[Row](), 0
    for each in renamed_copies(examples, copies, stream(seed, f"renamed {who}")):
        try:
            rows.append(row(each))
        except PromptError:
            longer += 1
    if rows:
        more = f"; {longer} more would be too long for it" if longer else ""
        progress.say(f"The {who} learns from {len(examples)} examples and {len(rows)} renamed copies{more}.")
    elif copies:
        progress.warn(
            f"{who}_sft.renamed is {copies}, but no example of the {who} has names that could be other words."
        )
    return rows


def renamed_copies(examples: Sequence[Example], copies: int, random: np.random.Generator) -> Iterator[Copy]:
    """Up to `copies` copies of each example that has names.

    A name is a word of letters that has to be looked up: it stands in what is learned, the text or the actions, and in
    something else that is read. A word that is learned in half of the examples or more is no name. In a copy, a name
    becomes a word of any example, or an invented one, that this example does not have.
    """
    if not copies:
        return
    learned, read = zip(*map(_learned_and_read, examples), strict=True) if examples else ((), ())
    times = Counter(word for words in learned for word in words)
    words = sorted(set().union(*read))
    for index, each in enumerate(examples):
        names = sorted(word for word in learned[index] & read[index] if times[word] < COMMON * len(examples))
        own = learned[index] | read[index]
        free, known = [word for word in words if word not in own], own.union(words)
        for _ in range(copies if len(free) >= len(names) else 0):
            changed = [name for name in names if random.random() < CHANGED]
            if changed:
                others = dict(zip(changed, _others(free, known, len(changed), random), strict=True))
                yield Copy(index, _renamed(each.state, others), each.text and _change(each.text, others))


def _others(free: Sequence[str], known: Set[str], count: int, random: np.random.Generator) -> list[str]:
    """Different words: of `free`, or made of the halves of two of these and not `known`."""
    firsts, seconds = random.permutation(len(free))[:count], random.integers(len(free), size=count)
    others = list[str]()
    for first, second, invents in zip(firsts, seconds, random.random(count) < INVENTED, strict=True):
        word, tail = free[int(first)], free[int(second)]
        made = word[: -(-len(word) // 2)] + tail[len(tail) // 2 :]
        others.append(made if invents and made not in known and made not in others else word)
    return others


def _learned_and_read(example: Example) -> tuple[set[str], set[str]]:
    """The words of the text or the actions, whichever is learned, and those of everything else."""
    state = example.state
    past = [part for step in state.history for part in step]
    text, actions = _words(example.text or ""), _words(*state.actions)
    around = _words(state.observation, *past, *state.reflections)
    return (actions, around | text) if example.chooses else (text, around | actions)


def _words(*texts: str) -> set[str]:
    return {word.lower() for text in texts for word in WORD.findall(text)}


def _renamed(state: State, others: dict[str, str]) -> State:
    notes = state.facts.get("notes")
    return State(
        _change(state.observation, others),
        tuple(_change(action, others) for action in state.actions),
        tuple((_change(observation, others), _change(action, others)) for observation, action in state.history),
        {} if notes is None else {"notes": [note and _change(note, others) for note in notes]},
        tuple(_change(text, others) for text in state.reflections),
    )


def _change(text: str, others: dict[str, str]) -> str:
    def other(found: re.Match[str]) -> str:
        new = others.get(found[0].lower(), found[0])
        return new.capitalize() if found[0][0].isupper() and found[0].lower() in others else new

    return WORD.sub(other, text)
