"""Tasks from repositories: questions that lead to one file only, split into train, valid and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from reflect_rl.envs.autoexplore.pages import text_of, without_docstrings
from reflect_rl.envs.autoexplore.questions import Docstring, docstrings, is_question, leaks, may_be_target
from reflect_rl.envs.autoexplore.sources import digest, repository_tree
from reflect_rl.envs.autoexplore.tasks import Task, is_distribution
from reflect_rl.envs.autoexplore.tree import Tree, UnreadableError
from reflect_rl.envs.autoexplore.words import Bm25, words
from reflect_rl.envs.base import SPLITS
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.progress import Bar, Progress
from reflect_rl.seeding import stream

TEXT_SHARE, SENTENCE_SHARE = 0.8, 0.6
"""A question is ambiguous if another file's text, or the first sentence of another file's docstring, reaches this share
of the score of its own."""
LEFT_WORDS = 2
"""Words of the question that the target must still hold without its docstrings."""
MOST_OF_FILE = 3
VALID_SHARE, TEST_SHARE = 0.1, 0.2
FILTERS = ("form", "leak", "no trace", "ambiguous", "repeated", "more of file", "more of repository")


@dataclass
class Findings:
    """What was found in a repository.

    Attributes:
        repository: As in `Task`.
        files: Number of files that were read.
        found: Number of docstrings of public things.
        dropped: Of these, how many each of FILTERS dropped.
        tasks: The tasks that are left, of the split "train".
    """

    repository: str
    files: int = 0
    found: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    tasks: list[Task] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rival:
    """The other file that answers a question best.

    Attributes:
        path: The file; empty if no other shares a word with the question.
        share: From 0; from 1 up it answers as well as the target.
    """

    path: str
    share: float


class Library:
    """BM25 over the texts of a repository's files, and over the first sentences of their docstrings.

    A file's text holds its docstrings and what is left without them, so another file is a rival by either.

    Args:
        tree: The repository.
        read: Called for each file.
    """

    def __init__(self, tree: Tree, read: Callable[[], object] = lambda: None) -> None:
        self._tree, self._read_one = tree, read
        self.paths: list[str] = []
        self.candidates: list[tuple[int, Docstring]] = []
        self._sentences: list[list[str]] = []
        self._owners: list[int] = []
        self._texts = Bm25(self._read())
        self._firsts = Bm25(self._sentences)
        self._owner_S = np.array(self._owners, np.int64)

    def _read(self) -> Iterator[list[str]]:
        for node in range(len(self._tree)):
            if not self._tree.is_file(node):
                continue
            self._read_one()
            try:
                text = text_of(self._tree.read(node))
            except UnreadableError:
                continue
            path, index = self._tree.path(node), len(self.paths)
            self.paths.append(path)
            for each in docstrings(text) if path.endswith((".py", ".pyi")) else ():
                self._sentences.append(words(each.sentence))
                self._owners.append(index)
                if each.public and may_be_target(path) and (each.symbol or not path.endswith("__init__.py")):
                    self.candidates.append((index, each))
            yield words(text)

    def rival(self, target: int, question: str) -> Rival:
        """The strongest rival of a file for a question that one of its docstrings asks. target: index into `paths`."""
        asked = words(question)
        texts_F, firsts_S = self._texts.scores(asked), self._firsts.scores(asked)
        own, own_first = max(texts_F[target], 1e-9), firsts_S[self._owner_S == target].max()
        texts_F[target] = firsts_S[self._owner_S == target] = 0
        text, first = int(texts_F.argmax()), int(firsts_S.argmax())
        by_text = Rival(self.paths[text], float(texts_F[text] / own / TEXT_SHARE))
        by_first = Rival(self.paths[self._owners[first]], float(firsts_S[first] / own_first / SENTENCE_SHARE))
        rival = max(by_text, by_first, key=lambda rival: rival.share)
        return rival if rival.share else Rival("", 0.0)


def check_apart(repositories: Sequence[str], by: str) -> None:
    """Raise EnvironmentContractError if these repositories cannot be split, before they are read.

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
        if above := [str(folder) for folder in Path(repository).parents if str(folder) in repositories]:
            raise EnvironmentContractError(f"{repository} lies in {above[0]}. Name one of them.")


def find_tasks(repositories: Iterable[str], *, most: int, seed: int, progress: Progress) -> list[Findings]:
    """Find the tasks of repositories, one after the other by name.

    Args:
        repositories: As in `Task`; each once.
        most: Tasks of a repository at the most; they are drawn by seed.
        seed: Seed of the drawn ones.
        progress: Shows a bar over all files.
    """
    trees = {name: repository_tree(name) for name in sorted(set(repositories), key=lambda name: (label(name), name))}
    total = sum(tree.is_file(node) for tree in trees.values() for node in range(len(tree)))
    asked: set[tuple[str, ...]] = set()
    every = []
    with progress.bar("read", total, "files") as bar:
        for repository, tree in trees.items():
            findings = _find(repository, tree, bar, asked)
            chosen = stream(seed, f"autoexplore tasks of {label(repository)}").permutation(len(findings.tasks))[:most]
            findings.dropped["more of repository"] = len(findings.tasks) - len(chosen)
            findings.tasks = [findings.tasks[index] for index in sorted(chosen)]
            every.append(findings)
    return every


def findings_table(findings: Sequence[Findings], tasks: Iterable[Task]) -> list[tuple[str, ...]]:
    """A row for each repository, heading first: what was found, what each filter dropped, and what is left by depth."""
    kept: dict[str, list[Task]] = {each.repository: [] for each in findings}
    for task in tasks:
        kept[task.repository].append(task)
    rows: list[tuple[str, ...]] = [("repository", "split", "files", "docstrings", *FILTERS, "tasks", "by depth")]
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
                yield task, library.rival(library.paths.index(task.target), task.question)


def label(repository: str) -> str:
    """The name of a repository in the names of its tasks: without a version, or a folder's last part."""
    return repository.partition("==")[0] if is_distribution(repository) else Path(repository).name


def _find(repository: str, tree: Tree, bar: Bar, asked: set[tuple[str, ...]]) -> Findings:
    library = Library(tree, bar.update)
    findings = Findings(repository, len(library.paths), len(library.candidates))
    kept: list[tuple[float, int, Docstring]] = []
    for target, each in library.candidates:
        share = 0.0
        reason = _reason(each, library.paths[target])
        if not reason and (share := library.rival(target, each.sentence).share) >= 1:
            reason = "ambiguous"
        if reason:
            findings.dropped[reason] += 1
        else:
            kept.append((share, target, each))
    counts: Counter[int] = Counter()
    names: set[str] = set()
    for _, target, each in sorted(kept, key=lambda found: (found[0], found[1])):
        task, question = _task(repository, tree, library.paths[target], each), tuple(sorted(words(each.sentence)))
        if task is None:
            findings.dropped["no trace"] += 1
        elif question in asked or task.name in names:
            findings.dropped["repeated"] += 1
        elif counts[target] == MOST_OF_FILE:
            findings.dropped["more of file"] += 1
        else:
            counts[target] += 1
            asked.add(question)
            names.add(task.name)
            findings.tasks.append(task)
    findings.tasks.sort(key=lambda task: (task.target, task.symbol))
    return findings


def _reason(each: Docstring, target: str) -> str:
    """The filter that drops a question whatever else the repository holds; empty if none does."""
    if not is_question(each.sentence):
        return "form"
    return "leak" if leaks(each.sentence, target, each.symbol) else ""


def _task(repository: str, tree: Tree, target: str, each: Docstring) -> Task | None:
    """The task, of the split "train"; None if too little in the target tells of the question without its docstrings."""
    node = tree.find(target)
    data = tree.read(node) if node is not None else b""
    left = set(words(each.sentence)).intersection(words(without_docstrings(text_of(data))))
    if len(left) < LEFT_WORDS:
        return None
    name = f"{label(repository)}/{target}{':' if each.symbol else ''}{each.symbol}"
    return Task(name, "train", repository, target, each.symbol, each.sentence, digest(data))


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
