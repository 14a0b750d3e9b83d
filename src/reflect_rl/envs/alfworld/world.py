"""Alfworld: ALFWorld's household games as a TextEnv, on the fast engine or on ALFWorld's own."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium

from reflect_rl.envs.alfworld.data import SPLITS as DATA_SPLITS
from reflect_rl.envs.alfworld.data import TASK_TYPES
from reflect_rl.envs.alfworld.facts import split_intro
from reflect_rl.envs.alfworld.game import CHARACTERS, descriptions
from reflect_rl.envs.alfworld.games import GENERATED, TOMATO, families, games_of, load, tasks_of
from reflect_rl.envs.alfworld.prior import NO_PRIOR, train_prior
from reflect_rl.envs.alfworld.searcher import Reader, Searcher, is_lost
from reflect_rl.envs.alfworld.teacher import STYLES, describe
from reflect_rl.envs.base import SPLITS
from reflect_rl.envs.gym import ActionMask
from reflect_rl.envs.optional import write_reflection
from reflect_rl.envs.simple import SimpleTextEnv, check_flags, check_rewards, unknown
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason
from reflect_rl.seeding import stream

if TYPE_CHECKING:
    from reflect_rl.envs.alfworld.game import GameFile, TextGame
    from reflect_rl.envs.alfworld.real import RealProcess

ENGINES = ("fast", "textworld")
GRAMMARS = ("move", "put")
GOALS = ("template", "human")
EXPERTS = ("searcher", "planner")
TEST_SPLITS = ("valid_seen", "valid_unseen")
HELD_OUT = "held_out"
"""All games that are not for training, as one test split: for families of so few that a split alone says nothing."""
MOST_ACTIONS = 1000
"""More than any released scene offers at once (under 100)."""


class Alfworld(SimpleTextEnv):
    """Household tasks in text: find an object, heat, cool, clean or light it, and put it where it belongs.

    ## Description
    The text games of ALFWorld (arXiv 2010.03768), byte for byte as its own engine tells them. engine: "fast", or
    "textworld" for ALFWorld's own (a process of its own, some ten steps a second). grammar: "move" as alfworld tells
    games since 0.4.0, "put" as before. data: the folder of the games, else $ALFWORLD_DATA, else where
    `alfworld-download` puts them; "generated" takes small generated games, which are no part of ALFWorld. task_types:
    "all", "tomato" (the paper's family), or any of the six types and their families (named like
    pick_and_place_simple-Tomato-None-Microwave), as a list or with commas; train_types: those to learn from, if they
    are others. shuffle: numbers in names in a random order, as alfworld's domain randomisation does. goals: "template"
    states the task in ALFWorld's words, "human" in those of a person.

    ## Actions
    The engine's admissible commands, in its order (sorted as strings).

    ## Observations
    Text: a line with the task, then what the engine answered to the last command; at first, what one sees.

    With goals "human" the task is what a person wrote about this game (turk_annotations in traj_data.json). People may
    use other words than the game ("newsletters" for newspapers), and leave things out. Their sentences stand as typed,
    with all typing errors, except that characters other than printable Latin text become spaces, and spaces at both
    ends are removed. Everything else is the same.

    ## Starting state
    A game of the split: "train" is ALFWorld's train, "valid" its valid_train (apart from train, in the same rooms),
    "test" the one named by test_split, "valid_seen", "valid_unseen", or "held_out" for all but train; solvable games
    only, named split/task/trial. Any game of the data can be asked for by name. The wording of the task (one of two,
    or with goals "human" one of usually three) is drawn at reset. With goals "human", games that nobody described are
    left out.

    ## Rewards
    success_reward 1 at the end of a game that is won, and step_reward 0 for every step.

    ## End
    Terminated: SUCCESS, as soon as the goal holds. Truncated: HORIZON, after `horizon` steps, 50 by default.

    ## Experts
    "searcher" knows only what the player is told, "planner" the whole game; `prior`: whether the searcher knows where
    things tend to be in train games. Whatever `goals` is, the experts, `describe` and the teacher know the goal in
    ALFWorld's words: scripted reflections, and notes on actions, give it away.

    ## Version history
    v1: first version.
    """

    task_text = "Do the household task in this room."
    teachers = tuple(STYLES)

    def __init__(
        self,
        engine: str = "fast",
        grammar: str = "move",
        data: str | None = None,
        task_types: str | Iterable[str] = "all",
        train_types: str | Iterable[str] | None = None,
        expert: str = "searcher",
        test_split: str = "valid_seen",
        horizon: int = 50,
        prior: bool = True,
        shuffle: bool = False,
        goals: str = "template",
        success_reward: float = 1.0,
        step_reward: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(horizon, render_mode)
        for option, given, known in (
            ("engine", engine, ENGINES),
            ("grammar", grammar, GRAMMARS),
            ("goals", goals, GOALS),
            ("expert", expert, EXPERTS),
            ("test_split", test_split, (*TEST_SPLITS, HELD_OUT)),
        ):
            if given not in known:
                raise EnvironmentContractError(unknown(option, given, known))
        check_flags(prior=prior, shuffle=shuffle)
        check_rewards(success_reward=success_reward, step_reward=step_reward)
        self.engine, self.grammar, self.data, self.expert_name = engine, grammar, data, expert
        self.has_human_goals = goals == "human"
        if self.has_human_goals and data == GENERATED:
            raise EnvironmentContractError(
                "Nobody described the generated games, so they cannot be played with goals: human. Take goals: "
                "template, or ALFWorld's own games (data: the folder of alfworld-download)."
            )
        self.families = families(task_types)
        self.train_families = self.families if train_types is None else families(train_types)
        self.test_split = test_split
        self.shuffle = shuffle
        self.success_reward, self.step_reward = success_reward, step_reward
        self.observation_space = gymnasium.spaces.Text(100_000, charset=CHARACTERS.union(string.printable))
        self.action_space = gymnasium.spaces.Discrete(MOST_ACTIONS)  # type: ignore[assignment]
        self.searcher = Searcher(train_prior() if prior else NO_PRIOR)
        self.game_seed = 0
        """What the task's wording and the order of names are drawn from; drawn at reset."""
        self.transcript: list[tuple[str, str, tuple[str, ...]]] = []
        """Of the episode: each command ("" at first), the engine's text, and the commands admissible after it."""
        self._game: TextGame | None = None
        self._process: RealProcess | None = None
        self._task_line = self._text = ""
        self._reader: Reader | None = None

    def tasks(self, split: str) -> tuple[str, ...]:
        """The games of a split, sorted.

        Raises EnvironmentContractError for another name than train, valid or test, and if the task types, or the
        people who described games, leave none; AlfworldDataError if there are no games.
        """
        self.check_split(split)
        return self._playable(self._names(split), self.train_families if split == "train" else self.families)

    def _playable(self, names: Sequence[str], types: tuple[str, ...]) -> tuple[str, ...]:
        """The games of splits, by their names in the data. Raises like `tasks`."""
        tasks = tuple(task for name in names for task in tasks_of(self.data, name, types, self.has_human_goals))
        if not tasks and any(tasks_of(self.data, name, types) for name in names):
            raise EnvironmentContractError(
                f"Nobody described a game of the split {' or '.join(names)}: no traj_data.json holds a sentence under "
                f"turk_annotations. Take goals: template, or the trajectories of ALFWorld's release, which have them."
            )
        if not tasks:
            raise EnvironmentContractError(
                f"The split {' or '.join(names)} has no game of {', '.join(types)}. The types are "
                f"{', '.join(TASK_TYPES)}; a family is named like {TOMATO}."
            )
        return tasks

    def panels(self) -> dict[str, tuple[str, ...]]:
        """ALFWorld's own: valid_seen and valid_unseen as far as they are there ("test" first), and valid_train."""
        panels = {"test": self.tasks("test"), "valid": self.tasks("valid")}
        if self.data == GENERATED or self.test_split == HELD_OUT:
            return panels
        other = next(name for name in TEST_SPLITS if name != self.test_split)
        known = other in games_of(self.data).splits
        beside = tasks_of(self.data, other, self.families, self.has_human_goals) if known else ()
        return panels | ({other.removeprefix("valid_"): beside} if beside else {})

    def kind(self, task: str) -> str:
        """The task's type, one of ALFWorld's six."""
        return task.split("/")[-2].partition("-")[0]

    def knows_task(self, task: str) -> bool:
        """Whether there is such a game, of whatever type and split."""
        return task in games_of(self.data).known

    def begin(self, task: str, stage: str | None) -> None:
        self.game_seed = int(self.np_random.integers(2**31))
        file = load(self.data, task)
        described = self._described(file) if self.has_human_goals else ""
        self._game = game = self._start(file)
        first = game.reset()
        self._text, self._task_line = split_intro(first)
        if described:
            self._task_line = f"Your task is to: {described}"
        self.transcript = [("", first, game.admissible)]
        self._reader = Reader(self.searcher, first, game.admissible)

    def observe(self) -> str:
        return f"{self._task_line}\n{self._text}"

    def admissible(self) -> tuple[str, ...]:
        return self.game.admissible

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        game, command = self.game, self._admissible[choice]
        self._text = game.step(command)
        self.transcript.append((command, self._text, game.admissible))
        self.reader.hear(*self.transcript[-1])
        if game.won:
            return self.step_reward + self.success_reward, StopReason.SUCCESS
        return self.step_reward, None

    @property
    def game(self) -> TextGame:
        """The engine with the game under way. Raises EnvironmentContractError before the first reset."""
        if self._game is None:
            raise EnvironmentContractError("There is no game before reset(). Call reset() to begin one.")
        return self._game

    def close(self) -> None:
        """End the engine's process, if it has one."""
        if self._game is not None:
            self._game.close()
        if self._process is not None:
            self._process.close()
        self._game = self._process = None
        self._playing = False

    def expert(self) -> int | None:
        """The index of the expert's action; the first of them if several are equally good. None: it knows no way."""
        best = self.expert_set()
        return min(best) if best else None

    def expert_set(self) -> frozenset[int]:
        """The indices of all actions that the expert thinks equally good; empty where the game is known to be lost."""
        self.require_playing("expert")
        if self.expert_name == "searcher" and is_lost(self.reader.memory()):
            return frozenset()
        best = set(self.best_actions())
        return frozenset(index for index, action in enumerate(self._admissible) if action in best)

    def best_actions(self) -> tuple[str, ...]:
        """The commands that the expert thinks equally good: all of the searcher's, at most one of the planner's."""
        self.require_playing("expert")
        if self.expert_name == "searcher":
            return self.reader.best()
        from reflect_rl.envs.alfworld.planner import plan

        return tuple(plan(self.game)[:1])

    @property
    def reader(self) -> Reader:
        """What a reader of the transcript knows now. Raises EnvironmentContractError before the first reset."""
        if self._reader is None:
            raise EnvironmentContractError("There is no transcript before reset(). Call reset() to begin one.")
        return self._reader

    def describe(self) -> dict[str, Any]:
        """The goal and what a reader of the transcript could know, JSON-able; see `teacher.describe`."""
        self.require_playing("describe")
        return describe(self.reader.memory(), self._admissible, self.reader.best(), self.reader.helped())

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """A reflection in one of the styles of the module `teacher`."""
        return write_reflection(cls, STYLES, facts, style)

    def _described(self, game: GameFile) -> str:
        """One of the sentences that people wrote for a game. Raises EnvironmentContractError if there is none."""
        written = descriptions(game.traj)
        if not written:
            raise EnvironmentContractError(
                f"Nobody described the game {game.id}: its trajectory holds no sentence under turk_annotations. "
                f"Play it with goals: template."
            )
        return written[int(stream(self.game_seed, "alfworld description").integers(len(written)))]

    def _names(self, split: str) -> tuple[str, ...]:
        """The names that the data has for a split."""
        if self.data == GENERATED:
            return (split,)
        if split == "test" and self.test_split == HELD_OUT:
            return tuple(name for name in ("valid_train", *TEST_SPLITS) if name in games_of(self.data).splits)
        return ({"train": "train", "valid": "valid_train", "test": self.test_split}[split],)

    def _start(self, game: GameFile) -> TextGame:
        """The engine with a game in it. The real one keeps its process from game to game."""
        if self.engine == "fast":
            from reflect_rl.envs.alfworld.engine import FastAlfred

            return FastAlfred(game, grammar=self.grammar, seed=self.game_seed, shuffle=self.shuffle)
        from reflect_rl.envs.alfworld.real import RealAlfred, RealProcess

        self._process = self._process or RealProcess()
        return RealAlfred(game, grammar=self.grammar, seed=self.game_seed, shuffle=self.shuffle, process=self._process)


class GymnasiumAlfworld(ActionMask, Alfworld):
    """Alfworld as `gymnasium.make("reflect_rl/ALFWorld-v0", split="valid_unseen")` gives it.

    An inadmissible action gets the engine's answer to an inadmissible command: "Nothing happens."
    """

    def __init__(self, split: str = "train", **options: Any) -> None:
        """Args: split: what `reset` draws a task from: "train", "valid", "test", or a split by its name in the data,
        such as "valid_unseen". options: those of Alfworld."""
        super().__init__(**options)
        known = SPLITS if self.data == GENERATED else tuple(dict.fromkeys((*SPLITS, *DATA_SPLITS)))
        if split not in known:
            raise EnvironmentContractError(unknown("split", split, known))
        self.split = split

    def _drawn_from(self) -> tuple[str, ...]:
        if self.split in SPLITS:
            return self.tasks(self.split)
        return self._playable((self.split,), self.families)

    def idle(self) -> float:
        self._text = self.game.step("")
        return self.step_reward
