"""A persistent map from prompts to what a model wrote: an SQLite file in WAL mode, which several runs may share.

A frozen reflector with greedy decoding is a pure function of its prompt; its memo saves time. The answers of a model
server are paid for; their store saves money.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
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
    """A persistent map from (namespace, prompt, sample) to text. `path` None keeps it in memory. Thread-safe.

    namespace: what else a text depends on, such as the model's fingerprint and the decoding parameters. what: the
    file's name in error messages. damaged: a sentence on what to do with a damaged file.
    """

    def __init__(
        self,
        path: Path | None,
        namespace: str,
        what: str = "The reflection memo",
        damaged: str = "It only saves time: delete it and run again.",
    ) -> None:
        self.namespace = namespace
        self._what = what
        self._damaged = damaged
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
            raise self.unusable(error) from error

    def get(self, prompts: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """The stored texts of these (prompt, sample) pairs. Raises RunFolderError if the file is damaged."""
        try:
            with self._lock:
                return self._found(prompts)
        except sqlite3.Error as error:
            raise self.unusable(error) from error

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
                    raise RunFolderError(f"{self._what} could not be written: {error}.") from error

    def _key(self, prompt: str, sample: int) -> bytes:
        return hashlib.blake2b(f"{self.namespace}\0{sample}\0{prompt}".encode(), digest_size=16).digest()

    def texts(self) -> Iterator[str]:
        """All stored texts, of every namespace, in any order. Raises RunFolderError if the file is damaged."""
        if self._database is None:
            yield from self._texts.values()
            return
        try:
            with self._lock:
                rows = self._database.execute("SELECT text FROM memo").fetchall()
        except sqlite3.Error as error:
            raise self.unusable(error) from error
        for (text,) in rows:
            yield text

    def close(self) -> None:
        """Close the file. The memo cannot be used any more."""
        if self._database is not None:
            self._database.close()

    def unusable(self, why: object) -> RunFolderError:
        """What to raise if the file, or a text in it, cannot be used."""
        return RunFolderError(f"{self._what} {self._path} cannot be used ({why}). {self._damaged}")
