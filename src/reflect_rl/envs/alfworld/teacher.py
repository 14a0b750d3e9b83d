"""The scripted teacher of ALFWorld: reflections from facts that any reader of the transcript could know.

    facts     Holding: nothing. Seen: apple 1 at diningtable 2. Checked: drawer 1, diningtable 2. Done: none.
              Left: take apple, heat apple, put apple in fridge.
    progress  Last: go to diningtable 2, helped. Holding: nothing. Seen: ...
    next      Holding: nothing. Seen: ... Next: take apple 1 from diningtable 2.
    note      At diningtable 2: apple 1. Take apple 1 from diningtable 2.

A note says what is new and what to do now; its reader needs the notes of earlier steps (`prompt.reflections`). An
action helped if it was among the searching expert's best, given what was known then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflect_rl.envs.alfworld.facts import Memory, class_of, read_command
from reflect_rl.envs.alfworld.searcher import is_lost
from reflect_rl.envs.optional import Styles


def describe(memory: Memory, actions: tuple[str, ...], best: tuple[str, ...], helped: bool | None) -> dict[str, Any]:
    """The facts of a state, JSON-able. actions: admissible ones; best: the searcher's; helped: whether the last did.

    object, target, treatment, lamp, count: the goal, by classes. holding: an object or None. seen: [object,
    receptacle] of the objects to fetch and, with the object in hand, of the lamps. place: the receptacle gone to last.
    there: what is wanted there, or "closed". aim: what is to be done now. checked: receptacles whose
    contents are known; closed: those found closed. done, left: parts of the task. lost: whether it is known that
    nothing leads to the goal any more, so that `best` is worth nothing. last_action, idle (it changed nothing that
    is known), helped (None at the start). best: equally good commands. notes: a few words on each action ("" if
    there is nothing to say), in the actions' order.
    """
    goal = memory.goal
    return {
        "object": goal.object,
        "target": goal.target,
        "treatment": goal.treatment,
        "lamp": goal.lamp,
        "count": goal.count,
        "holding": memory.holding,
        "seen": [list(pair) for pair in _seen(memory)],
        "place": memory.place,
        "there": _at(memory, memory.place) if memory.place else "",
        "aim": _aim(memory),
        "checked": [name for name in memory.receptacles if name in memory.contents],
        "closed": [name for name in memory.receptacles if name in memory.closed],
        "done": _done(memory),
        "left": _left(memory),
        "lost": is_lost(memory),
        "last_action": memory.last_action,
        "idle": memory.idle,
        "helped": helped,
        "best": list(best),
        "notes": list(notes(memory, actions)),
    }


def notes(memory: Memory, actions: tuple[str, ...]) -> tuple[str, ...]:
    """What is known of each action's object, in a few words; "" where there is nothing to say.

    Of going somewhere: "unseen", "closed", or what is wanted there ("nothing" else), then "lamp" and "target" where
    they apply. Of taking: "wanted" or "other". Of putting down: "target" or "other".
    """
    wanted: dict[str, list[str]] = {}
    for name, receptacle in memory.wanted():
        wanted.setdefault(receptacle, []).append(name)
    gathered, _ = memory.gathered()
    targets = {gathered} if gathered else set(memory.targets())
    lamps = memory.lamp_places() if memory.goal.lamp else frozenset()

    def place(name: str) -> str:
        if name in memory.contents:
            known = " ".join(wanted.get(name, ())) or "nothing"
        else:
            known = "closed" if name in memory.closed else "unseen"
        return known + (" lamp" if name in lamps else "") + (" target" if name in targets else "")

    def note(command: str) -> str:
        match read_command(command):
            case "go to", name, _:
                return place(name)
            case "take", name, _:
                return "wanted" if memory.is_wanted(name) else "other"
            case "move" | "put", _, receptacle:
                return "target" if receptacle in targets else "other"
        return ""

    return tuple(note(command) for command in actions)


def _seen(memory: Memory) -> tuple[tuple[str, str], ...]:
    """What has to be gone to next, as far as its place is known."""
    if not memory.is_wanted(memory.holding):
        return memory.wanted()
    lamp = memory.goal.lamp
    return tuple((lamp, place) for place in sorted(memory.lamp_places())) if lamp else ()


def _at(memory: Memory, receptacle: str) -> str:
    """What is wanted at a receptacle: objects and lamps; "closed" while that is not known, "nothing" if it is."""
    wanted = [name for name, place in memory.wanted() if place == receptacle]
    if memory.goal.lamp and receptacle in memory.lamp_places():
        wanted.append(memory.goal.lamp)
    return ", ".join(wanted) or ("nothing" if receptacle in memory.contents else "closed")


def _aim(memory: Memory) -> str:
    """The part of the task that comes now, with the objects and places as far as they are known."""
    held, goal = memory.holding, memory.goal
    if held is None:
        known = sorted(memory.wanted(), key=lambda pair: pair[1] not in memory.here)
        return f"take {known[0][0]} from {known[0][1]}" if known else f"find {goal.object}"
    if not memory.is_wanted(held):
        return f"put down {held}"
    if goal.lamp:
        places = sorted(memory.lamp_places(), key=lambda place: (place not in memory.here, place))
        return f"use {goal.lamp} at {places[0]}" if places else f"find {goal.lamp}"
    if goal.treatment and not memory.is_ready(held):
        return f"{goal.treatment} {held}"
    return f"put {held} in {memory.gathered()[0] or goal.target}"


def _done(memory: Memory) -> list[str]:
    """Parts of the task that are done and still hold."""
    held, goal = memory.holding, memory.goal
    done = []
    if goal.treatment:
        ready = [name for name in memory.treated if class_of(name) == goal.object and memory.is_ready(name)]
        done += [f"{goal.treatment} {name}" for name in sorted(ready)]
    target, gathered = memory.gathered()
    done += [f"put {name} in {target}" for name in gathered]
    if held is not None and memory.is_wanted(held):
        done.append(f"take {held}")
    return done


def _left(memory: Memory) -> list[str]:
    """Parts of the task that are left, in order."""
    held, goal = memory.holding, memory.goal
    is_held = memory.is_wanted(held)
    one = (held or "") if is_held else goal.object
    left = [] if is_held or held is None else [f"put down {held}"]
    if not is_held:
        left.append(f"take {one}")
    if goal.lamp:
        return [*left, f"use {goal.lamp}"]
    ready = memory.is_ready(held) if is_held and held else any(memory.is_ready(name) for name, _ in memory.wanted())
    if goal.treatment and not ready:
        left.append(f"{goal.treatment} {one}")
    target, gathered = memory.gathered()
    left.append(f"put {one} in {target or goal.target}")
    if goal.count == 2 and not gathered:
        left += [f"take another {goal.object}", f"put it in the same {goal.target}"]
    return left


def _facts(facts: Mapping[str, Any]) -> str:
    seen = ", ".join(f"{name} at {receptacle}" for name, receptacle in facts["seen"]) or "none"
    checked = ", ".join(facts["checked"]) or "none"
    done, left = ", ".join(facts["done"]) or "none", ", ".join(facts["left"]) or "none"
    return f"Holding: {facts['holding'] or 'nothing'}. Seen: {seen}. Checked: {checked}. Done: {done}. Left: {left}."


def _note(facts: Mapping[str, Any]) -> str:
    place, aim = f"{facts['place']}: {facts['there']}" if facts["place"] else "start", facts["aim"]
    return f"At {place}. {aim[0].upper()}{aim[1:]}."


def _last(facts: Mapping[str, Any]) -> str:
    if facts["last_action"] is None:
        return "Last: none."
    return f"Last: {facts['last_action']}, {'helped' if facts['helped'] else 'did not help'}."


def _next(facts: Mapping[str, Any]) -> str:
    return f"Next: {facts['best'][0]}."


STYLES: Styles = {
    "facts": (_facts,),
    "progress": (_last, _facts),
    "next": (_facts, _next),
    "note": (_note,),
}
