"""The folder of one run: atomic files, hashes, and the manifests that say which stage is done with which inputs.

Every file is written under a temporary name, flushed to disk and renamed, so that a process killed at any moment leaves
either the old file or the new one. A stage is done when its manifest is there and matches its settings and inputs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from reflect_rl.errors import RunFolderError

Record = TypeVar("Record")

OLD = "old"
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names of the folders that `replacing` works in."""


class RunFolder:
    """Paths, atomic reads and writes below one folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically. Raises RunFolderError (disk full, no permission)."""
        with self.replacing(name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, data: Any) -> None:
        self.write_text(name, json.dumps(data, indent=2, sort_keys=False, ensure_ascii=False) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[Any]) -> None:
        with self.replacing(name) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON file. Raises RunFolderError if it is missing or damaged."""
        path = self._existing(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise RunFolderError(f"{path} is damaged ({error}). Delete it and run the stage that writes it.") from error

    def read_jsonl(self, name: str, parse: Callable[[dict[str, Any]], Record]) -> list[Record]:
        """One record a line. Raises RunFolderError, naming the line, if the file is missing, cut or damaged."""
        return list(self.each_of_jsonl(name, parse))

    def each_of_jsonl(self, name: str, parse: Callable[[dict[str, Any]], Record]) -> Iterator[Record]:
        """The records of `read_jsonl` one after the other, for files of which little is kept."""
        path = self._existing(name)
        number = 1
        try:
            with path.open("rb") as file:  # bytes: decoding reads ahead, and would blame a line too early
                for line in file:
                    if not line.endswith(b"\n"):
                        raise ValueError("the line is cut off")
                    yield parse(json.loads(line))
                    number += 1
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise RunFolderError(
                f"{path} is damaged at line {number} ({error}). Nothing was changed. Delete the file to have its stage "
                f"write it again, or restore it."
            ) from error

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary path whose content takes the place of file or folder `name` when the block ends well."""
        target = self / name
        temporary = target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)) / target.name
            yield temporary
            _flush(temporary)
            if temporary.is_dir() and target.exists():
                target.rename(temporary.parent / OLD)  # a folder cannot be replaced in one move: see tidy
            temporary.replace(target)
            _flush_one(target.parent)
        except Exception as error:
            if not _is_os_error(error):
                raise
            raise RunFolderError(
                f"{target} could not be written: {getattr(error, 'strerror', None) or error}. What was there before is "
                f"untouched; mend this and run the same command again to continue."
            ) from error
        finally:
            if temporary != target:
                shutil.rmtree(temporary.parent, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of this folder, which is made if need be. Raises RunFolderError if one is in it."""
        path = self / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be used as a run folder: {error.strerror}.") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunFolderError(
                    f"{self.path} is in use by another process ({file.read().strip() or 'unknown'}). Wait until it has "
                    f"finished, or choose another folder with --out."
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def tidy(self) -> None:
        """Finish or remove what killed processes left in the middle of `replacing`. Only under `lock`."""
        for folder in [path for path in self.path.rglob(".*") if TEMPORARY.fullmatch(path.name) and path.is_dir()]:
            target = folder.parent / folder.name[1:-9]
            draft = folder / target.name
            if (folder / OLD).exists() and not target.exists():
                (draft if draft.exists() else folder / OLD).rename(target)
            shutil.rmtree(folder, ignore_errors=True)

    def hash(self, name: str) -> str:
        """sha256 of a file, or of a folder's files with their relative names."""
        return hash_path(self._existing(name))

    def _existing(self, name: str) -> Path:
        path = self / name
        if not path.exists():
            raise RunFolderError(f"{path} does not exist. Run the stage that writes it, or `reflect-rl run`, first.")
        return path


def remove(path: Path) -> None:
    """Remove a file, or a folder with everything in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def hash_path(path: Path) -> str:
    """sha256 of a file's bytes, or of a folder's files with their relative names (hidden files left out)."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    for file in files:
        digest.update(f"{file.relative_to(path) if path.is_dir() else ''}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _is_os_error(error: Exception) -> bool:
    """Whether the system refused to write; libraries in Rust (safetensors, tokenizers) say so in their own types."""
    return isinstance(error, OSError) or "(os error " in str(error)


def _flush(path: Path) -> None:
    """Bring a file, or a folder with everything in it, to disk."""
    for item in [path, *(path.rglob("*") if path.is_dir() else ())]:
        _flush_one(item)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
