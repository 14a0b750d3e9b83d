"""Tree: a folder, indexed once and read-only, that never reads anything outside of itself."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from reflect_rl.errors import EnvironmentContractError

IGNORED_NAMES = frozenset(
    (
        *(".git", ".hg", ".svn", ".bzr"),
        *(
            "__pycache__",
            ".mypy_cache",
            ".pytest_cache",
            ".ruff_cache",
            ".hypothesis",
            ".ipynb_checkpoints",
            ".DS_Store",
        ),
        *(".venv", ".tox", ".nox", "node_modules"),
    )
)
"""Version control, caches, and what package managers install."""
IGNORED_SUFFIXES = (".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".o", ".a", ".class")
"""Compiled files."""
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""How everything is opened: no link is followed, and a FIFO or a terminal does not make us wait."""
FOLDER = FILE | os.O_DIRECTORY
REASONS = {
    errno.ENOENT: "it is gone",
    errno.ELOOP: "it has become a link",
    errno.ENOTDIR: "a folder above it has become a link or a file",
    errno.ENXIO: "it has become a special file",
    errno.EACCES: "there is no permission to read it",
    errno.EPERM: "there is no permission to read it",
}


class UnreadableError(EnvironmentContractError):
    """A file of a tree that cannot be read now. reason: why, as a clause such as "it is gone"."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path!r} cannot be read: {reason}. Index the folder again if it has changed.")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str]]:
        return UnreadableError, (self.path, self.reason)


class Tree:
    """The folders and files below a root, as they were when it was indexed. Made by `Tree.index`.

    A node is an integer from 0 to len - 1; 0 is the root. Links and special files are not listed. Names and paths are
    text with the bytes that are not UTF-8 as lone surrogates ("surrogateescape").

    A file is opened folder by folder, starting at the root, and no link is followed on the way. So what is read lies
    below the root, even if links were made after the tree was indexed.
    """

    def __init__(self, root: Path, identity: tuple[int, int]) -> None:
        self.root = root
        self._identity = identity
        self._names = [""]
        self._parents = [0]
        self._folders: list[tuple[int, ...]] = [()]
        self._files: list[tuple[int, ...]] = [()]
        self._is_file = bytearray(1)

    @classmethod
    def index(cls, root: Path, *, only: Iterable[str] | None = None) -> Self:
        """Index a folder.

        A folder below the root that cannot be listed (no permission, or it has just vanished) has no children.

        Args:
            root: The folder; if it is a link, the folder that it points to.
            only: Paths relative to the root, with "/"; other files, and the folders without such files, are left out.
                None: everything. In any case, IGNORED_NAMES and IGNORED_SUFFIXES are left out.

        Raises:
            EnvironmentContractError: If the root is not a folder, or cannot be listed.
        """
        try:
            root = Path(root).resolve(strict=True)
            with _opened(os.fspath(root), FOLDER) as folder:
                found = os.fstat(folder)
                os.scandir(folder).close()
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise EnvironmentContractError(
                f"{os.fspath(root)!r} cannot be explored: {reason}. Name a folder that exists and can be read."
            ) from error
        tree = cls(root, (found.st_dev, found.st_ino))
        tree._fill(None if only is None else _with_folders(only))
        return tree

    def __len__(self) -> int:
        """The number of nodes: folders, files, and the root."""
        return len(self._names)

    def folders(self, node: int) -> tuple[int, ...]:
        """The folders in a folder, sorted by the bytes of their names."""
        return self._folders[node]

    def files(self, node: int) -> tuple[int, ...]:
        """The files in a folder, sorted by the bytes of their names."""
        return self._files[node]

    def is_file(self, node: int) -> bool:
        """Whether a node is a file; otherwise it is a folder."""
        return bool(self._is_file[node])

    def name(self, node: int) -> str:
        """The name of a node; "" for the root."""
        return self._names[node]

    def parent(self, node: int) -> int:
        """The folder of a node; the root for the root."""
        return self._parents[node]

    def path(self, node: int) -> str:
        """The path of a node below the root, with "/"; "" for the root."""
        return "/".join(self._way(node))

    def find(self, path: str) -> int | None:
        """The node with exactly this path, or None if there is none."""
        node = 0
        for name in path.split("/") if path else ():
            child = self._child(self._folders[node], name)
            if child is None:
                child = self._child(self._files[node], name)
            if child is None:
                return None
            node = child
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
            with self._open(node, FILE) as opened:
                mode = os.fstat(opened).st_mode
                if not stat.S_ISREG(mode):
                    kind = "folder" if stat.S_ISDIR(mode) else "special file"
                    raise UnreadableError(self.path(node), f"it is a {kind}")
                with open(opened, "rb", closefd=False) as file:
                    return file.read(most)
        except OSError as error:
            reason = REASONS.get(error.errno or 0) or os.strerror(error.errno or errno.EIO)
            raise UnreadableError(self.path(node), reason) from error

    def _fill(self, only: frozenset[str] | None) -> None:
        waiting = [0]
        while waiting:
            node = waiting.pop()
            try:
                with self._open(node, FOLDER) as folder, os.scandir(folder) as entries:
                    folders, files = _listed(entries)
            except OSError:
                continue
            if only is not None:
                above = f"{self.path(node)}/" if node else ""
                folders, files = ([name for name in names if above + name in only] for names in (folders, files))
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

    def _way(self, node: int) -> list[str]:
        """The names from below the root down to a node."""
        names = []
        while node:
            names.append(self._names[node])
            node = self._parents[node]
        names.reverse()
        return names

    def _child(self, nodes: tuple[int, ...], name: str) -> int | None:
        at = bisect_left(nodes, _raw(name), key=lambda node: _raw(self._names[node]))
        return nodes[at] if at < len(nodes) and self._names[nodes[at]] == name else None

    @contextmanager
    def _open(self, node: int, flags: int) -> Iterator[int]:
        """A descriptor of a node, opened folder by folder. Raises OSError."""
        names = self._way(node)
        here = os.open(self.root, FOLDER)
        try:
            found = os.fstat(here)
            if (found.st_dev, found.st_ino) != self._identity:
                raise FileNotFoundError(errno.ENOENT, "the root was replaced")
            for left, name in enumerate(names, 1 - len(names)):
                there = os.open(_raw(name), FOLDER if left else flags, dir_fd=here)
                os.close(here)
                here = there
            yield here
        finally:
            os.close(here)


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _listed(entries: Iterable[os.DirEntry[str]]) -> tuple[list[str], list[str]]:
    """The names of the folders and the files among entries, sorted by their bytes."""
    folders, files = [], []
    for entry in entries:
        if entry.name in IGNORED_NAMES:
            continue
        if entry.is_dir(follow_symlinks=False):
            folders.append(os.fsencode(entry.name))
        elif entry.is_file(follow_symlinks=False) and not entry.name.endswith(IGNORED_SUFFIXES):
            files.append(os.fsencode(entry.name))
    return _names(folders), _names(files)


def _names(raw: list[bytes]) -> list[str]:
    return [name.decode("utf-8", "surrogateescape") for name in sorted(raw)]


def _raw(name: str) -> bytes:
    """The bytes of a name."""
    return name.encode("utf-8", "surrogateescape")


def _with_folders(paths: Iterable[str]) -> frozenset[str]:
    """Paths, and all folders above them."""
    found: set[str] = set()
    for path in paths:
        while path and path not in found:
            found.add(path)
            path = path.rpartition("/")[0]
    return frozenset(found)
