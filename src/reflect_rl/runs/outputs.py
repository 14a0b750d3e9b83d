"""Output paths given by the user: checked before any work starts, and written without harming other files.

All `--out` and `-o` options use `output_file` or `output_folder`. Existing files are kept unless we wrote them, links
are followed, and pipes and terminals are written to directly.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from reflect_rl.errors import OutputError
from reflect_rl.paths import expanded
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import EDITED, RunFolder, hash_path, remove, set_aside

MARK = ".reflect-rl"
"""A file that marks a folder as ours and says what it holds."""
LINKS = 40
"""Maximum number of links followed, as in Linux."""
PIPES = (stat.S_ISFIFO, stat.S_ISCHR)
"""File types written to directly: they cannot be replaced and have no content to lose."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """An output file. path: the target of any links. direct: descriptor or path of a pipe or device."""

    path: Path
    direct: int | Path | None = None

    def write_jsonl(self, rows: Iterable[Any]) -> None:
        """Write one JSON object per line. Raises OutputError or RunFolderError (such as a full disk, or no reader)."""
        if self.direct is None:
            RunFolder(self.path.parent).write_jsonl(self.path.name, rows)
            return
        with self._open() as file:
            for row in rows:
                file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def write_bytes(self, data: bytes) -> None:
        """Write bytes. Raises as `write_jsonl` does."""
        if self.direct is None:
            with RunFolder(self.path.parent).replacing(self.path.name) as temporary:
                temporary.write_bytes(data)
            return
        with self._open() as file:
            file.write(data)

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        """Open the pipe or device; errors while writing raise OutputError."""
        try:
            descriptor = os.dup(self.direct) if isinstance(self.direct, int) else os.open(self.path, os.O_WRONLY)
            with os.fdopen(descriptor, "wb") as file:
                yield file
        except OSError as error:
            raise OutputError(f"{self.path} could not be written: {error.strerror}.") from None


def output_file(
    given: str | Path,
    option: str,
    inputs: Iterable[str | Path | None] = (),
    ours: Callable[[Path], bool] = lambda path: False,
) -> OutputFile:
    """The file that `option` names, which need not exist.

    inputs: the paths that the command reads; None and non-files are ignored. ours: whether the command itself wrote an
    existing file earlier, so that it may be replaced.

    Raises OutputError if the path is empty, a folder, an input or inside an input folder, a file that is not ours, or
    not writable.
    """
    path = _path(given, option)
    descriptor = _descriptor(path)
    if descriptor is not None:
        return OutputFile(path, descriptor)
    found = _stat(path, option)
    if os.fspath(given).endswith(("/", "/.", "/..")) or (found and stat.S_ISDIR(found.st_mode)):
        raise OutputError(f"{option} {given} is a folder. Name a file.")
    real = Path(os.path.realpath(path))
    if found is None:
        _check_parent(real, option, given)
        return OutputFile(real)
    if any(kind(found.st_mode) for kind in PIPES):
        return OutputFile(path, path)
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{option} {given} is neither a file nor a pipe. Name a file.")
    for each in inputs:
        if each is not None and _is_input(real, found, Path(each)):
            raise OutputError(f"{option} {given} is an input of this command ({each}). Name another file.")
    if found.st_size and not ours(real):
        raise OutputError(f"{option} {given} exists, and was not written by this command. Name another file.")
    if not os.access(real, os.W_OK):
        raise OutputError(f"{option} {given} may not be written to. Name another file, or change its permissions.")
    _check_parent(real, option, given)
    return OutputFile(real)


def output_folder(given: str | Path, option: str, inputs: Sequence[Path] = ()) -> Path:
    """The folder that `option` names, which need not exist.

    inputs: folders that the command reads.

    Raises OutputError if the path is empty, not a folder, not writable, or overlaps an input.
    """
    path = _path(given, option)
    found = _stat(path, option)
    if found and not stat.S_ISDIR(found.st_mode):
        raise OutputError(f"{option} {given} is not a folder. Name a folder, new or made by the same command.")
    real = Path(os.path.realpath(path))
    for each in inputs:
        source = Path(os.path.realpath(each))
        if source == real or source in real.parents or real in source.parents:
            raise OutputError(f"{option} {given} overlaps {each}, which this command reads. Name another folder.")
    if found is None:
        _check_parent(real, option, given)
    elif not os.access(real, os.W_OK | os.X_OK):
        raise OutputError(f"{option} {given} may not be written to. Name another folder, or change its permissions.")
    return expanded(given)


class PublishedFolder(RunFolder):
    """A claimed folder for others to read, such as an export. People edit cards, and add files.

    What was changed since it was written is kept as NAME.edited, and the user is warned. The mark has a line
    `sha256 name` for everything that was ever written here. Marks of earlier versions have none: what those wrote is
    replaced.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path)
        self.progress = progress

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there and as it was written."""
        self._keep_edited(name)
        remove(self / name)

    def _place(self, name: str, temporary: Path) -> None:
        self._keep_edited(name)
        with (self / MARK).open("a", encoding="utf-8") as file:
            file.write(f"{hash_path(temporary)} {name}\n")
            file.flush()
            os.fsync(file.fileno())
        super()._place(name, temporary)

    def _keep_edited(self, name: str) -> None:
        lines = (self / MARK).read_text(encoding="utf-8", errors="replace").splitlines()
        written = [line.partition(" ")[0] for line in lines if line.endswith(f" {name}")]
        if written and (self / name).exists() and self.hash(name) not in written:
            aside = set_aside(self / name, EDITED)
            self.progress.warn(f"{self / name} was changed since it was written here; it is kept as {aside.name}.")


def claim_folder(folder: Path, holds: str, known_by: str = MARK, option: str = "--out") -> None:
    """Mark a new or empty folder as ours before anything is written into it. An existing mark is kept.

    holds: what the folder will hold, such as "comparison". known_by: a glob pattern that identifies an unmarked folder
    of this kind; by default none is recognised. option: the option that names the folder.

    Raises OutputError if the folder holds something else.
    """
    mark = folder / MARK
    text = mark.read_text(encoding="utf-8", errors="replace") if mark.is_file() else None
    there = None if text is None else text.partition("\n")[0].strip()
    if there == holds or (there is None and any(folder.glob(known_by))):
        return
    others = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if there is not None or others:
        raise OutputError(
            f"{folder} holds no {holds}, but {there or ', '.join(others[:3])}. Choose another folder with {option}."
        )
    RunFolder(folder).write_text(MARK, f"{holds}\n")


def _path(given: str | Path, option: str) -> Path:
    if not os.fspath(given).strip():
        raise OutputError(f"{option} is empty. Name a path, or leave {option} out.")
    path = expanded(given)
    if os.fspath(path).startswith("~") and not path.exists():
        raise OutputError(f"{option} {given} lies in a home folder that is not known. Write the whole path.")
    return Path.cwd() / path


def _stat(path: Path, option: str) -> os.stat_result | None:
    """Stat of a path, following links; None if nothing is there. Raises OutputError for an unusable path."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{option} {path} cannot be used: {reason}. Name another path.") from None


def _descriptor(path: Path) -> int | None:
    """The open descriptor behind a path such as /dev/stdout or /dev/fd/63, also through links."""
    own = re.compile(rf"(?:/dev|/proc/(?:self|thread-self|{os.getpid()}))/fd/(\d+)")
    for _ in range(LINKS):
        if match := own.fullmatch(os.path.normpath(path)):
            return int(match[1])
        if not os.path.islink(path):
            return None
        path = path.parent / path.readlink()
    return None


def _check_parent(real: Path, option: str, given: str | Path) -> None:
    """Raise OutputError unless the nearest existing parent folder is writable."""
    parent = next((folder for folder in real.parents if folder.exists()), real.parent)
    if not parent.is_dir():
        raise OutputError(f"{option} {given} cannot be made: {parent} is not a folder. Name another path.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{option} {given} cannot be made: {parent} may not be written to. Name another path.")


def _is_input(real: Path, found: os.stat_result, given: Path) -> bool:
    """Whether a file is an input under any name, or inside an input folder."""
    try:
        other = expanded(given).stat()
    except (OSError, ValueError):
        return False
    return os.path.samestat(found, other) or Path(os.path.realpath(expanded(given))) in real.parents
