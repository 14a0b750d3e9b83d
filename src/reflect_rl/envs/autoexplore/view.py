"""What an episode shows of a tree: from a root folder down, with some files and folders hidden."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflect_rl.envs.autoexplore.names import shown
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.seeding import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from reflect_rl.envs.autoexplore.tree import Tree

NATURAL = "natural"
_CAPPED = re.compile(r"d(\d+)F(\d+)D(\d+)")


@dataclass(frozen=True, slots=True)
class Shape:
    """Which part of a repository an episode shows.

    Attributes:
        depth: Folders between the root and the target; None takes the repository's own root.
        files: Most files shown in a folder; None shows all.
        folders: Most folders shown in a folder; None shows all.
    """

    depth: int | None = None
    files: int | None = None
    folders: int | None = None

    @classmethod
    def parse(cls, name: str) -> Shape:
        """Read "natural", or a capped tree such as "d1F4D3": depth 1, at most 4 files and 3 folders in a folder.

        A capped tree ends at the target's depth: the folders there show no folders.

        Raises:
            EnvironmentContractError: If it is neither.
        """
        if name == NATURAL:
            return cls()
        found = _CAPPED.fullmatch(name)
        depth, files, folders = map(int, found.groups()) if found else (0, 0, 0)
        if not files or (depth and not folders):
            raise EnvironmentContractError(
                f"trees has {name!r}. A tree is '{NATURAL}', or capped like 'd1F4D3': the target 1 folder below the "
                f"root, and at most 4 files and 3 folders shown in a folder."
            )
        return cls(depth, files, folders)

    def __str__(self) -> str:
        return NATURAL if self.depth is None else f"d{self.depth}F{self.files}D{self.folders}"


WHOLE = Shape()


@dataclass(frozen=True, slots=True)
class Place:
    """A page of a folder's listing.

    Attributes:
        folder: The folder's node.
        page: From 0.
        folders: The folders of this page.
        files: The files of this page.
        actions: The admissible actions, as text.
        moves: The same actions as (verb, node).
        text: The folder and its listing, as it is shown.
    """

    folder: int
    page: int
    folders: tuple[int, ...]
    files: tuple[int, ...]
    actions: tuple[str, ...]
    moves: tuple[tuple[str, int], ...]
    text: str


class View:
    """A tree as episodes see it; what is hidden is drawn by `seed` for each folder on its own.

    Args:
        tree: The indexed repository.
        root: The node that episodes begin at, and never leave.
        listing: Most entries shown at once, at least 1.
        shape: Caps on files and folders.
        leave_out: Probability of hiding a file.
        target: Never hidden, nor any folder above it.
        seed: What the draws depend on, beside the folder's path.
    """

    def __init__(
        self,
        tree: Tree,
        root: int = 0,
        listing: int = 50,
        shape: Shape = WHOLE,
        leave_out: float = 0.0,
        target: int | None = None,
        seed: int = 0,
    ) -> None:
        self.tree, self.root, self.listing = tree, root, listing
        self._shape, self._leave_out, self._seed = shape, leave_out, seed
        self._kept = frozenset(() if target is None else above(tree, target))
        self._deepest = len(self._kept) - 2
        self._children: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._places: dict[tuple[int, int], Place] = {}
        self._ways: dict[int, tuple[int, ...]] = {}
        self._page_of: dict[int, dict[int, int]] = {}
        self._prefix = len(tree.path(root)) + 1 if root else 0

    def children(self, folder: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The folders and the files that are shown of a folder, by name."""
        if (known := self._children.get(folder)) is None:
            known = self._children[folder] = self._drawn(folder)
        return known

    def path(self, node: int) -> str:
        """The node's path below the root, each name as it is shown; "." for the root."""
        if node == self.root:
            return "."
        names = self.tree.path(node)[self._prefix :].split("/")
        return "/".join(map(shown, names))

    def shown(self, node: int) -> str:
        """The node's name, as it is shown."""
        return shown(self.tree.name(node))

    def way(self, folder: int) -> tuple[int, ...]:
        """The folders from the root to a folder, both included."""
        if (known := self._ways.get(folder)) is None:
            known = self._ways[folder] = tuple(above(self.tree, folder, self.root)[::-1])
        return known

    def all_files(self) -> Iterator[int]:
        """All files that can be reached, folder by folder."""
        waiting = [self.root]
        while waiting:
            folders, files = self.children(waiting.pop())
            yield from files
            waiting += reversed(folders)

    def pages(self, folder: int) -> int:
        """Into how many pages the folder's listing is cut, at least 1."""
        return max(1, -(-sum(map(len, self.children(folder))) // self.listing))

    def page_of(self, node: int) -> int:
        """The page of its folder's listing on which a node stands, from 0."""
        folder = self.tree.parent(node)
        if self.pages(folder) == 1:
            return 0
        if (known := self._page_of.get(folder)) is None:
            folders, files = self.children(folder)
            known = {each: number // self.listing for number, each in enumerate((*folders, *files))}
            self._page_of[folder] = known
        return known[node]

    def place(self, folder: int, page: int = 0) -> Place:
        """A page of a folder's listing, with the actions there."""
        if (known := self._places.get((folder, page))) is None:
            known = self._places[folder, page] = self._place(folder, page)
        return known

    def _place(self, folder: int, page: int) -> Place:
        folders, files = self.children(folder)
        pages, first = self.pages(folder), page * self.listing
        last = first + self.listing
        here = folders[first:last]
        there = files[max(0, first - len(folders)) : max(0, last - len(folders))]
        moves = [("cd ..", self.tree.parent(folder))] if folder != self.root else []
        moves += [("cd", node) for node in here]
        moves += [(verb, node) for verb in ("cat", "id") for node in there]
        moves += [("ls", folder)] if pages > 1 else []
        names = {node: self.shown(node) for node in (*here, *there)}
        actions = tuple(f"{verb} {names[node]}" if node in names else verb for verb, node in moves)
        text = f"Folder: {self.path(folder)}"
        text += f" (page {page + 1} of {pages}; ls shows the next)" if pages > 1 else ""
        for title, nodes in (("Folders", here), ("Files", there)):
            text += f"\n{title}: {', '.join(names[node] for node in nodes) or 'none'}"
        return Place(folder, page, here, there, actions, tuple(moves), text)

    def _drawn(self, folder: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        folders, files = self.tree.folders(folder), self.tree.files(folder)
        shape, leave_out = self._shape, self._leave_out
        if shape.files is None and not leave_out:
            return folders, files
        draw = stream(self._seed, "shown", *self.tree.path(folder).encode("utf-8", "surrogateescape"))
        if leave_out:
            hidden = draw.random(len(files)) < leave_out
            files = tuple(node for node, gone in zip(files, hidden, strict=True) if not gone or node in self._kept)
        if shape.files is not None:
            folders = () if len(above(self.tree, folder)) > self._deepest else folders
            folders = self._sample(folders, shape.folders or 0, draw.random(len(folders)))
            files = self._sample(files, shape.files, draw.random(len(files)))
        return folders, files

    def _sample(self, nodes: tuple[int, ...], most: int, keys: np.ndarray) -> tuple[int, ...]:
        """At most `most` of the nodes, those with the smallest keys; the way to the target stays."""
        ranked = sorted(range(len(nodes)), key=lambda index: (nodes[index] not in self._kept, keys[index]))
        return tuple(nodes[index] for index in sorted(ranked[:most]))


def above(tree: Tree, node: int, root: int = 0) -> list[int]:
    """The node and the folders above it, up to a root."""
    nodes = [node]
    while node != root:
        nodes.append(node := tree.parent(node))
    return nodes
