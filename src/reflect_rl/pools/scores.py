"""Token scores on disk: one JSON object per item, appended as computed. Existing scores are not computed again.

The first line describes the scores. The file name ends in a fingerprint of model, pool and settings, so scores of
others are never mixed up with these.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.lm.scoring import TokenScores
from reflect_rl.pools.kept import kept_file
from reflect_rl.progress import Progress
from reflect_rl.selection.tokens import Tokens

QUANTITIES = ("entropies", "margins", "logprobs")


class ScoresFile:
    """The scores of a pool of `size` items, described by `about`."""

    def __init__(self, path: Path, about: dict[str, Any], size: int) -> None:
        self.path, self.about, self.size = path, about, size

    def done(self) -> np.ndarray:
        """(N,) bool: which items have scores. Raises SelectionError if the file is damaged."""
        done_N = np.zeros(self.size, bool)
        if self.path.exists():
            for row, _ in self._rows():
                done_N[row] = True
        return done_N

    def tokens(self, quantity: str) -> Tokens:
        """One of QUANTITIES for every item. Raises SelectionError if an item is missing or the file is damaged."""
        values: list[np.ndarray | None] = [None] * self.size
        for row, scores in self._rows():
            values[row] = scores[quantity]
        there = [value for value in values if value is not None]
        if len(there) < self.size:
            raise SelectionError(f"{self.path} has the scores of {len(there):,} of {self.size:,} items only.")
        lengths_N = np.array([len(value) for value in there], np.int64)
        return Tokens(np.concatenate([np.empty(0, np.float32), *there]), lengths_N)

    @contextmanager
    def adding(self, progress: Progress) -> Iterator[IO[bytes]]:
        """Open the file exclusively for `write_scores`. An unfinished last line is dropped.

        After an error the file stays, unless it has no scores.
        """
        head = json.dumps(self.about, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with kept_file(self.path, self.path, progress) as file:
            whole, size = _whole_lines(file), file.seek(0, os.SEEK_END)
            if whole < size:
                progress.warn(f"{self.path}: the last line was cut off; its item is scored again")
                file.truncate(whole)
            if not whole:
                file.write(head)
                file.flush()
            try:
                yield file
            except BaseException:
                file.seek(0)
                if file.read(len(head) + 1) == head:
                    self.path.unlink()
                raise
            file.flush()
            os.fsync(file.fileno())

    def _rows(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(item number, its QUANTITIES as float32) for every complete line."""
        number = 1
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        return  # cut off: see `adding`
                    data = json.loads(line)
                    if number == 1:
                        if data["fingerprint"] != self.about["fingerprint"]:
                            raise ValueError("it is of another model, pool or setting than its name says")
                        continue
                    item, scores = data["item"], {name: np.asarray(data[name], np.float32) for name in QUANTITIES}
                    shapes = {values.shape for values in scores.values()}
                    if type(item) is not int or not 0 <= item < self.size or shapes != {(len(data[QUANTITIES[0]]),)}:
                        raise ValueError("these are no scores of an item of the pool")
                    yield item, scores
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise SelectionError(
                f"{self.path} is damaged at line {number} ({error}). Delete the file to have it computed again."
            ) from error


def write_scores(file: IO[bytes], row: int, scores: TokenScores) -> None:
    """Append one item in a single write, so that a killed process leaves at most one incomplete line."""
    data: dict[str, Any] = {"item": row, "text": scores.text}
    for quantity in QUANTITIES:
        data[quantity] = [float(f"{value:.7g}") for value in getattr(scores, quantity).tolist()]
    file.write(json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    file.flush()


def _whole_lines(file: IO[bytes]) -> int:
    """Number of bytes up to and including the last line break."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        place = file.read(end - start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0
