"""Tasks from repositories: questions that lead to one file only, split into train, valid and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from reflect_rl.envs.autoexplore.library import Library, Rival
from reflect_rl.envs.autoexplore.pages import text_of
from reflect_rl.envs.autoexplore.questions import is_question, leaks
from reflect_rl.envs.autoexplore.sources import digest, repository_tree, tree_of
from reflect_rl.envs.autoexplore.tasks import Task, is_distribution
from reflect_rl.envs.autoexplore.tree import Tree
from reflect_rl.envs.autoexplore.words import words
from reflect_rl.envs.base import SPLITS
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream

LEFT_WORDS = 2
"""Words of the question that the target must still hold without its docstrings."""
MOST_OF_FILE = 3
VALID_SHARE, TEST_SHARE = 0.1, 0.2
FILTERS = ("form", "leak", "no trace", "ambiguous", "repeated", "more of file", "more of repository", "no answer")
LEAST_OF_SOURCE = 400
"""Characters without docstrings: a file with fewer is not asked about."""
Reason = Callable[[int, str], str]
"""(index of a source, question) -> the filter that drops the question; empty if none does."""
Author = Callable[[Sequence["Source"], Reason], Sequence["Written"]]
"""Writes a question for each source, and may write another one if that is dropped."""


class Source(NamedTuple):
    """A file to write a question for: its path in the repository, and its text without docstrings."""

    path: str
    text: str


class Written(NamedTuple):
    """A question; or, where there is none, the reason, which may be a filter's name."""

    question: str
    reason: str = ""


@dataclass
class Findings:
    """What was found in a repository.

    Attributes:
        repository: As in `Task`.
        files: Number of files that were read.
        found: Number of docstrings of public things; with an author, of files to write a question for.
        dropped: Of these, how many each of FILTERS dropped.
        tasks: The tasks that are left, of the split "train".
    """

    repository: str
    files: int = 0
    found: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    tasks: list[Task] = field(default_factory=list)


class _Question(NamedTuple):
    """A question about the file `target` of a library. share: its strongest rival's. symbol: as in `Task`."""

    share: float
    target: int
    symbol: str
    text: str


def check_apart(repositories: Sequence[str], by: str) -> None:
    """Raise EnvironmentContractError if these repositories cannot be split, before their files are read.

    Args:
        repositories: As in `Task`.
        by: "repository" or "file".
    """
    count = len(set(repositories))
    if by == "repository" and count < len(SPLITS):
        raise EnvironmentContractError(
            f"Train, valid and test need a repository each, and there are {count}. Name more, or split by file with "
            f"--split-by file."
        )
    known: dict[str, str] = {}
    for repository in repositories:
        if known.setdefault(label(repository), repository) != repository:
            raise EnvironmentContractError(
                f"Two repositories are named {label(repository)}, and so would be their tasks. Rename one."
            )
    roots = {repository: repository_tree(repository).root for repository in dict.fromkeys(repositories)}
    for (inner, root), (outer, above) in permutations(roots.items(), 2):
        share_no_file = is_distribution(inner) and is_distribution(outer)  # though a folder such as google/
        if root.is_relative_to(above) and not share_no_file:
            raise EnvironmentContractError(f"{inner} lies in {outer}. Name one of them.")


def find_tasks(
    repositories: Iterable[str], *, most: int, seed: int, progress: Progress, author: Author | None = None
) -> list[Findings]:
    """Find the tasks of repositories, one after the other by name.

    Args:
        repositories: As in `Task`; each once.
        most: Tasks of a repository at the most; they are drawn by seed. With an author: files that are drawn.
        seed: Seed of the drawn ones.
        progress: Shows a bar over all files.
        author: Writes a question for each file, in place of the docstrings.
    """
    trees = {name: repository_tree(name) for name in sorted(set(repositories), key=lambda name: (label(name), name))}
    total = sum(tree.is_file(node) for tree in trees.values() for node in range(len(tree)))
    asked: set[tuple[str, ...]] = set()
    every = []
    with progress.bar("read", total, "files") as bar:
        for repository, tree in trees.items():
            library = Library(tree, bar.update)
            draw = stream(seed, f"autoexplore tasks of {label(repository)}").permutation
            findings = Findings(repository, len(library.paths))
            if author:
                sources = _sources(tree, library)
                chosen = [sources[index] for index in sorted(draw(len(sources))[:most])]
                found = _written(library, chosen, author, findings)
            else:
                found = _documented(library, findings)
            tasks = _tasks(tree, library, found, asked, findings)
            drawn = sorted(draw(len(tasks))[:most]) if author is None else range(len(tasks))
            findings.tasks = [tasks[index] for index in drawn]
            findings.dropped["more of repository"] += len(tasks) - len(drawn)
            every.append(findings)
    return every


def findings_table(findings: Sequence[Findings], tasks: Iterable[Task]) -> list[tuple[str, ...]]:
    """A row for each repository, heading first: what was found, what each filter dropped, and what is left by depth.

    tasks: those that were split; without them, those that were found are counted.
    """
    tasks = tuple(tasks) or tuple(replace(task, split="") for each in findings for task in each.tasks)
    kept: dict[str, list[Task]] = {each.repository: [] for each in findings}
    for task in tasks:
        kept[task.repository].append(task)
    rows: list[tuple[str, ...]] = [("repository", "split", "files", "found", *FILTERS, "tasks", "by depth")]
    for each in findings:
        mine = kept[each.repository]
        splits = ", ".join(split for split in SPLITS if any(task.split == split for task in mine))
        depths = Counter(task.depth for task in mine)
        counts = (each.files, each.found, *(each.dropped[name] for name in FILTERS), len(mine))
        by_depth = ", ".join(f"{depth}: {depths[depth]}" for depth in sorted(depths))
        rows.append((label(each.repository), splits or "-", *map(str, counts), by_depth or "-"))
    return rows


def with_rivals(tasks: Iterable[Task], progress: Progress) -> Iterator[tuple[Task, Rival]]:
    """Tasks with the other file that answers best, by repository."""
    by_repository: dict[str, list[Task]] = {}
    for task in tasks:
        by_repository.setdefault(task.repository, []).append(task)
    with progress.bar("read", len(by_repository), "repositories") as bar:
        for repository, mine in by_repository.items():
            library = Library(repository_tree(repository))
            bar.update()
            for task in mine:
                tree_of(task)  # raises if the target has changed
                yield task, library.rival(library.paths.index(task.target), task.question)


def label(repository: str) -> str:
    """The name of a repository in the names of its tasks: without a version, or a folder's last part."""
    return repository.partition("==")[0] if is_distribution(repository) else Path(repository).name


def _documented(library: Library, findings: Findings) -> list[_Question]:
    """The questions that docstrings ask."""
    findings.found = len(library.candidates)
    kept = []
    for target, each in library.candidates:
        reason = _reason(each.sentence, library.paths[target], each.symbol)
        share = 0.0 if reason else library.rival(target, each.sentence).share
        if reason or share >= 1:
            findings.dropped[reason or "ambiguous"] += 1
        else:
            kept.append(_Question(share, target, each.symbol, each.sentence))
    return kept


def _sources(tree: Tree, library: Library) -> list[tuple[int, Source]]:
    """The files that an author may be asked about, by their indices."""
    texts = ((target, _bare_text(tree, library.paths[target])) for target in library.targets)
    return [(target, Source(library.paths[target], text)) for target, text in texts if len(text) >= LEAST_OF_SOURCE]


def _written(
    library: Library, chosen: Sequence[tuple[int, Source]], author: Author, findings: Findings
) -> list[_Question]:
    """The questions that an author writes for files."""
    findings.found = len(chosen)

    def reason(index: int, question: str) -> str:
        target, source = chosen[index]
        found = _reason(question, source.path, "")
        return found or ("ambiguous" if library.rival(target, question).share >= 1 else "")

    written = author([source for _, source in chosen], reason)
    findings.dropped.update(
        each.reason if each.reason in FILTERS else "no answer" for each in written if not each.question
    )
    return [
        _Question(library.rival(target, each.question).share, target, "", each.question)
        for (target, _), each in zip(chosen, written, strict=True)
        if each.question
    ]


def _tasks(
    tree: Tree, library: Library, found: Iterable[_Question], asked: set[tuple[str, ...]], findings: Findings
) -> list[Task]:
    """The tasks of one split, "train", those without a strong rival first. asked: the words of all questions so far."""
    counts: Counter[int] = Counter()
    tasks: dict[str, Task] = {}
    for each in sorted(found, key=lambda found: (found.share, found.target)):
        task = _task(findings.repository, tree, library.paths[each.target], each)
        question = tuple(sorted(words(each.text)))
        if task is None:
            findings.dropped["no trace"] += 1
        elif question in asked or task.name in tasks:
            findings.dropped["repeated"] += 1
        elif counts[each.target] == MOST_OF_FILE:
            findings.dropped["more of file"] += 1
        else:
            counts[each.target] += 1
            asked.add(question)
            tasks[task.name] = task
    return sorted(tasks.values(), key=lambda task: (task.target, task.symbol))


def _reason(question: str, target: str, symbol: str) -> str:
    """The filter that drops a question whatever else the repository holds; empty if none does."""
    if not is_question(question):
        return "form"
    return "leak" if leaks(question, target, symbol) else ""


def _bare_text(tree: Tree, target: str) -> str:
    """The text of a file without its docstrings."""
    return text_of(_bytes(tree, target), docstrings=False)


def _bytes(tree: Tree, target: str) -> bytes:
    node = tree.find(target)
    return tree.read(node) if node is not None else b""


def _task(repository: str, tree: Tree, target: str, each: _Question) -> Task | None:
    """The task, of the split "train"; None if too little in the target tells of the question without its docstrings."""
    left = set(words(each.text)).intersection(words(_bare_text(tree, target)))
    if len(left) < LEFT_WORDS:
        return None
    name = f"{label(repository)}/{target}{':' if each.symbol else ''}{each.symbol}"
    return Task(name, "train", repository, target, each.symbol, each.text, digest(_bytes(tree, target)))


def split_tasks(findings: Sequence[Findings], by: str, seed: int) -> list[Task]:
    """All tasks, split at random: a tenth of the repositories or files to valid, a fifth to test, one at the least.

    Args:
        findings: What was found in each repository.
        by: "repository" or "file": what two splits never share.
        seed: Seed of the split.

    Raises:
        EnvironmentContractError: There are fewer than three repositories, or files, with tasks.
    """
    tasks = [task for each in findings for task in each.tasks]
    groups = list(dict.fromkeys(_group(task, by) for task in tasks))
    if len(groups) < len(SPLITS):
        other = "Name more, or split by file with --split-by file" if by == "repository" else "Name larger ones"
        plural = "repositories" if by == "repository" else "files"
        raise EnvironmentContractError(
            f"Only {len(groups)} {plural} have questions that pass all filters; train, valid and test need one each. "
            f"{other}."
        )
    order = [groups[index] for index in stream(seed, "autoexplore split").permutation(len(groups))]
    valid, test = (max(1, round(share * len(groups))) for share in (VALID_SHARE, TEST_SHARE))
    split_of = dict.fromkeys(order, "train") | dict.fromkeys(order[:test], "test")
    split_of |= dict.fromkeys(order[test : test + valid], "valid")
    return in_splits(tasks, split_of, by)


def in_splits(tasks: Iterable[Task], split_of: dict[str, str], by: str = "repository") -> list[Task]:
    """The tasks in the splits of their repositories or files, train first."""
    placed = [replace(task, split=split_of[_group(task, by)]) for task in tasks]
    return sorted(placed, key=lambda task: SPLITS.index(task.split))


def _group(task: Task, by: str) -> str:
    name = label(task.repository)
    return name if by == "repository" else f"{name}/{task.target}"
