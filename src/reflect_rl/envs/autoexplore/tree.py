"""Tree: a folder, indexed once and read-only, that never reads anything outside of itself."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import Self

from reflect_rl.envs.autoexplore.names import shown
from reflect_rl.errors import EnvironmentContractError

IGNORED_NAMES = frozenset({".git", ".hg", ".svn", ".bzr", ".venv", ".tox", ".nox", "node_modules", "__pycache__"}) | {
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints", ".DS_Store")
}
"""Version control, what package managers install, and caches."""
IGNORED_SUFFIXES = (".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".o", ".a", ".class")
"""Compiled files."""
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""How a file is opened: a link is an error, and what looks like a file but is a FIFO or a terminal does no harm."""
FOLDER = FILE | os.O_DIRECTORY
MOST_OPEN = 32
"""Folders that are open at once while a tree is indexed or read."""
SPECIAL = "it has become a special file"
REASONS = {
    errno.ENOENT: "it is gone",
    errno.ELOOP: "it has become a link",
    errno.ENOTDIR: "a folder above it has become a link or a file",
    errno.EISDIR: "it has become a folder",
    errno.ENXIO: SPECIAL,
    errno.EACCES: "there is no permission to read it",
    errno.EPERM: "there is no permission to read it",
}
"""Why something cannot be opened that was listed before."""


class UnreadableError(EnvironmentContractError):
    """A file of a tree that cannot be read now. reason: why, as a clause such as "it is gone"."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{shown(path)} cannot be read: {reason}. A folder is indexed once: if it has changed, begin again in "
            f"a new process."
        )
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str]]:
        return UnreadableError, (self.path, self.reason)


class Tree:
    """The folders and files below a root, as they were when it was indexed. Made by `Tree.index`.

    A node is an integer from 0 to len - 1; 0 is the root. Links and special files are not listed. Names and paths are
    text in which each byte that is not UTF-8 is a lone surrogate ("surrogateescape").

    A file is opened folder by folder, starting at the root, and no link is followed on the way. So what is read lies
    below the root, even if links were made after the tree was indexed. Hard links are files like any others.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.identity = _identity(os.stat(root))
        self._names = [""]
        self._parents = [0]
        self._folders: list[tuple[int, ...]] = [()]
        self._files: list[tuple[int, ...]] = [()]
        self._is_file = bytearray(1)

    @classmethod
    def index(cls, root: Path, *, only: Iterable[str] | None = None) -> Self:
        """Index a folder.

        A folder below the root that there is no permission to list, or that vanishes meanwhile, has no children.

        Args:
            root: The folder; if it is a link, the folder that it points to.
            only: Paths below the root, with "/"; other files, and folders without such files, are left out. None:
                everything. IGNORED_NAMES and IGNORED_SUFFIXES are left out in any case.

        Raises:
            EnvironmentContractError: If the root is not a folder, or cannot be listed.
        """
        try:
            tree = cls(Path(root).resolve(strict=True))
            tree._fill(None if only is None else frozenset(only))
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a link in a circle; ValueError: a NUL
            reason = getattr(error, "strerror", None) or str(error)
            raise EnvironmentContractError(
                f"{shown(os.fspath(root))} cannot be explored: {reason}. Name a folder that exists and can be read."
            ) from error
        return tree

    def __len__(self) -> int:
        """The number of nodes: folders, files, and the root."""
        return len(self._names)

    def folders(self, node: int) -> tuple[int, ...]:
        """The folders in a folder, sorted by the bytes of their names; none for a file."""
        return self._folders[node]

    def files(self, node: int) -> tuple[int, ...]:
        """The files in a folder, sorted by the bytes of their names; none for a file."""
        return self._files[node]

    def is_file(self, node: int) -> bool:
        """Whether a node is a file; otherwise it is a folder."""
        return bool(self._is_file[node])

    def name(self, node: int) -> str:
        """The name of a node; "" for the root."""
        return self._names[node]

    def parent(self, node: int) -> int:
        """The folder that a node lies in; the root for the root."""
        return self._parents[node]

    def path(self, node: int) -> str:
        """The path of a node below the root, with "/"; "" for the root."""
        return "/".join([self._names[each] for each in self.way(node)[1:]])

    def way(self, node: int) -> list[int]:
        """The nodes from the root down to a node, both included."""
        way = [node]
        while node:
            node = self._parents[node]
            way.append(node)
        way.reverse()
        return way

    def find(self, path: str) -> int | None:
        """The node with exactly this path, or None if there is none."""
        node: int | None = 0
        for name in path.split("/") if path else ():
            node = self._child(self._folders[node], name) or self._child(self._files[node], name)
            if node is None:
                break
        return node

    def read(self, node: int, most: int = 1 << 20) -> bytes:
        """Read a file as it is now.

        Args:
            node: A file.
            most: Bytes to read at the most; the rest of a longer file is left out.

        Raises:
            UnreadableError: If it is gone, is no regular file any more, or there is no permission to read it.
        """
        try:
            with _Descent(self) as descent, descent.open_file(node) as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return file.read(most)
        except OSError as error:
            reason = REASONS.get(error.errno or 0) or os.strerror(error.errno or errno.EIO)
            raise UnreadableError(self.path(node), reason) from error
        raise UnreadableError(self.path(node), SPECIAL)

    def _fill(self, only: frozenset[str] | None) -> None:
        """List all folders, each before those in it. Raises OSError."""
        waiting, above_only = [0], _folders_above(only or ())
        with _Descent(self) as descent:
            while waiting:
                node = waiting.pop()
                try:
                    folders, files = _listed(descent.folder(node))
                except OSError as error:
                    if node and error.errno in REASONS:
                        continue
                    raise
                if only is not None:
                    above = f"{self.path(node)}/" if node else ""
                    folders = [name for name in folders if above + name in above_only]
                    files = [name for name in files if above + name in only]
                self._folders[node] = self._add(folders, node, is_file=False)
                self._files[node] = self._add(files, node, is_file=True)
                waiting += reversed(self._folders[node])

    def _add(self, names: list[str], parent: int, *, is_file: bool) -> tuple[int, ...]:
        count = len(names)
        nodes = tuple(range(len(self), len(self) + count))
        self._names += names
        self._parents += [parent] * count
        self._folders += [()] * count
        self._files += [()] * count
        self._is_file += bytes([is_file]) * count
        return nodes

    def _child(self, nodes: tuple[int, ...], name: str) -> int | None:
        try:
            at = bisect_left(nodes, _raw(name), key=lambda node: _raw(self._names[node]))
        except UnicodeEncodeError:  # a lone surrogate that stands for no byte
            return None
        return nodes[at] if at < len(nodes) and self._names[nodes[at]] == name else None


class _Descent:
    """Opens folders of a tree from the one above, and keeps the last ones open for those below. A context manager."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._open: list[tuple[int, int]] = []
        """Node and descriptor; each lies in the one before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_below(None)

    def folder(self, node: int) -> int:
        """A descriptor of a folder, which is open until the next call. Raises OSError."""
        self._close_below(self._tree.parent(node))
        for each in [node] if self._open else self._tree.way(node):
            self._open.append((each, self._opened(each)))
            if len(self._open) > MOST_OPEN:
                os.close(self._open.pop(0)[1])
        return self._open[-1][1]

    def open_file(self, node: int) -> BufferedReader:
        """A file, open for reading. Raises OSError."""
        folder = self.folder(self._tree.parent(node))
        return open(_raw(self._tree.name(node)), "rb", opener=lambda name, _: os.open(name, FILE, dir_fd=folder))

    def _close_below(self, node: int | None) -> None:
        while self._open and self._open[-1][0] != node:
            os.close(self._open.pop()[1])

    def _opened(self, node: int) -> int:
        if node:
            return os.open(_raw(self._tree.name(node)), FOLDER, dir_fd=self._open[-1][1])
        descriptor = os.open(self._tree.root, FOLDER)
        if _identity(os.fstat(descriptor)) != self._tree.identity:
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "another folder has taken the place of the root")
        return descriptor


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _listed(folder: int) -> tuple[list[str], list[str]]:
    """The names of the folders and the files in an open folder, sorted by their bytes."""
    is_folder = {}  # a folder that changes while it is listed can give a name twice
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in IGNORED_NAMES:
                continue
            if entry.is_dir(follow_symlinks=False):
                is_folder[os.fsencode(entry.name)] = True
            elif entry.is_file(follow_symlinks=False) and not entry.name.endswith(IGNORED_SUFFIXES):
                is_folder[os.fsencode(entry.name)] = False
    folders, files = [], []
    for name in sorted(is_folder):
        (folders if is_folder[name] else files).append(name.decode("utf-8", "surrogateescape"))
    return folders, files


def _folders_above(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return found


def _raw(name: str) -> bytes:
    """The bytes of a name."""
    return name.encode("utf-8", "surrogateescape")
