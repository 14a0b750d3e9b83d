"""Where a task's repository lies: an installed distribution of exactly the named version, or a folder."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

from reflect_rl.envs.autoexplore.tasks import Task, is_distribution
from reflect_rl.envs.autoexplore.tree import Tree, UnreadableError
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.paths import expanded

DIGITS = 16
"""Hex digits of a digest."""


class RepositoryError(EnvironmentContractError):
    """A repository that is not there, in another version, or changed."""


def available(tasks: Iterable[Task], split: str) -> tuple[Task, ...]:
    """The tasks of a split whose repositories are there.

    If some are not, a warning says which tasks of all splits are left out, so that it is the same for each split.

    Raises:
        RepositoryError: None of the split is there; the message says what to install.
    """
    tasks = tuple(tasks)
    missing = {name: reason for name in dict.fromkeys(task.repository for task in tasks) if (reason := _missing(name))}
    kept = tuple(task for task in tasks if task.repository not in missing)
    found = tuple(task for task in kept if task.split == split)
    install = " ".join(f"'{name}'" for name in missing if is_distribution(name))
    advice = f" To have them all: pip install --no-deps {install}" if install else ""
    if not found:
        reasons = {missing[task.repository] for task in tasks if task.split == split}
        why = "no repository of one is there: " + "; ".join(sorted(reasons)) if reasons else "the task file has none"
        raise RepositoryError(f"There are no {split} tasks: {why}.{advice}")
    if missing:
        message = f"{len(tasks) - len(kept)} of {len(tasks)} tasks are left out: {'; '.join(missing.values())}.{advice}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return found


@cache
def tree_of(task: Task) -> Tree:
    """The tree of a task's repository, indexed once in this process.

    Raises:
        RepositoryError: The repository is not there, or the target is not the file for which the task was made.
    """
    tree = repository_tree(task.repository)
    node = tree.find(task.target)
    if node is None or not tree.is_file(node) or digest(tree.read(node)) != task.digest:
        state = "is not there" if node is None else "has changed"
        again = f"pip install --force-reinstall --no-deps {task.repository}"
        advice = f"Install it again ({again})" if is_distribution(task.repository) else "Build the tasks again"
        raise RepositoryError(
            f"{task.target} of {task.repository} {state} since the task {task.name} was made. {advice}."
        )
    return tree


@cache
def repository_tree(repository: str) -> Tree:
    """The tree of a repository: "NAME==VERSION", or the path of a folder. Raises RepositoryError if it is not there.

    Of a distribution, the files are those that it installed into its largest import package and that are Python source,
    so that they are the same on every platform.
    """
    if reason := _missing(repository):
        raise RepositoryError(f"{reason[:1].upper()}{reason[1:]}.")
    if not is_distribution(repository):
        return Tree.index(Path(repository))
    root, inside = _package(metadata.distribution(repository.partition("==")[0]))
    if not inside:
        raise RepositoryError(f"{repository} has no import package of Python files. Name another distribution.")
    return Tree.index(root, only=inside)


@cache
def tree_digest(repository: str) -> str:
    """The first 16 hex digits of a sha256 over the paths and contents of a repository's files, as `Tree` reads them."""
    tree, found = repository_tree(repository), hashlib.sha256()
    for node in filter(tree.is_file, range(len(tree))):
        try:
            data = tree.read(node)
        except UnreadableError:
            data = b""
        found.update(f"{tree.path(node)}\0{len(data)}\0".encode(errors="surrogateescape") + data)
    return found.hexdigest()[:DIGITS]


def repository_of(source: str) -> str:
    """The repository that a user names: a folder, or an installed distribution as NAME or NAME==VERSION.

    Raises RepositoryError if it is neither.
    """
    folder = expanded(source)
    if not folder.is_dir():
        return installed(source)
    path = str(folder.resolve())
    if not path.isprintable():
        raise RepositoryError(f"{path!r} cannot be written into a task file. Rename the folder.")
    return path


def installed(name: str) -> str:
    """ "NAME==VERSION" of an installed distribution, given as NAME or NAME==VERSION.

    Raises RepositoryError if it is not installed, or in another version.
    """
    name, _, version = name.partition("==")
    version = _public(version)
    if not version:
        try:
            version = _public(metadata.version(name))
        except (metadata.PackageNotFoundError, ValueError):
            raise RepositoryError(f"{name!r} is neither a folder nor an installed distribution.") from None
    repository = f"{re.sub('[-_.]+', '-', name).lower()}=={version}"
    if reason := _missing(repository):
        raise RepositoryError(f"{reason[:1].upper()}{reason[1:]}.")
    return repository


def digest(data: bytes) -> str:
    """What `Task.digest` holds."""
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def _missing(repository: str) -> str:
    """Why a repository cannot be used; empty if it can."""
    if is_distribution(repository):
        return _missing_distribution(repository)
    return "" if Path(repository).is_dir() else f"there is no folder {repository}"


@cache
def _missing_distribution(repository: str) -> str:
    name, _, version = repository.partition("==")
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed ({repository} is needed)"
    if _public(distribution.version) != version:
        return f"{name} is installed as {distribution.version}, not as {version}"
    return ""


def _public(version: str) -> str:
    """A version without its local part: builds such as 2.13.0+cpu have the same Python files."""
    return version.partition("+")[0]


def _package(distribution: metadata.Distribution) -> tuple[Path, list[str]]:
    """The folder of the import package with the most Python files, and these files relative to it."""
    paths = [PurePosixPath(path) for path in distribution.files or ()]
    sources = [path for path in paths if path.suffix == ".py" and len(path.parts) > 1 and ".." not in path.parts]
    counts = Counter(path.parts[0] for path in sources)
    top = min(counts, key=lambda name: (-counts[name], name), default="")
    root = Path(str(distribution.locate_file(top)))
    return root, sorted(str(path.relative_to(top)) for path in sources if path.parts[0] == top)
