"""BabyAI: the levels of minigrid's BabyAI as text, with its bot as the expert."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import count
from typing import Any

import gymnasium

from reflect_rl.envs.babyai.levels import Guide, make_level, reset_level
from reflect_rl.envs.babyai.teacher import STYLES
from reflect_rl.envs.babyai.view import View, read_view, tell
from reflect_rl.envs.gym import ActionMask
from reflect_rl.envs.optional import write_reflection
from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.envs.splits import split_in_order
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

SPLIT_SIZES = {"train": 2000, "valid": 100, "test": 200}
CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz MYWC:.,0123456789\n")
LONGEST = 4000
TASKS = split_in_order((f"seed-{number}" for number in count()), SPLIT_SIZES)


class BabyAI(SimpleTextEnv):
    """Follow an instruction in a grid of rooms, seen through the agent's eyes: minigrid's BabyAI levels as text.

    ## Description
    The levels of BabyAI (arXiv 1810.08272) as minigrid has them; needs the extra `babyai`. level: the name of a level,
    such as GoToLocal, PickupLoc, UnlockLocal or BossLevel, for minigrid's BabyAI-GoToLocal-v0 and so on. The agent sees
    7 x 7 cells before it (6 forward, 3 to either side) and nothing behind walls and closed doors.

    ## Actions
    Six, always admissible: 0 turn left, 1 turn right, 2 go forward, 3 pick up, 4 drop, 5 toggle (opens and closes doors
    and boxes). The last three act on the cell ahead. minigrid's `done` does nothing here and is left out.

    ## Observations
    Text: "Mission: open the door."; "You see:" and a line for each thing in sight, the nearest first, such as "locked
    red door 2 forward 1 left"; the nearest walls, as "Walls: 4 forward, 1 right."; "You carry: red key.". No trailing
    newline.

    ## Starting state
    A task is a seed of minigrid's reset, which makes rooms, things and mission: seed-0 to seed-1999 for train, then 100
    for valid and 200 for test. In levels with very few starts (GoToObjS4), different seeds can begin alike.

    ## Rewards
    minigrid's: 1 - 0.9 * steps / horizon when the mission is accomplished, else 0.

    ## End
    Terminated: SUCCESS when minigrid ends the episode with a reward above 0, FAILURE when with none. Truncated:
    HORIZON, after `horizon` steps, 64 by default, in place of minigrid's own limit.

    ## Version history
    v0: first version.
    """

    task_text = (
        "Do what the mission says. You see 6 steps forward and 3 to each side. Pick up, drop and toggle act on the "
        "cell ahead; toggle opens doors, a locked one with the key of its color in hand."
    )
    actions = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
    teachers = tuple(STYLES)

    def __init__(self, horizon: int = 64, *, level: str = "GoToLocal", render_mode: str | None = None) -> None:
        if not isinstance(level, str):
            raise EnvironmentContractError(f"level is {level!r}; it is the name of a level, such as GoToLocal.")
        super().__init__(horizon, render_mode)
        self.level = level
        self._env: Any = None
        self._copy: Any = None
        self._guide: Guide | None = None
        self._seed = 0
        self._done: list[int] = []
        self._view = View((), (), "", "")

    @cached_property
    def observation_space(self) -> gymnasium.spaces.Text:  # type: ignore[override]
        return gymnasium.spaces.Text(LONGEST, min_length=1, charset=CHARACTERS)

    def tasks(self, split: str) -> tuple[str, ...]:
        """The task names of a split. Raises EnvironmentContractError for another name than train, valid or test."""
        self.check_split(split)
        return TASKS[split]

    def panels(self) -> dict[str, tuple[str, ...]]:
        """What is held out: test, then valid."""
        return {split: self.tasks(split) for split in ("test", "valid")}

    def begin(self, task: str, stage: str | None) -> None:
        self._env = self._env or make_level(self.level)
        self._seed = int(task.removeprefix("seed-"))
        self._view = read_view(reset_level(self._env, self._seed)["image"])
        self._env.max_steps = self.horizon
        self._done, self._guide = [], None

    def observe(self) -> str:
        return tell(self._env.mission, self._view)

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        observation, reward, terminated, _, _ = self._env.step(choice)
        self._view = read_view(observation["image"])
        self._done.append(choice)
        if not terminated:
            return float(reward), None
        return float(reward), StopReason.SUCCESS if reward > 0 else StopReason.FAILURE

    def expert(self) -> int | None:
        """What minigrid's BabyAIBot would do, which knows what has been seen and done in this episode.

        None where it knows no way on, as after a box was opened.
        """
        self.require_playing("expert")
        return self._guided().advise(self._done)

    def describe(self) -> dict[str, Any]:
        """Facts of the state now, JSON-able.

        verb, target, forward, left: what the bot is about, see `levels.Aim`. ahead: what is on the next cell. carried:
        "" for nothing. next_action: the expert's, None for none.
        """
        choice = self.expert()
        return {
            **self._guided().aim()._asdict(),
            "ahead": self._view.ahead,
            "carried": self._view.carried,
            "next_action": None if choice is None else self.actions[choice],
        }

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """A reflection in one of the styles of the module `teacher`."""
        return write_reflection(cls, STYLES, facts, style)

    def close(self) -> None:
        """Forget the level."""
        self._env = self._copy = self._guide = None
        self._playing = False

    def _guided(self) -> Guide:
        if self._guide is None:
            self._copy = self._copy or make_level(self.level)
            self._guide = Guide(self._copy, self._seed)
        return self._guide


class GymnasiumBabyAI(ActionMask, BabyAI):
    """BabyAI as `gymnasium.make("reflect_rl/BabyAI-v0")` gives it."""
