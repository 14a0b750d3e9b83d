"""Files of rollouts: one JSON object per episode and line, appended as episodes end, each episode once.

A line begins with the episode's id and ends with its steps, so that a file of any size can be searched and counted
without parsing steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from reflect_rl.errors import OutputError, RunFolderError
from reflect_rl.progress import Progress
from reflect_rl.records import finite_number
from reflect_rl.runs.folder import UNREADABLE
from reflect_rl.runs.locks import take_lock
from reflect_rl.runs.outputs import output_file

BEGIN = b'{"id": "'
ID = re.compile(re.escape(BEGIN) + rb'([^"\\]+)"')
STEPS = b', "steps": ['
NUMBERS = ("success", "return", "length", "trial")
"""Fields with which others calculate. Each may be null."""


class RolloutFile:
    """Appends episodes to a file, which other processes cannot open meanwhile.

    A killed process may leave half a line; the next one removes it. Raises RunFolderError if the file is in use, holds
    something else, or cannot be written.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:
                self._file = opened.enter_context(path.open("a+b", buffering=0))
                take_lock(self._file, path, (progress or Progress()).warn)
                self._known = self._ids()
                opened.pop_all()
        except BlockingIOError:
            raise RunFolderError(f"{path} is in use by another process. Wait until it has finished.") from None
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> RolloutFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, episodes: Iterable[Mapping[str, Any]]) -> None:
        """Append episodes, but for those whose id is in the file already. The first key is "id", the last "steps"."""
        for episode in episodes:
            if episode["id"] in self._known:
                continue
            line = (json.dumps(episode, ensure_ascii=False, allow_nan=False) + "\n").encode()
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError as error:
                raise self._unwritable(error) from error
            self._known.add(episode["id"])

    def _ids(self) -> set[str]:
        """The ids of all episodes. A last line that does not end gets an end if it is whole, and is removed if not."""
        known, position = set(), 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    if _is_whole(line):
                        self._file.write(b"\n")
                    elif _begins(line):
                        self._file.truncate(position)
                        break
                try:
                    known.add(ID.match(line)[1].decode())  # type: ignore[index]
                except (TypeError, ValueError):  # no id, or bytes that are no text
                    raise RunFolderError(f"{self.path} holds no rollouts (line {number}). Name another file.") from None
                position += len(line)
        return known

    def _unwritable(self, error: OSError) -> RunFolderError:
        return RunFolderError(
            f"{self.path} could not be written: {error.strerror}. Mend this and run the same command again to continue."
        )


def rollouts_path(given: str | Path, option: str = "--rollouts") -> Path:
    """The file that an option names: a new one, or one of rollouts, which is continued. Raises OutputError."""
    file = output_file(given, option, ours=_is_ours)
    if file.direct is not None:
        raise OutputError(f"{option} {given} is a pipe, which cannot be continued. Name a file.")
    return file.path


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return _begins(file.read(len(BEGIN)))


def _begins(line: bytes) -> bool:
    """Whether a line, of which there may be a part only, begins as an episode does."""
    return line[: len(BEGIN)] == BEGIN[: len(line)]


def _is_whole(line: bytes) -> bool:
    try:
        return bool(ID.match(line)) and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def episode_heads(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position, episode without its steps) for each episode of a file.

    Half a last line, which a killed process may leave, is passed over. Raises RunFolderError if the file is missing or
    damaged.
    """
    for position, line in _lines(path):
        head, found, _ = line.rpartition(STEPS)  # the last: an option of a world may have that name
        episode = _parsed(path, position, head + b"}" if found else line)
        episode.pop("steps", None)
        yield position, episode


def each_episode(path: Path) -> Iterator[dict[str, Any]]:
    """Every episode of a file in full. Raises as `episode_heads` does."""
    for position, line in _lines(path):
        yield _parsed(path, position, line, whole=True)


def read_episode(path: Path, position: int) -> dict[str, Any]:
    """The episode whose line begins at this position. Raises as `episode_heads` does."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            return _parsed(path, position, file.readline(), whole=True)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}.") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    position = 0
    try:
        with path.open("rb") as file:
            for line in file:
                cut = not line.endswith(b"\n") and _begins(line) and not _is_whole(line)
                if line.strip() and not cut:
                    yield position, line
                position += len(line)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}. Name a file written by --rollouts.") from error


def _parsed(path: Path, position: int, text: bytes, whole: bool = False) -> dict[str, Any]:
    """An episode. whole: with its steps."""
    try:
        episode = json.loads(text, parse_constant=finite_number, parse_float=finite_number)
        if whole and b"\\u" in text:  # half of a surrogate pair raises a ValueError
            json.dumps(episode, ensure_ascii=False, allow_nan=False).encode()
        steps = episode["steps"] if whole else episode.get("steps", [])
        if not isinstance(episode["id"], str) or not isinstance(steps, list):
            raise TypeError("it is no episode")
        if not all(isinstance(step, dict) for step in steps):
            raise TypeError("a step is no mapping")
        for name in NUMBERS:
            if not isinstance(episode.get(name) or 0, int | float):
                raise TypeError(f"its {name} is no number")
            float(episode.get(name) or 0)
    except UNREADABLE as error:
        advice = "Nothing was changed." if position else "Name a file that --rollouts has written, or a folder."
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise RunFolderError(
            f"{path} is damaged, or no file of rollouts, at byte {position} ({what}). {advice}"
        ) from error
    return episode
