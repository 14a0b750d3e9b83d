"""Tasks: a question, and the file of a repository that answers it. Kept as one JSON object a line, without sources.

In a file, a repository is an installed distribution ("requests==2.34.2"), or a folder with a final slash, relative to
the task file, so that both can be moved together.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path, PurePosixPath
from typing import Any

from reflect_rl.envs.base import SPLITS
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.paths import expanded
from reflect_rl.runs.folder import UNREADABLE
from reflect_rl.runs.outputs import OutputFile

DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[^/\s]+")
DIGEST = re.compile(r"[0-9a-f]{16}")


class TaskFileError(EnvironmentContractError):
    """A task file that is missing, damaged or not a task file."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question about a repository.

    Attributes:
        name: Unique, such as "requests/adapters.py:HTTPAdapter".
        split: "train", "valid" or "test".
        repository: "NAME==VERSION" of an installed distribution, or the absolute path of a folder.
        target: The file that answers: a posix path below the repository's root.
        symbol: The dotted name of what the docstring described; empty for the module itself.
        question: One line.
        digest: The first 16 hex digits of the sha256 of the target's bytes.
    """

    name: str
    split: str
    repository: str
    target: str
    symbol: str
    question: str
    digest: str

    @property
    def depth(self) -> int:
        """Number of folders between the repository's root and the target."""
        return self.target.count("/")


FIELDS = tuple(each.name for each in fields(Task))


def is_distribution(repository: str) -> bool:
    """Whether this names an installed distribution, not a folder."""
    return DISTRIBUTION.fullmatch(repository) is not None


@cache
def ready_tasks() -> tuple[Task, ...]:
    """The task set that ships, over named versions of installed packages."""
    with as_file(files("reflect_rl.envs.autoexplore").joinpath("ready.jsonl")) as path:
        return read_tasks(path)


def read_tasks(path: str | Path) -> tuple[Task, ...]:
    """The tasks of a file, in its order.

    Raises:
        TaskFileError: The file cannot be read, or a line of it is not a task; the message names the line.
    """
    path = expanded(path)
    folder = Path(os.path.realpath(path)).parent  # the file's own, also if a link leads to it: see write_tasks
    tasks: dict[str, Task] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                task = _parsed(line, f"{path}, line {number}")
                if task.name in tasks:
                    raise TaskFileError(f"{path}, line {number}: there is a task {task.name!r} already. Rename one.")
                tasks[task.name] = task if is_distribution(task.repository) else _absolute(task, folder)
    except OSError as error:
        raise TaskFileError(f"{path} cannot be read as a task file: {error.strerror}.") from error
    if not tasks:
        raise TaskFileError(f"{path} holds no tasks. Build some by `reflect-rl autoexplore build`.")
    return tuple(tasks.values())


def write_tasks(file: OutputFile, tasks: Iterable[Task]) -> None:
    """Write tasks atomically. Raises OutputError or RunFolderError if they cannot be written."""
    # Where a pipe ends is not known: folders are absolute there.
    file.write_jsonl(map(asdict, _relative(tasks, None if file.direct is not None else file.path.parent)))


def holds_tasks(path: Path) -> bool:
    """Whether this is a task file, so that it may be replaced."""
    try:
        return bool(read_tasks(path))
    except TaskFileError:
        return False


def _parsed(line: bytes, where: str) -> Task:
    try:
        data = json.loads(line)
    except UNREADABLE as error:
        raise TaskFileError(f"{where}: this is not JSON ({error}). Build the file again, or mend the line.") from error
    if (
        not isinstance(data, dict)
        or set(data) != set(FIELDS)
        or not all(isinstance(each, str) for each in data.values())
    ):
        raise TaskFileError(f"{where}: a task is an object of the texts {', '.join(FIELDS)}, and nothing else.")
    if wrong := _wrong(data):
        raise TaskFileError(f"{where}: {wrong}.")
    return Task(**data)


def _wrong(data: dict[str, Any]) -> str:
    """What is wrong with the fields of a task; empty if nothing is."""
    target = PurePosixPath(data["target"])
    if data["split"] not in SPLITS:
        return f"split is {data['split']!r}; it is one of {', '.join(SPLITS)}"
    if not is_distribution(data["repository"]) and not data["repository"].endswith("/"):
        return f"repository is {data['repository']!r}; it is NAME==VERSION, or a folder with a final slash"
    if target.is_absolute() or ".." in target.parts or not target.parts or str(target) != data["target"]:
        return f"target is {data['target']!r}; it is the path of a file below the repository's root"
    for field in ("name", "question"):
        if not data[field].isprintable() or not data[field].strip():
            return f"{field} is {data[field]!r}; it is one line of printable text"
    if not DIGEST.fullmatch(data["digest"]):
        return f"digest is {data['digest']!r}; it is 16 hex digits of a sha256"
    return ""


def _absolute(task: Task, folder: Path) -> Task:
    return replace(task, repository=os.path.normpath(folder / task.repository))


def _relative(tasks: Iterable[Task], folder: Path | None) -> Iterator[Task]:
    for task in tasks:
        inside = task.repository
        if not is_distribution(inside):
            task = replace(task, repository=f"{inside if folder is None else os.path.relpath(inside, folder)}/")
        yield task
