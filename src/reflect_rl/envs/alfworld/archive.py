"""The archive layout: a .tar.xz of one JSON a game, repacked once so that single games can be read at once."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from reflect_rl.envs.alfworld.game import MAX_GAME_BYTES
from reflect_rl.errors import ReflectRLError

MEMBER = re.compile(r"(?:\./)?((?:train|valid_train|valid_seen|valid_unseen)/[\w-]+/[\w-]+)\.json")
VERSION = 1


class ArchiveError(ReflectRLError):
    """An archive of games that is damaged, or a cache that cannot be written."""


def cache_folder() -> Path:
    """Where repacked archives are kept: $XDG_CACHE_HOME/reflect-rl/alfworld, else ~/.cache/reflect-rl/alfworld."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflect-rl" / "alfworld"


class Archive:
    """Games by id in a .tar.xz. The first use repacks it (some seconds) into a zip file in the cache."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids (split/task/trial) of the games in it, sorted. Raises ArchiveError."""
        with self._opened() as packed:
            return tuple(sorted(name.removesuffix(".json") for name in packed.namelist()))

    def read(self, game_id: str) -> dict[str, Any]:
        """The record of one game: "pddl_problem" (text), "traj" (mapping), "walkthrough". Raises ArchiveError."""
        (record,) = self.records([game_id])
        return record

    def records(self, game_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The records of several games, from one opened file: many times as fast as `read` for each."""
        with self._opened() as packed:
            for game_id in game_ids:
                yield self._record(packed, game_id)

    def _opened(self) -> zipfile.ZipFile:
        """The repacked file, opened anew: threads and forks do not share a file position."""
        try:
            return zipfile.ZipFile(self._packed)
        except (OSError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"{self._packed} is damaged ({error}). Delete it; it is made again.") from error

    def _record(self, packed: zipfile.ZipFile, game_id: str) -> dict[str, Any]:
        try:
            record = json.loads(packed.read(f"{game_id}.json"))
        except KeyError as error:
            raise ArchiveError(f"There is no game {game_id} in {self.path}.") from error
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"The game {game_id} in {self.path} is damaged ({error}).") from error
        if not isinstance(record, dict) or not isinstance(record.get("pddl_problem"), str):
            raise ArchiveError(f"The game {game_id} in {self.path} has no problem text under 'pddl_problem'.")
        if not isinstance(record.get("traj"), dict):
            raise ArchiveError(f"The game {game_id} in {self.path} has no trajectory under 'traj'.")
        return record

    @cached_property
    def _packed(self) -> Path:
        try:
            stat = self.path.stat()
            name = f"{VERSION}\0{self.path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
            packed = cache_folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.zip"
            if not packed.exists():
                packed.parent.mkdir(parents=True, exist_ok=True)
                repack(self.path, packed)
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            raise ArchiveError(f"{self.path} is damaged ({error}). Get it again.") from error
        except OSError as error:
            raise ArchiveError(f"{self.path} could not be unpacked into {cache_folder()} ({error}).") from error
        return packed


def repack(source: Path, target: Path) -> None:
    """Write the games of a .tar.xz into a zip file, which appears by one rename. Other members are left out."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".zip", dir=target.parent)
    draft = Path(name)
    try:
        with (
            os.fdopen(handle, "wb") as stream,
            tarfile.open(source, "r|xz") as tar,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as packed,
        ):
            for member in tar:
                found = MEMBER.fullmatch(member.name)
                if found is None or not member.isfile() or member.size > MAX_GAME_BYTES:
                    continue
                content = tar.extractfile(member) or io.BytesIO()
                packed.writestr(f"{found[1]}.json", content.read())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
