"""The tasks of AutoExplore by name: those of a task file, in each kind of tree that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from reflect_rl.envs.autoexplore.pages import INVISIBLE
from reflect_rl.envs.autoexplore.sources import available, repository_tree, tree_digest
from reflect_rl.envs.autoexplore.tasks import Task, TaskFileError, read_tasks, ready_tasks
from reflect_rl.envs.autoexplore.view import Shape
from reflect_rl.envs.base import SPLITS
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.paths import expanded

READY = "ready"


@dataclass(frozen=True, slots=True)
class Start:
    """A task in one of the trees that are drawn for it; number counts them from 0."""

    task: Task
    shape: Shape
    number: int

    @property
    def name(self) -> str:
        """The task's name and the tree's, such as requests/adapters.py:HTTPAdapter@d1F4D3."""
        number = f"#{self.number}" if self.number else ""
        return f"{self.task.name}@{self.shape}{number}"


@dataclass(frozen=True, slots=True)
class Starts:
    """Where episodes can begin.

    Attributes:
        source: A task file, or "ready" for the set that ships.
        shapes: Kinds of trees; a capped one takes only tasks that lie deep enough.
        train_trees: Trees drawn for each train task, if they are capped; of a kind for which fewer tasks lie deep
            enough, so many more that all kinds are about equally frequent.
        test_trees: Trees drawn for each task of valid and test.
        own: The only test task, if there is a question of the user's own.
    """

    source: str
    shapes: tuple[Shape, ...]
    train_trees: int
    test_trees: int
    own: Start | None = None

    def of(self, split: str) -> Mapping[str, Start]:
        """The starts of a split by name, in a fixed order.

        Raises:
            EnvironmentContractError: For a bad task file, absent repositories, or a split without tasks.
        """
        return {self.own.name: self.own} if self.own and split == "test" else _starts(self, split)

    def find(self, name: str) -> Start | None:
        """The start of this name in any split that has tasks. Raises EnvironmentContractError for a bad task file."""
        if self.own and name == self.own.name:
            return self.own
        for split in SPLITS:
            try:
                there = self.of(split)
            except TaskFileError:
                raise
            except EnvironmentContractError:  # nothing is there to be played, and the name may be of another split
                continue
            if name in there:
                return there[name]
        return None


def own_start(root: str, question: str, target: str | None) -> Start:
    """A question about a folder, in the whole of it.

    White space and invisible characters of the question become single spaces: a no-break space before a question mark
    is good French, and a joiner between letters is good Persian.

    Raises:
        EnvironmentContractError: If one of the options is no text, the folder holds no file or lacks the target, or the
            question is empty.
    """
    for option, given in (("root", root), ("question", question), ("target", target or "")):
        if not isinstance(given, str):
            raise EnvironmentContractError(
                f"{option} is {given!r}; it is text. On the command line, text with a colon in it, or a number, stands "
                f"in quotes of its own: --env.options.{option} '\"12: a text\"'."
            )
    folder = str(expanded(root).absolute())
    tree = repository_tree(folder)
    if not any(map(tree.is_file, range(len(tree)))):
        raise EnvironmentContractError(
            f"There is no file to be found in {root}. Links, compiled files, caches and the folders of version control "
            f"are left out. Name another folder."
        )
    node = None if target is None else tree.find(target)
    if target is not None and (node is None or not tree.is_file(node)):
        raise EnvironmentContractError(
            f"target is {target!r}, and {root} has no such file. Give its path below the folder, or leave it out."
        )
    line = " ".join(INVISIBLE.sub(" ", question).split())
    if not line or not line.isprintable():
        raise EnvironmentContractError(f"question is {question!r}; it is a text that can be shown.")
    # A question that can be measured is another one in a folder that has changed.
    name = f"question in {tree_digest(folder)}" if target else "question"
    return Start(Task(name, "test", folder, target or "", "", line, ""), Shape(), 0)


@cache
def _starts(starts: Starts, split: str) -> Mapping[str, Start]:
    every = ready_tasks() if starts.source == READY else read_tasks(starts.source)
    tasks = available(every, split)
    deep_enough = {
        shape: [task for task in tasks if shape.depth is None or task.depth >= shape.depth] for shape in starts.shapes
    }
    most = max(map(len, deep_enough.values()))

    def trees(shape: Shape) -> int:
        if shape.depth is None:
            return 1
        own = len(deep_enough[shape]) or 1
        return round(starts.train_trees * most / own) if split == "train" else starts.test_trees

    found = [
        Start(task, shape, number)
        for shape, those in deep_enough.items()
        for task in those
        for number in range(trees(shape))
    ]
    if not found:
        raise EnvironmentContractError(
            f"Of the {len(tasks)} {split} tasks of {starts.source}, none lies deep enough for the trees "
            f"{', '.join(map(str, starts.shapes))}. Name other trees, or build tasks from deeper repositories."
        )
    return {start.name: start for start in found}
