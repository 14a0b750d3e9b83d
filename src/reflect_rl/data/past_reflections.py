"""Past reflections in training prompts: only those teacher texts that were bought."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from reflect_rl.data.pool import PoolState
from reflect_rl.records import Reflection, State

Write = Callable[[Sequence[State]], Sequence[str | None]]


def with_notes(
    pool: Iterable[PoolState], bought: Sequence[Reflection], most: int, write: Write | None = None
) -> list[PoolState]:
    """The pool with at most `most` past reflections in each state. Episodes must start at their first step.

    bought: the teacher texts that were paid for. write: writes a reflection on states without a bought text; None skips
    them.
    """
    entries = list(pool)
    if not most:
        return entries
    texts: dict[str, list[str]] = defaultdict(list)
    for reflection in bought:
        texts[reflection.state].append(reflection.text)
    followed = {(entry.episode, entry.step - 1): entry.state.reflections[-1:] for entry in entries if entry.step}
    places: dict[int, list[int]] = defaultdict(list)
    for place, entry in enumerate(entries):
        places[entry.step].append(place)
    notes: dict[int, list[str]] = defaultdict(list)
    for step in sorted(places):  # all episodes in parallel, since a step's reflection is read on the next
        missing: list[PoolState] = []
        for place in places[step]:
            entry = entries[place]
            shown = tuple(notes[entry.episode][-most:])
            entries[place] = replace(entry, state=replace(entry.state, reflections=shown))
            own = followed.get((entry.episode, step))
            if own is None:  # the last step
                continue
            if known := texts.get(entry.id):  # equal states can have different texts
                notes[entry.episode].append(own[0] if own and own[0] in known else known[-1])
            else:
                missing.append(entries[place])
        if write and missing:
            for entry, text in zip(missing, write([entry.state for entry in missing]), strict=True):
                notes[entry.episode].append(text or "")
    return entries


def hide_reflections(states: Sequence[State], share: float, random: np.random.Generator) -> list[State]:
    """The states, each without its past reflections with probability `share`."""
    hidden = random.random(len(states)) < share
    return [replace(state, reflections=()) if hides else state for state, hides in zip(states, hidden, strict=True)]
