"""TextWorld: coin and cooking games, made and played by textworld itself."""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import gymnasium

from reflect_rl.envs.base import SPLITS
from reflect_rl.envs.gym import ActionMask
from reflect_rl.envs.optional import write_reflection
from reflect_rl.envs.simple import SimpleTextEnv, unknown
from reflect_rl.envs.textworld.games import KINDS, engine, game_file, without_warnings
from reflect_rl.envs.textworld.notes import Notes
from reflect_rl.envs.textworld.teacher import STYLES
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

READ = "examine cookbook"
MOST_ACTIONS = 200
LONGEST = 20_000
MOST_GAMES = 100_000


class TextWorld(SimpleTextEnv):
    """Find a coin in a maze of rooms, or cook a meal by a recipe: games of textworld, by its own engine.

    ## Description
    Games that textworld (arXiv 1806.11532) makes on this machine, one for each task; needs the extra `textworld`. game:
    "coin" (Coin Collector) or "cooking" (The Cooking Game). settings: those of textworld's challenge, over the
    defaults. coin takes level (105: five rooms to the coin and five dead ends); cooking takes recipe, take, go, open,
    cook, cut, drop, recipe_seed (one ingredient, in the kitchen, to be cooked and cut). Making a game takes 1 to 3
    seconds, once: it is kept in $XDG_CACHE_HOME/reflect-rl/textworld, else ~/.cache/reflect-rl/textworld. A step takes
    5 to 10 ms.

    ## Actions
    The engine's admissible commands, in its order.

    ## Observations
    Text: what the engine answered to the last command (at first, nothing); then the room, if that was not the answer;
    then what is carried; then, once the cookbook was read, its recipe. The game's own introduction is not shown: that
    of the coin games gives the way away.

    ## Starting state
    A task is a game, named by its seed: train-0 to train-99, then 20 valid and 40 test by default (`train`, `valid`,
    `test`: how many of each). Cooking games take textworld's splits: in valid and test, the recipes have foods and
    preparations that no train game has.

    ## Rewards
    The game's score: 1 for the coin; in cooking, 1 for each right step of the recipe.

    ## End
    Terminated: SUCCESS when the engine says that the game is won, FAILURE when it is lost (a food spoiled, for example
    by cooking it twice). Truncated: HORIZON, after `horizon` steps, 30 by default.

    ## Version history
    v0: first version.
    """

    teachers = tuple(STYLES)

    def __init__(
        self,
        horizon: int = 30,
        *,
        game: str = "coin",
        settings: Mapping[str, Any] | None = None,
        train: int = 100,
        valid: int = 20,
        test: int = 40,
        render_mode: str | None = None,
    ) -> None:
        if game not in KINDS:
            raise EnvironmentContractError(unknown("game", game, KINDS))
        self.sizes: dict[str, int] = dict(zip(SPLITS, (train, valid, test), strict=True))
        for split, size in self.sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST_GAMES:
                raise EnvironmentContractError(
                    f"{split} is {size!r}; it is a number of games, an integer from 1 to {MOST_GAMES}."
                )
        if settings is not None and not isinstance(settings, Mapping):
            raise EnvironmentContractError(f"settings is {settings!r}; it is a mapping, such as {{level: 5}}.")
        for name in settings or {}:
            if name not in KINDS[game].settings:
                raise EnvironmentContractError(unknown(f"setting of {game} games", name, KINDS[game].settings))
        super().__init__(horizon, render_mode)
        self.game, self.settings = game, {**KINDS[game].settings, **(settings or {})}
        self.task_text = KINDS[game].told  # type: ignore[misc]
        self._env: Any = None
        self._state: Any = None
        self._text, self._notes = "", Notes()

    @cached_property
    def action_space(self) -> gymnasium.spaces.Discrete:  # type: ignore[override]
        return gymnasium.spaces.Discrete(MOST_ACTIONS)

    @cached_property
    def observation_space(self) -> gymnasium.spaces.Text:  # type: ignore[override]
        return gymnasium.spaces.Text(LONGEST, min_length=1, charset=string.printable)

    def tasks(self, split: str) -> tuple[str, ...]:
        """The task names of a split. Raises EnvironmentContractError for another name than train, valid or test."""
        self.check_split(split)
        return tuple(f"{split}-{number}" for number in range(self.sizes[split]))

    def panels(self) -> dict[str, tuple[str, ...]]:
        """What is held out: test, then valid."""
        return {split: self.tasks(split) for split in ("test", "valid")}

    def begin(self, task: str, stage: str | None) -> None:
        split, number = task.split("-")
        settings = {**self.settings, "split": split} if self.game == "cooking" else self.settings
        path = game_file(self.game, settings, SPLITS.index(split) * MOST_GAMES + int(number))
        self.close()
        infos = engine().EnvInfos(
            admissible_commands=True, policy_commands=True, description=True, inventory=True, won=True, lost=True
        )
        with without_warnings():
            self._env = engine().start(str(path), infos)
        self._state = self._env.reset()
        self._text, self._notes = "", Notes()
        self._notes.hear("", self._state.description)

    def observe(self) -> str:
        parts = [self._text, "" if self._text.startswith("-=") else _cleaned(self._state.description)]
        parts.append(_cleaned(self._state.inventory))
        if self._notes.directions:
            parts.append(f"Recipe: {'; '.join(self._notes.directions)}.")
        return "\n".join(part for part in parts if part)

    def admissible(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._state.admissible_commands))

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        command, before = self._admissible[choice], self._state.score or 0
        self._state, score, _ = self._env.step(command)
        self._text = _cleaned(self._state.feedback)
        self._notes.hear(command, self._text)
        reward = float(score - before)
        if self._state.won:
            return reward, StopReason.SUCCESS
        return reward, StopReason.FAILURE if self._state.lost else None

    def expert(self) -> int | None:
        """The next of textworld's own commands to the goal; before that, reading the cookbook where it is at hand.

        None where textworld knows no way on.
        """
        self.require_playing("expert")
        plan = self._plan()
        return self._admissible.index(plan[0]) if plan and plan[0] in self._admissible else None

    def describe(self) -> dict[str, Any]:
        """Facts of the state now, JSON-able.

        room. new_exits: exits that this episode has not used yet. back: the exit to the room before, "" for none.
        cooks: whether it is a cooking game. has_read: the cookbook. missing: ingredients still to get; to_do: steps of
        the recipe still to do; both empty before it is read. next_action: the expert's, None for none.
        """
        self.require_playing("describe")
        return {"cooks": self.game == "cooking"} | self._notes.facts(self._admissible, self._plan())

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """A reflection in one of the styles of the module `teacher`."""
        return write_reflection(cls, STYLES, facts, style)

    def close(self) -> None:
        """Let go of the engine, which is native code in this process."""
        if self._env is not None:
            self._env.close()
        self._env = None
        self._playing = False

    def _plan(self) -> list[str]:
        if READ in self._admissible and not self._notes.directions:
            return [READ]
        return list(self._state.policy_commands or ())


class GymnasiumTextWorld(ActionMask, TextWorld):
    """TextWorld as `gymnasium.make("reflect_rl/TextWorld-v0")` gives it."""


def _cleaned(said: str) -> str:
    """What the engine said, without the prompt and what follows it, empty lines and white space at the ends."""
    lines = (line.strip() for line in said.partition("\n>")[0].splitlines())
    return "\n".join(line for line in lines if line)
