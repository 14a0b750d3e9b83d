"""Past reflections in training prompts: the teacher's where they were bought, and no other text of its."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from reflect_rl.data.pool import PoolState
from reflect_rl.records import Reflection, State

Write = Callable[[Sequence[State]], Sequence[str | None]]


def with_notes(
    pool: Iterable[PoolState], bought: Sequence[Reflection], most: int, write: Write | None = None
) -> list[PoolState]:
    """Episodes of the pool, from their first steps on, with at most `most` past reflections in each state.

    bought: the teacher's texts that were paid for. write: reflects on states whose text was not; None leaves it out.
    """
    entries = list(pool)
    if not most:
        return entries
    texts: dict[str, list[str]] = defaultdict(list)
    for reflection in bought:
        texts[reflection.state].append(reflection.text)
    asked = {(entry.episode, entry.step - 1): entry.state.reflections[-1] for entry in entries if entry.step}
    places: dict[int, list[int]] = defaultdict(list)
    for place, entry in enumerate(entries):
        places[entry.step].append(place)
    notes: dict[int, list[str]] = defaultdict(list)
    for step in sorted(places):  # of all episodes: what is written on a step is read on the next
        missing: list[PoolState] = []
        for place in places[step]:
            entry = entries[place]
            shown = tuple(notes[entry.episode][-most:])
            entries[place] = replace(entry, state=replace(entry.state, reflections=shown))
            own = asked.get((entry.episode, step))
            if own is None:  # nothing comes after it
                continue
            if known := texts.get(entry.id):  # equal states may have been told different things
                notes[entry.episode].append(own if own in known else known[-1])
            else:
                missing.append(entries[place])
        if write and missing:
            for entry, text in zip(missing, write([entry.state for entry in missing]), strict=True):
                notes[entry.episode].append(text or "")
    return entries
