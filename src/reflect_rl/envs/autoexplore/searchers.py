"""Experts: searchers that know what the player has seen, and the shortest way for whoever knows the target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reflect_rl.envs.autoexplore.memory import Memory, Spot
from reflect_rl.envs.autoexplore.view import Shape

CERTAIN = 0.6
"""A match from which on a searcher answers at once; chosen on train tasks."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A move that is worth going for.

    Attributes:
        verb: "cat", "cd" or "ls".
        node: What it is done to.
        spot: The folder in which one is afterwards, and the page of its listing.
        steps: Steps until the next page is read that way.
        named: Words of the question in the name.
    """

    verb: str
    node: int
    spot: Spot
    steps: int
    named: int

    @property
    def folder(self) -> int:
        return self.spot[0]


@dataclass(frozen=True, slots=True)
class Searcher:
    """Read what is nearest, until a file matches well or time is up; then answer with the best match.

    Files and folders with words of the question in their names come first.

    Attributes:
        shapes: The kinds of capped trees that this can be, where that is known: files are read only as deep as the
            target lies in the deepest kind that what was listed leaves possible. Empty: files anywhere.
        certain: The match, from 0 to 1, that is enough to answer.
    """

    shapes: tuple[Shape, ...] = ()
    certain: float = CERTAIN

    def best_moves(self, memory: Memory, steps_left: int) -> frozenset[int]:
        """Equally good moves, as indices into those of the place; at least one.

        Args:
            memory: What the player has seen.
            steps_left: Steps until the horizon, at least 1.
        """
        best = memory.best()
        if best and memory.read[best[0]].match >= self.certain:
            return self._answer(memory, best)
        answers = {memory.at(node) for node in best}
        goals = [goal for goal in self._goals(memory) if self._has_time(memory, goal, answers, steps_left)]
        if not goals:
            return self._answer(memory, best) if best else frozenset(range(len(memory.place.moves)))
        first = min((-goal.named, goal.steps) for goal in goals)
        return towards(memory, ((g.verb, g.node, g.folder) for g in goals if (-g.named, g.steps) == first))

    def _goals(self, memory: Memory) -> Iterator[Goal]:
        """Everything that was listed and not yet read or entered, where the target can lie."""
        target_depth = self._target_depth(memory)
        for folder in memory.known_folders():
            depth = memory.depth(folder)
            if folder not in memory.listed:
                if target_depth is None or depth <= target_depth:
                    spot = folder, 0
                    yield Goal("cd", folder, spot, memory.distance(spot) + 1, memory.named(folder))
                continue
            if target_depth is None or depth == target_depth:
                for node in memory.known_files(folder):
                    if memory.is_unread(node):
                        spot = memory.at(node)
                        yield Goal("cat", node, spot, memory.distance(spot) + 1, memory.named(node))
            if memory.is_open(folder):
                spot = memory.unseen(folder)
                yield Goal("ls", folder, spot, memory.distance(spot) + 1, 0)

    def _target_depth(self, memory: Memory) -> int | None:
        """How deep the target lies in the deepest possible kind of tree; None if nothing is known of that."""
        possible = [shape for shape in self.shapes if _can_be(shape, memory)]
        return max((shape.depth or 0 for shape in possible or self.shapes), default=None)

    @staticmethod
    def _has_time(memory: Memory, goal: Goal, answers: set[Spot], steps_left: int) -> bool:
        """Whether an answer can still be given after it.

        answers: where the best files so far are listed; before anything is read, what the goal reads can be the answer.
        """
        back = min((memory.distance(spot, goal.spot) for spot in answers), default=0)
        return goal.steps + back + 1 <= steps_left

    @staticmethod
    def _answer(memory: Memory, best: tuple[int, ...]) -> frozenset[int]:
        steps = {node: memory.distance(memory.at(node)) for node in best}
        nearest = [node for node in best if steps[node] == min(steps.values())]
        return towards(memory, (("id", node, memory.folder(node)) for node in nearest))


def _can_be(shape: Shape, memory: Memory) -> bool:
    """Whether what was listed can be of this kind of capped tree: no folder shows too much, and a target is left."""
    deepest = shape.depth or 0
    has_target = False
    for folder in memory.known_folders():
        depth = memory.depth(folder)
        if folder not in memory.listed:
            has_target |= depth <= deepest
            continue
        folders, files = memory.listing(folder)
        if files > (shape.files or 0) or folders > (shape.folders or 0) * (depth < deepest):
            return False
        has_target |= memory.is_open(folder) or (depth == deepest and files > 0)
    return has_target


def shortest(memory: Memory, target: int) -> frozenset[int]:
    """The shortest way to a target that is known: enter the folders above it, read it, answer."""
    verb = "id" if target in memory.read else "cat"
    return towards(memory, [(verb, target, memory.folder(target))])


def towards(memory: Memory, goals: Iterable[tuple[str, int, int]]) -> frozenset[int]:
    """The next moves on the way to each of some goals: (verb, node, folder in which it is done or entered).

    What stands on another page of the listing is reached by ls.
    """
    place, view = memory.place, memory.view
    index = {move: number for number, move in enumerate(place.moves)}
    found = set()
    for verb, node, folder in goals:
        here, there = view.way(place.folder), view.way(folder)
        if folder == place.folder:
            move = (verb, node)
        elif there[: len(here)] == here:
            move = ("cd", there[len(here)])
        else:
            move = ("cd ..", view.tree.parent(place.folder))
        found.add(index[move if move in index else ("ls", place.folder)])
    return frozenset(found)
