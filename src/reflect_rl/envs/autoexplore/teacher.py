"""The scripted teacher of AutoExplore: reflections from what was seen. Nothing here knows the target.

    facts   Read: cookies.py 7, models.py 2. Best: cookies.py. Unread here: api.py. Open folders: adapters, above.
    next    Read: cookies.py 7, models.py 2. Best: cookies.py. [...] Open folders: adapters, above. Next: cat api.py.
    note    cookies.py 7, best. Next: cat api.py.

Numbers say how well what was read matches the question, from 0 to 9 (`Query.match`). A folder is open while it holds
something unread, as far as the player knows, or what matches best.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflect_rl.envs.autoexplore.memory import Memory
from reflect_rl.envs.optional import Styles

UNREAD = "unread"
DONE = "done"


def describe(memory: Memory, best_moves: frozenset[int]) -> dict[str, Any]:
    """The facts of a state, JSON-able.

    read: [path, score] of each file read, in that order. best: paths of those that match best. last: [path, score] of
    the file that the last action read, or None. unread: names of the unread files here. open: names of the folders
    here with something unread, or the best match, in them ("above": what lies above). notes: a few words on each
    action. next: the searcher's actions.
    """
    view, place = memory.view, memory.place
    read = {node: [view.path(node), each.score] for node, each in memory.read.items()}
    notes = [_note_on(memory, verb, node) for verb, node in place.moves]
    noted = [(verb, view.shown(node), note) for (verb, node), note in zip(place.moves, notes, strict=True)]
    return {
        "read": list(read.values()),
        "best": [read[node][0] for node in memory.best()],
        "last": None if memory.last is None else read[memory.last[0]],
        "unread": [name for verb, name, note in noted if verb == "cat" and note == UNREAD],
        "open": [name for verb, name, note in noted if verb == "cd" and note != DONE]
        + ["above" for verb, _, note in noted if verb == "cd .." and note != DONE],
        "notes": notes,
        "next": [place.actions[index] for index in sorted(best_moves)],
    }


def _note_on(memory: Memory, verb: str, node: int) -> str:
    """What is known of an action's object: its score, what is unread in it, whether the best file lies there."""
    if verb == "ls":
        return UNREAD if memory.is_open(node) else DONE
    if verb in ("cat", "id"):
        known = memory.read.get(node)
        if known is None:
            return UNREAD
        more = " more" if known.unread and verb == "cat" else ""
        return f"{known.score}{more}{' best' if node in memory.best() else ''}"
    here = memory.place.folder
    if verb == "cd" and node not in memory.listed:
        return "new"
    way = memory.view.way
    there = [each for each in memory.known_folders() if (node in way(each) if verb == "cd" else here not in way(each))]
    unread = sum(memory.is_unread(file) for folder in there for file in memory.known_files(folder))
    unread += sum(map(memory.is_open, there))
    best = any(memory.folder(file) in there for file in memory.best())
    return f"{f'{unread} {UNREAD}' if unread else DONE}{' best' if best else ''}"


def _facts(facts: Mapping[str, Any]) -> str:
    read = ", ".join(f"{path} {score}" for path, score in facts["read"])
    titled = {"Best": facts["best"], "Unread here": facts["unread"], "Open folders": facts["open"]}
    lists = [f"{title}: {', '.join(names) or 'none'}." for title, names in titled.items()]
    return " ".join([f"Read: {read or 'none'}.", *lists])


def _note(facts: Mapping[str, Any]) -> str:
    if facts["last"] is None:
        return "Best: none." if not facts["best"] else f"Best: {facts['best'][0]}."
    path, score = facts["last"]
    return f"{path} {score}{', best' if path in facts['best'] else ''}."


def _next(facts: Mapping[str, Any]) -> str:
    return f"Next: {facts['next'][0]}."


STYLES: Styles = {
    "facts": (_facts,),
    "next": (_facts, _next),
    "note": (_note, _next),
}
