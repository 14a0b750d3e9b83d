"""Folders that try to make a reader leave them, drawn from a seed, and a reader that looks for what lies outside.

Everything in a hostile folder has a double outside of it, at the same path below another root. All names and contents
that are found only there hold SECRET. Links point to doubles, and a swap puts such a link in the place of what was
there. So a reader that follows a link finds what it looks for, and gives itself away.
"""

from __future__ import annotations

import os
import signal
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any
from unittest.mock import patch

from reflect_rl.envs.autoexplore.names import shown
from reflect_rl.envs.autoexplore.pages import paginate, text_of, without_docstrings
from reflect_rl.envs.autoexplore.tree import IGNORED_NAMES, Tree, UnreadableError

SECRET = b"SECRET-of-the-outside"
NAMES = [
    *b'a b.py README -rf -- . .. ... .git x.pyc ~ * ? | ; & \' " \\ \\x41 "\\n" `id` ${HOME} %s {0}'.split(),
    *(b"\xff", b"\xc3", b"\x80\x80", b"\xed\xb3\xbf", b" ", b"\n", b"\r", b"\t", b"\x7f", b"\x1b[31m"),
    *(b"$(touch PWNED)", b"cd ..", b"cat ", b"n" * 100),
    *map(str.encode, ("é", "e\u0301", "目", "\u202egpj", "\u200b", "\u2028", "\U000e0041", "\ufffd", "\xa0")),
]
CONTENTS = [
    *(b"", b"text\n", b"\n" * 300, b"a" * 3000, b"one\r\ntwo\rthree", b"\x1b]0;title\x07", b"cd ..\n[ok]", b"\0" * 50),
    *(b"\xff\xfe\0", b"\xed\xa0\x80", b"\xef\xbb\xbfx", b"\xc3", "\u202eabc\u2066".encode(), b"# latin-1: \xe9"),
    *(b'"""Doc."""\nx = 1\n', b'def f():\n    "Doc."', b"class A: 'Doc.'; x = 1", b"def (", b"(" * 500),
]


class HostileFolder:
    """root: the folder to explore. outside: its double. paths: of the folders and files that are in both."""

    def __init__(self, place: Path, random: Random) -> None:
        self.place = place
        self.root = place / "above" / "root"
        self.outside = place / "above" / "outside"
        self.random = random
        self.paths: list[bytes] = []
        self.swaps = Counter[str]()

    def here(self, path: bytes) -> bytes:
        """Where a path lies below the root."""
        return os.path.join(os.fsencode(self.root), path) if path else os.fsencode(self.root)

    def double(self, path: bytes) -> bytes:
        """Where the double of a path lies."""
        return os.path.join(os.fsencode(self.outside), path) if path else os.fsencode(self.outside)

    def put_aside(self, path: bytes | Path) -> Path:
        """Move something away. Returns where it is then."""
        aside = self.place / f"aside-{len(os.listdir(self.place))}"
        os.rename(path, aside)
        return aside

    def only(self) -> list[str]:
        """Some of the paths, and some that lead outside."""
        some = [path.decode("utf-8", "surrogateescape") for path in self.paths if self.random.random() < 0.7]
        return [
            *some,
            f"../outside/{SECRET.decode()}",
            str(self.outside / SECRET.decode()),
            "link-1/b.py",
            "",
            "/",
            ".",
        ]

    def swap(self) -> None:
        """Change something below the root, the root itself, or the folder above it, if that can still be done."""
        swap, path = self.random.choice(SWAPS), self.random.choice([b"", *self.paths])
        with suppress(OSError):
            swap(self, path)
            self.swaps[swap.__name__] += 1

    @contextmanager
    def swapping(self, most: int = 12) -> Iterator[None]:
        """Swap right before something is opened or listed: one of the next `most` times, and each 7th time after it."""
        opened, scanned, moments = os.open, os.scandir, count(-self.random.randrange(most))

        def disturbed(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                moment = next(moments)
                if moment >= 0 and moment % 7 == 0:
                    with patch.object(os, "open", opened), patch.object(os, "scandir", scanned):
                        self.swap()
                return original(*args, **kwargs)

            return call

        with patch.object(os, "open", disturbed(opened)), patch.object(os, "scandir", disturbed(scanned)):
            yield


@contextmanager
def hostile_folder(random: Random) -> Iterator[HostileFolder]:
    """A small hostile folder and its double, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        folder = HostileFolder(Path(place), random)
        folder.root.mkdir(parents=True)
        make_double_folder(os.fsencode(folder.outside))
        for _ in range(random.randrange(2, 14)):
            with suppress(OSError):  # a name that this file system refuses, or that is taken
                random.choices(MAKERS, WEIGHTS)[0](folder)
        yield folder


def read_everything(tree: Tree) -> tuple[list[str], Counter[str]]:
    """All names and texts that can be had of a tree, and how many files were read, or were not and why.

    Raises AssertionError where a promise of Tree, names or pages is broken.
    """
    told, reasons = [], Counter()
    for node in range(len(tree)):
        children = [*tree.folders(node), *tree.files(node)]
        lines = [shown(tree.name(child)) for child in children]
        assert all(line.isprintable() and line for line in lines), lines
        assert len(set(lines)) == len(lines), lines
        assert not any(tree.name(child) in IGNORED_NAMES or tree.name(child).startswith("link-") for child in children)
        assert all(tree.parent(child) == node for child in children)
        assert tree.find(tree.path(node)) == node
        told += [*lines, *map(tree.name, children)]
        if tree.is_file(node):
            try:
                text = text_of(tree.read(node, 5000))
            except UnreadableError as error:
                reasons[error.reason] += 1
                continue
            reasons["read"] += 1
            for version in (text, without_docstrings(text)):
                pages = paginate(version, 80)
                assert "".join(pages) == version
                assert version.encode().decode() == version
                told += pages
    return told, reasons


class TooLongError(Exception):
    """Not a TimeoutError: that is an OSError, which may pass for an unreadable file."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TooLongError in the main thread after so many seconds."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TooLongError(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def secrets(told: list[str]) -> list[str]:
    """What was told that is known only outside."""
    return [text for text in told if SECRET.decode() in text]


def odd_name(random: Random) -> bytes:
    return b"".join(random.choices(NAMES, k=random.choice((1, 1, 1, 2, 3))))


def new_path(folder: HostileFolder, name: bytes) -> bytes:
    """A path with this name in one of the folders that there are."""
    folders = [b"", *(path for path in folder.paths if os.path.isdir(folder.double(path)))]
    return os.path.join(folder.random.choice(folders), name)


def write(path: bytes, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def make_double_folder(path: bytes) -> None:
    os.mkdir(path)
    write(os.path.join(path, SECRET), SECRET)


def make_file(folder: HostileFolder) -> None:
    path = new_path(folder, odd_name(folder.random))
    write(folder.here(path), folder.random.choice(CONTENTS))
    write(folder.double(path), SECRET)
    folder.paths.append(path)


def make_folder(folder: HostileFolder) -> None:
    path = new_path(folder, odd_name(folder.random))
    os.mkdir(folder.here(path))
    make_double_folder(folder.double(path))
    folder.paths.append(path)


def make_link(folder: HostileFolder) -> None:
    number = folder.random.randrange(5)
    path = new_path(folder, b"link-%d" % number)
    below = folder.random.choice([b"", SECRET, *folder.paths])
    up = b"../" * (path.count(b"/") + 1)
    targets = [
        *(folder.double(below), up + b"outside/" + below, folder.here(below), up, b".", b"..", b"link-%d" % number),
        *(b"link-%d" % folder.random.randrange(5), b"nowhere", b"/", b"/proc/self/environ", b"/dev/zero"),
    ]
    os.symlink(folder.random.choice(targets), folder.here(path))


def make_special_file(folder: HostileFolder) -> None:
    kind = folder.random.choice((stat.S_IFIFO, stat.S_IFSOCK))
    os.mknod(folder.here(new_path(folder, odd_name(folder.random))), kind | 0o600)


MAKERS = [make_file, make_folder, make_link, make_special_file]
WEIGHTS = [8, 5, 4, 1]


def link(folder: HostileFolder, path: bytes) -> None:
    folder.put_aside(folder.here(path))
    os.symlink(folder.double(path), folder.here(path))


def relative_link(folder: HostileFolder, path: bytes) -> None:
    folder.put_aside(folder.here(path))
    os.symlink(os.path.relpath(folder.double(path), os.path.dirname(folder.here(path))), folder.here(path))


def other_root(folder: HostileFolder, _: bytes) -> None:
    """The double in the place of the root: the path is the same, the folder is another one."""
    folder.put_aside(folder.root)
    os.rename(folder.outside, folder.root)


def link_above_root(folder: HostileFolder, _: bytes) -> None:
    """A link in the place of the folder above the root, on whose other side the double is called like the root."""
    aside = folder.put_aside(folder.root.parent)
    os.rename(aside / "root", aside / "was-root")
    os.rename(aside / "outside", aside / "root")
    os.symlink(aside, folder.root.parent)


def fifo(folder: HostileFolder, path: bytes) -> None:
    folder.put_aside(folder.here(path))
    os.mkfifo(folder.here(path))


def other_kind(folder: HostileFolder, path: bytes) -> None:
    """A file in the place of a folder, or the other way round."""
    aside = folder.put_aside(folder.here(path))
    write(folder.here(path), b"new") if aside.is_dir() else os.mkdir(folder.here(path))


def removed(folder: HostileFolder, path: bytes) -> None:
    folder.put_aside(folder.here(path))


def forbidden(folder: HostileFolder, path: bytes) -> None:
    if not os.path.islink(folder.here(path)):
        os.chmod(folder.here(path), 0)


def grown(folder: HostileFolder, path: bytes) -> None:
    if os.path.isfile(folder.here(path)):
        with open(folder.here(path), "ab") as file:
            file.write(b"more\n" * 2000)


SWAPS = [*[link] * 3, relative_link, other_root, link_above_root, fifo, other_kind, removed, forbidden, grown]
