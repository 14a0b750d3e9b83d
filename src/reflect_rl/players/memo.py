"""A memo of reflections on disk: a frozen reflector with greedy decoding is a pure function of its prompt.

The key is the model's fingerprint, the decoding parameters, the prompt, and, for sampled decoding, the sample index.
The memo is an SQLite file in WAL mode, which several runs may share.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock

from reflect_rl.errors import RunFolderError

PATIENCE = 60.0
"""Seconds to wait while another process is writing."""
MOST_HELD = 100_000
"""Maximum texts cached in memory, about 500 bytes each; beyond that they are read from the file, or written, again."""


def _switch_to_wal(database: sqlite3.Connection) -> None:
    """Switch to WAL, with retries: SQLite's time-out does not cover two processes switching at once."""
    given_up = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > given_up:
                raise
            time.sleep(0.02)


class Memo:
    """A persistent map from (namespace, prompt, sample) to text. `path` None keeps it in memory. Thread-safe."""

    def __init__(self, path: Path | None, namespace: str) -> None:
        self.namespace = namespace
        self._texts: dict[bytes, str] = {}
        self._database: sqlite3.Connection | None = None
        self._path = path
        self._lock = Lock()
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
            _switch_to_wal(self._database)
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS memo (key BLOB PRIMARY KEY, text TEXT) WITHOUT ROWID")
        except sqlite3.Error as error:
            raise _unusable(path, error) from error

    def get(self, prompts: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """The stored texts of these (prompt, sample) pairs. Raises RunFolderError if the file is damaged."""
        try:
            with self._lock:
                return self._found(prompts)
        except sqlite3.Error as error:
            raise _unusable(self._path, error) from error

    def _found(self, prompts: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
        if self._database is not None and len(self._texts) > MOST_HELD:
            self._texts.clear()
        found = {}
        for pair in prompts:
            key = self._key(*pair)
            text = self._texts.get(key)
            if text is None and self._database is not None:
                row = self._database.execute("SELECT text FROM memo WHERE key = ?", (key,)).fetchone()
                text = row and row[0]
            if text is not None:
                found[pair] = self._texts[key] = text
        return found

    def put(self, texts: Mapping[tuple[str, int], str]) -> None:
        """Store texts, unless another process already has. Raises RunFolderError (disk full)."""
        rows = [(self._key(*pair), text) for pair, text in texts.items()]
        with self._lock:
            if len(self._texts) > MOST_HELD:
                self._texts.clear()
            self._texts.update(rows)
            if self._database is not None:
                try:
                    with self._database:
                        self._database.executemany("INSERT OR IGNORE INTO memo VALUES (?, ?)", rows)
                except sqlite3.Error as error:
                    raise RunFolderError(f"The reflection memo could not be written: {error}.") from error

    def _key(self, prompt: str, sample: int) -> bytes:
        return hashlib.blake2b(f"{self.namespace}\0{sample}\0{prompt}".encode(), digest_size=16).digest()


def _unusable(path: Path | None, error: sqlite3.Error) -> RunFolderError:
    return RunFolderError(
        f"The reflection memo {path} cannot be used ({error}). It only saves time: delete it and run again."
    )
