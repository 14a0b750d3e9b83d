"""A run folder: atomic writes, checked reads, hashes, and a lock.

Every file is written under a temporary name, flushed to disk and renamed, so a process killed at any moment leaves
either the old file or the new one.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from reflect_rl.errors import RunFolderError
from reflect_rl.progress import Progress
from reflect_rl.runs.locks import take_lock

Record = TypeVar("Record")

CONFIG, LOCK = "config.yaml", ".lock"
OLD = "old"
EDITED = "edited"
"""Suffix of files that the user has changed and that were in the way: NAME.edited, NAME.edited-2, ..."""
DRAFT = ".reflect-rl-draft"
"""Suffix of the temporary folders of `replacing`; `tidy` recognises them by it."""
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, OSError)
"""The errors that parsing a file with wrong content can raise."""


REMEDY = "move the file away to have its stage write it again"


class RunFolder:
    """Paths, atomic reads and atomic writes within one folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically. Raises RunFolderError (disk full, no permission)."""
        with self.replacing(name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, data: Any) -> None:
        """Write JSON atomically. Raises as `write_text` does, and ValueError for NaN and infinities."""
        self.write_text(name, json.dumps(data, indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[Any]) -> None:
        """Write one JSON object per line, atomically. Raises as `write_json` does."""
        with self.replacing(name) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str, parse: Callable[[Any], Any] = lambda data: data) -> Any:
        """Read and parse a JSON file. Raises RunFolderError if it is missing or has wrong content."""
        path = self._file(name)
        with reading(path):
            return parse(json.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8)))

    def read_jsonl(self, name: str, parse: Callable[[dict[str, Any]], Record]) -> list[Record]:
        """Read one record per line. Blank lines, a BOM and a missing final line break are accepted.

        Raises RunFolderError, naming the line, if the file is missing, cut or damaged.
        """
        return list(self.each_of_jsonl(name, parse))

    def each_of_jsonl(
        self, name: str, parse: Callable[[dict[str, Any]], Record], remedy: str = REMEDY
    ) -> Iterator[Record]:
        """Iterate over the records of `read_jsonl`, for large files of which little is kept.

        remedy: what to do about a damaged line besides mending it.
        """
        path = self._file(name)
        number = 0
        try:
            with path.open("rb") as file:  # bytes, since decoding reads ahead and would misreport the line
                for number, line in enumerate(file, 1):
                    text = line.removeprefix(codecs.BOM_UTF8).strip() if number == 1 else line.strip()
                    if text:
                        yield parse(_unicode(json.loads(text.decode()), text))
        except UNREADABLE as error:
            raise RunFolderError(
                f"{path} is damaged at line {number} ({_reason(error)}). Nothing was changed. Mend the line, or "
                f"{remedy}."
            ) from error

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path; its file or folder replaces `name` when the block succeeds."""
        target = self._target(name)
        made = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=DRAFT, dir=target.parent))
            temporary = made / target.name
            yield temporary
            _flush(temporary)
            self._place(name, temporary)
            _flush_one(target.parent)
        except Exception as error:
            if not _is_os_error(error):
                raise
            raise RunFolderError(
                f"{target} could not be written: {getattr(error, 'strerror', None) or error}. What was there before is "
                f"untouched; mend this and run the same command again to continue."
            ) from error
        finally:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)

    def _target(self, name: str) -> Path:
        """The path of `name`. Raises RunFolderError if it is not inside this folder."""
        parts = Path(name).parts
        if not parts or ".." in parts or Path(name).is_absolute():
            raise RunFolderError(f"'{name}' is not the name of a file or folder inside of {self.path}.")
        return self / name

    def _place(self, name: str, temporary: Path) -> None:
        """Move the finished file or folder to `name`."""
        target = self / name
        if temporary.is_dir() and target.exists():
            target.rename(temporary.parent / OLD)  # a folder cannot be replaced atomically: see tidy
        temporary.replace(target)

    @contextmanager
    def lock(self, progress: Progress | None = None) -> Iterator[None]:
        """Lock the folder, creating it if needed. Raises RunFolderError if another process holds the lock."""
        path = self / LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be used as a run folder: {error.strerror} ({path.name}). Choose another one with "
                f"--out."
            ) from error
        with file:
            self._take(file, progress)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @contextmanager
    def lock_to_read(self, progress: Progress | None = None) -> Iterator[None]:
        """`lock`, for what changes nothing in the folder. If it may not be written to, readers share the lock.

        Raises RunFolderError if another process holds the lock.
        """
        path = self / LOCK
        if os.access(path if path.exists() else self.path, os.W_OK) or not self.path.is_dir():
            with self.lock(progress):
                yield
        elif path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                self._take(file, progress, shared=True)
                yield
        else:  # nobody who may write here has begun to
            yield

    def _take(self, file: IO[str], progress: Progress | None, shared: bool = False) -> None:
        try:
            take_lock(file, self / LOCK, (progress or Progress()).warn, shared)
        except BlockingIOError:
            file.seek(0)
            raise RunFolderError(
                f"{self.path} is in use by another process ({file.read().strip() or 'unknown'}). Wait until it has "
                f"finished, or choose another folder with --out."
            ) from None

    def tidy(self) -> None:
        """Finish or remove what killed processes left inside `replacing`. Requires `lock`.

        A run nested inside this folder is left alone, since another process may be using it.
        """
        for place, folders, files in os.walk(self.path):
            if LOCK in files and Path(place) != self.path:
                folders.clear()
            for name in [name for name in folders if name.startswith(".") and name.endswith(DRAFT)]:
                folders.remove(name)
                _finish(Path(place, name))

    def hash(self, name: str) -> str:
        """sha256 of a file, or of a folder's files and their relative names."""
        return hash_path(self._existing(name))

    def _existing(self, name: str) -> Path:
        path = self / name
        if not path.exists():
            raise RunFolderError(f"{path} does not exist. Run the stage that writes it, or `reflect-rl run`, first.")
        return path

    def _file(self, name: str) -> Path:
        path = self._existing(name)
        if not path.is_file():
            raise RunFolderError(f"{path} should be a file. Move away what is there, and run the stage that writes it.")
        return path


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors caused by wrong content of `path` into a RunFolderError that names the file."""
    try:
        yield
    except UNREADABLE as error:
        raise RunFolderError(
            f"{path} is damaged ({_reason(error)}). Restore it, or move it away and run the stage that writes it."
        ) from error


def _finish(draft: Path) -> None:
    """Complete an interrupted replacement of a folder, and remove its temporary folder."""
    if draft.is_symlink():
        return
    name = draft.name.removeprefix(".").removesuffix(DRAFT).rpartition(".")[0]
    old, new, target = draft / OLD, draft / name, draft.parent / name
    if old.exists() and not target.exists():
        (new if new.exists() else old).rename(target)
    shutil.rmtree(draft, ignore_errors=True)


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a path to `NAME.suffix`, or `NAME.suffix-2` and so on if taken; return the new path."""
    number, aside = 1, path.with_name(f"{path.name}.{suffix}")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.{suffix}-{number}")
    path.rename(aside)
    return aside


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def hash_path(path: Path) -> str:
    """sha256 of a file's bytes, or of a folder's files and their relative names, without hidden files."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    for file in files:
        digest.update(f"{file.relative_to(path) if path.is_dir() else ''}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _unicode(data: Any, line: bytes) -> Any:
    """The data of a line. Raises ValueError for half of a surrogate pair, such as of an emoji that was cut in two."""
    if b"\\ud" in line.lower():
        try:
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{error.object[error.start]!r} is half of a surrogate pair, and no character") from None
        except ValueError:  # a NaN, which concerns the parser
            pass
    return data


def _reason(error: Exception) -> str:
    """The cause of an error in a few words."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) or type(error).__name__


def _is_os_error(error: Exception) -> bool:
    """Whether writing failed in the system. Rust libraries (safetensors, tokenizers) raise their own types."""
    return isinstance(error, OSError) or "(os error " in str(error)


def _flush(path: Path) -> None:
    """Flush a file, or a folder with its content, to disk."""
    for item in [path, *(path.rglob("*") if path.is_dir() else ())]:
        _flush_one(item)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
