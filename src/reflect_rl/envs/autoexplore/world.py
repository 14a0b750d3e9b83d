"""AutoExplore: find the file of a repository that answers a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from reflect_rl.envs.autoexplore.memory import Memory
from reflect_rl.envs.autoexplore.panels import READY, Start, Starts, own_start
from reflect_rl.envs.autoexplore.query import Query
from reflect_rl.envs.autoexplore.reading import Page, Reader
from reflect_rl.envs.autoexplore.searchers import Searcher, shortest
from reflect_rl.envs.autoexplore.sources import repository_tree, tree_of
from reflect_rl.envs.autoexplore.tasks import Task
from reflect_rl.envs.autoexplore.teacher import STYLES, describe
from reflect_rl.envs.autoexplore.tree import Tree
from reflect_rl.envs.autoexplore.view import Shape, View, above
from reflect_rl.envs.autoexplore.words import train_words
from reflect_rl.envs.optional import write_reflection
from reflect_rl.envs.simple import SimpleTextEnv, check_rewards, unknown
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.paths import expanded
from reflect_rl.records import StopReason
from reflect_rl.seeding import stream_seed

EXPERTS = ("searcher", "leaf-searcher", "shortest")
NEAR = "depth 1"
SHOWN = ("page", "matches")


class AutoExplore(SimpleTextEnv):
    """Explore a repository with cd and cat, and name the file that answers a question.

    ## Description
    The world of Reflect-RL (arXiv 2402.12621) over the source trees of installed packages. A question is the first
    sentence of a public docstring; the file that held it is the target. A tree is indexed once and only read. `tasks`:
    "ready", or a file of `reflect-rl autoexplore build`. `trees`: "natural" begins at the repository's root;
    "d1F4D3" one folder above the target's, where every folder shows at most 4 files and 3 folders, which are drawn for
    each task; several kinds with commas. `root` and `question` ask a question about a folder of your own, as the only
    test task; `target` is its answer, if it is known. A folder that changes is read as it was listed at first.

    ## Actions
    cd .. (below the root), cd FOLDER, cat FILE, id FILE for what the listing shows; ls for its next page. `cat` of the
    same file again shows its next page. `id` ends the episode.

    ## Observations
    Text: the question, the step, the folder with its listing (`listing` entries a page), the files read so far, and
    what `cat` has just shown: a page (`shown` "page"), or how many words of the question it has and the `lines` of it
    that share most ("matches"). A page has at most `page` characters. Docstrings are shown only if `root` is given.

    ## Starting state
    One task of the split: a question in one tree, named like requests/adapters.py:HTTPAdapter@d1F4D3. Of capped trees,
    `test_trees` are drawn for each task of valid and test, and `train_trees` for each of train, or more of deep ones,
    so that all kinds of trees are equally frequent there. leave_out hides each file but the target with this
    probability in train tasks, drawn at reset. Stage "depth 1" begins at most one folder above the target's.

    ## Rewards
    success_reward 1 for the right `id`, wrong_reward 0 for another, step_reward 0 for every step.

    ## End
    Terminated: SUCCESS or FAILURE, by `id`. Truncated: HORIZON, after `horizon` steps, 15 by default.

    ## Experts
    "searcher" reads what is nearest and answers with what matches best; "leaf-searcher" knows the kinds of `trees`,
    takes the deepest that what it has seen leaves possible, and reads only as deep as targets lie there; "shortest"
    knows the target, as in the paper.

    ## Version history
    v1: first version.
    """

    task_text = "Find the file that answers the question. cd enters a folder, cat reads a file, id names the answer."
    stages = (NEAR,)
    teachers = tuple(STYLES)

    def __init__(
        self,
        tasks: str = READY,
        trees: str | Iterable[str] = "d1F4D3,d2F3D2",
        horizon: int = 15,
        *,
        expert: str = "leaf-searcher",
        page: int = 20_000,
        shown: str = "matches",
        lines: int = 3,
        listing: int = 50,
        test_trees: int = 1,
        train_trees: int = 1,
        leave_out: float = 0.0,
        root: str | None = None,
        question: str | None = None,
        target: str | None = None,
        success_reward: float = 1.0,
        wrong_reward: float = 0.0,
        step_reward: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(horizon, render_mode)
        for option, given, known in (("expert", expert, EXPERTS), ("shown", shown, SHOWN)):
            if given not in known:
                raise EnvironmentContractError(unknown(option, given, known))
        counts = {
            "page": page,
            "lines": lines,
            "listing": listing,
            "test_trees": test_trees,
            "train_trees": train_trees,
        }
        for option, number in counts.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise EnvironmentContractError(f"{option} is {number!r}; it is an integer from 1 up.")
        check_rewards(success_reward=success_reward, wrong_reward=wrong_reward, step_reward=step_reward)
        if not 0 <= leave_out < 1:
            raise EnvironmentContractError(f"leave_out is {leave_out!r}; it is a probability below 1.")
        if (root is None) != (question is None) or (target is not None and root is None):
            raise EnvironmentContractError("root and question belong together: a folder, and what is asked about it.")
        names = trees.split(",") if isinstance(trees, str) else trees
        own = None if root is None or question is None else own_start(root, question, target)
        shapes = tuple(dict.fromkeys(Shape.parse(name.strip()) for name in names))
        source = tasks if tasks == READY else str(expanded(tasks).absolute())
        self.starts = Starts(source, shapes, train_trees, test_trees, own)
        self.expert_name, self.leave_out = expert, leave_out
        self.characters, self.listing, self.lines = page, listing, lines if shown == "matches" else None
        self.success_reward, self.wrong_reward, self.step_reward = success_reward, wrong_reward, step_reward
        is_known = expert == "leaf-searcher" and own is None and all(shape.depth is not None for shape in shapes)
        self._kinds = shapes if is_known else ()

    def tasks(self, split: str) -> tuple[str, ...]:
        """The names of a split. Raises EnvironmentContractError for another split, or if no repository is there."""
        self.check_split(split)
        return tuple(self.starts.of(split))

    def panels(self) -> dict[str, tuple[str, ...]]:
        """Test and valid: train has thousands of starts.

        Raises EnvironmentContractError for a question of one's own without its target: no answer could be judged.
        """
        if self.starts.own and not self.starts.own.task.target:
            raise EnvironmentContractError(
                "A question of your own cannot be measured without its answer: whatever is said would count as wrong. "
                "Give the path of the right file below root as target, or play it: reflect-rl play autoexplore."
            )
        return {"test": self.tasks("test"), "valid": self.tasks("valid")}

    def kind(self, task: str) -> str:
        """The kind of tree."""
        start = self.starts.find(task)
        return "" if start is None else str(start.shape)

    def knows_task(self, task: str) -> bool:
        return self.starts.find(task) is not None

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `TextEnv.reset`. With a question of one's own, that is the task unless another is named."""
        own = self.starts.own
        return super().reset(seed=seed, options={**({"task": own.name} if own else {}), **(options or {})})

    def begin(self, task: str, stage: str | None) -> None:
        start = self.starts.find(task)
        assert start is not None  # see knows_task
        tree, self.target, query = opened(start.task)
        self.question = start.task.question
        self.reader = reader(tree, self.characters, start is self.starts.own)
        self.view = self._seen(start, tree, self.target, stage)
        near = [replace(kind, depth=min(kind.depth or 0, 1)) for kind in self._kinds]
        self._searcher = Searcher(tuple(near) if stage == NEAR else self._kinds)
        self._memory = Memory(self.view, query, self.view.place(self.view.root))
        self._told, self._paths_read = "", "none"

    def observe(self) -> str:
        memory, step = self._memory, min(self._steps + 1, self.horizon)
        question = f"Question: {self.question}\nStep {step} of {self.horizon}.\n"
        return f"{question}{memory.place.text}\nRead: {self._paths_read}{self._told}"

    def admissible(self) -> tuple[str, ...]:
        return self._memory.place.actions

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        memory = self._memory
        verb, node = memory.place.moves[choice]
        self._told = ""
        if verb == "id":
            is_right = node == self.target
            known = " That is right." if is_right else " That is wrong."
            verdict = " Whether that is right was not told: no target is given." if self.target is None else known
            self._told = f"\nAnswer: {self.view.path(node)}.{verdict}"
            reward = self.success_reward if is_right else self.wrong_reward
            return self.step_reward + reward, StopReason.SUCCESS if is_right else StopReason.FAILURE
        if verb == "cat":
            page = self.reader.pages(node)[memory.next_page(node) - 1]
            memory.reads(node, page)
            self._paths_read = ", ".join(map(self.view.path, memory.read))
            self._told = f"\n{self._text(node, page)}"
        elif verb == "ls":
            memory.arrive(self.view.place(node, (memory.place.page + 1) % self.view.pages(node)))
        else:
            memory.arrive(self.view.place(node))
        return self.step_reward, None

    def expert(self) -> int:
        """The lowest index of the expert's moves."""
        return min(self.expert_set())

    def expert_set(self) -> frozenset[int]:
        """The moves that the expert considers equally good."""
        self.require_playing("expert_set")
        if self.expert_name == "shortest" and self.target is not None:
            return shortest(self._memory, self.target)
        return self._searcher.best_moves(self._memory, self.horizon - self._steps)

    def path_of(self, choice: int) -> str:
        """The path of the file or folder that an action is about."""
        return self.view.path(self._memory.place.moves[choice][1])

    def describe(self) -> dict[str, Any]:
        """Facts of the state now, which never tell the target: see `teacher.describe`."""
        self.require_playing("describe")
        return describe(self._memory, self._searcher.best_moves(self._memory, self.horizon - self._steps))

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """A reflection in one of the styles of the module `teacher`."""
        return write_reflection(cls, STYLES, facts, style)

    def _seen(self, start: Start, tree: Tree, target: int | None, stage: str | None) -> View:
        """What this episode shows of a tree."""
        shape, root = start.shape, 0
        if target is not None and (shape.depth is not None or stage == NEAR):
            depth = start.task.depth if shape.depth is None else shape.depth
            root = above(tree, target)[1 + min(depth, 1 if stage == NEAR else depth)]
        seed = stream_seed(start.number, f"tree of {start.task.name}")
        if self.leave_out and start.task.split == "train":
            seed = stream_seed(seed, "leave out", int(self.np_random.integers(2**31)))
            return View(tree, root, self.listing, shape, self.leave_out, target, seed)
        if shape.files is None:
            return shared_view(tree, root, self.listing)
        return shared_view(tree, root, self.listing, shape, 0.0, target, seed)

    def _text(self, node: int, page: Page) -> str:
        """A page as it is shown."""
        number = f", page {page.number} of {page.pages}" if page.pages > 1 else ""
        if self.lines is None:
            return f"{self.view.path(node)}{number}:\n{page.text.rstrip() or '(empty)'}"
        query = self._memory.query
        found = f"{query.found(page)} of {len(query.weights)} words"
        return f"{self.view.path(node)}{number}, {found}:\n{query.excerpt(page, self.lines)}".rstrip("\n")


@lru_cache(maxsize=10_000)
def opened(task: Task) -> tuple[Tree, int | None, Query]:
    """A task's tree, its target there, and its question."""
    tree = tree_of(task) if task.digest else repository_tree(task.repository)
    return tree, tree.find(task.target) if task.target else None, Query(task.question, train_words())


@lru_cache(maxsize=64)
def reader(tree: Tree, characters: int, docstrings: bool) -> Reader:
    """The one reader of a tree in this process, so that all environments remember the same pages."""
    return Reader(tree, characters, docstrings)


@lru_cache(maxsize=1_000)
def shared_view(*args: Any) -> View:
    """A view in which nothing depends on the episode."""
    return View(*args)
