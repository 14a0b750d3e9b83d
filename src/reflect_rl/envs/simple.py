"""SimpleTextEnv: a TextEnv with the bookkeeping done."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, SupportsFloat

import gymnasium

from reflect_rl.envs.base import SPLITS, TextEnv
from reflect_rl.envs.promises import MOST_REWARD, short
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

OPTIONS = ("task", "stage")


class SimpleTextEnv(TextEnv):
    """A TextEnv that keeps count of steps, checks options and choices, and ends episodes at the horizon.

    Subclasses implement `tasks`, `begin`, `observe` and `act`, and set `actions` (or implement `admissible`).

    Args:
        horizon: Steps after which an episode is truncated, at least 1.
        render_mode: "ansi" has `render` return the current observation; None returns nothing.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]
    actions: ClassVar[tuple[str, ...]] = ()
    """The actions of a world in which all of them are always admissible."""

    def __init__(self, horizon: int = 20, render_mode: str | None = None) -> None:
        if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
            raise EnvironmentContractError(f"horizon is {horizon!r}; it is a number of steps, so an integer from 1 up.")
        if render_mode not in (None, "ansi"):
            raise EnvironmentContractError(
                f"render_mode is {render_mode!r}; {type(self).__name__} knows 'ansi' and None."
            )
        self.horizon = horizon
        self.render_mode = render_mode
        if self.actions:
            self.action_space = gymnasium.spaces.Discrete(len(self.actions))  # type: ignore[assignment]
        self.task: str | None = None
        self.stage: str | None = None
        self.last_action: str | None = None
        self._steps = 0
        self._playing = False
        self._admissible: tuple[str, ...] = ()

    def begin(self, task: str, stage: str | None) -> None:
        """Set up the first state of a task. Draw random numbers from `self.np_random`.

        Args:
            task: One of the names that `tasks` gives.
            stage: One of `stages`, or None for the full task.
        """
        raise NotImplementedError(f"{type(self).__name__} has no begin(task, stage).")

    def observe(self) -> str:
        """Describe the current state.

        Returns:
            The observation, a non-empty text.
        """
        raise NotImplementedError(f"{type(self).__name__} has no observe().")

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        """Do an admissible action. Leave the horizon to the base class; `self.last_action` is the action before.

        Args:
            choice: The action's index into the admissible actions.

        Returns:
            The reward, and why the episode ended, or None if it goes on.
        """
        raise NotImplementedError(f"{type(self).__name__} has no act(choice).")

    def admissible(self) -> tuple[str, ...]:
        """List the actions that are admissible now.

        Returns:
            Distinct names in a fixed order; by default, `actions`.
        """
        return self.actions

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """See `TextEnv.reset`. If the options are refused, the current episode is over."""
        self._playing = False
        super().reset(seed=seed)
        task, stage = self._read(options or {})
        self.begin(task, stage)
        self.task, self.stage, self.last_action = task, stage, None
        self._steps, self._playing, self._admissible = 0, True, self.admissible()
        return self.observe(), {"actions": self._admissible, "task": task}

    def step(self, action: int) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """See `TextEnv.step`."""
        self.require_playing("step")
        choice = self.check_choice(action, self._admissible)
        outcome = self.act(choice)
        if not isinstance(outcome, tuple) or len(outcome) != 2:
            raise EnvironmentContractError(
                f"{type(self).__name__}.act() returned {short(outcome)}, not a reward and why the episode ends, such "
                f"as (1.0, StopReason.SUCCESS), or (0.0, None) to go on."
            )
        reward, stop = outcome
        self.last_action = self._admissible[choice]
        return self._after(reward, stop)

    def render(self) -> str | None:  # type: ignore[override]
        """Return the current observation if `render_mode` is "ansi", else None.

        Raises:
            EnvironmentContractError: Before `reset`.
        """
        if self.task is None:
            self.require_playing("render")
        return self.observe() if self.render_mode == "ansi" else None

    def require_playing(self, what: str) -> None:
        """Raise EnvironmentContractError unless an episode is under way. what: the method that needs one."""
        if not self._playing:
            why = "before reset()" if self.task is None else "after the end of the episode"
            raise EnvironmentContractError(f"{what}() was called {why}. Call reset() to begin an episode.")

    def knows_task(self, task: str) -> bool:
        """Return whether there is such a task."""
        return any(task in self.tasks(split) for split in SPLITS)

    def _after(self, reward: float, stop: StopReason | None) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Count a step that has been made: what `step` returns."""
        self._steps += 1
        if stop is None and self._steps >= self.horizon:
            stop = StopReason.HORIZON
        self._admissible = self.admissible()
        info: dict[str, Any] = {"actions": self._admissible, "task": self.task}
        if stop is None:
            return self.observe(), reward, False, False, info
        self._playing = False
        info["success"], info["stop"] = stop is StopReason.SUCCESS, stop
        truncated = stop is StopReason.HORIZON
        return self.observe(), reward, not truncated, truncated, info

    def _drawn_from(self) -> tuple[str, ...]:
        """The tasks that `reset` draws from if it is given none."""
        return self.tasks("train")

    def _read(self, options: Mapping[str, Any]) -> tuple[str, str | None]:
        for key in options:
            if key not in OPTIONS:
                raise EnvironmentContractError(unknown("reset option", key, OPTIONS))
        stage, task = options.get("stage"), options.get("task")
        if stage is not None and stage not in self.stages:
            raise EnvironmentContractError(unknown("stage", stage, self.stages))
        if task is None:
            tasks = self._drawn_from()
            task = tasks[int(self.np_random.integers(len(tasks)))]
        elif not isinstance(task, str) or not self.knows_task(task):
            raise EnvironmentContractError(unknown("task", task, [t for split in SPLITS for t in self.tasks(split)]))
        return task, stage


def check_flags(**options: object) -> None:
    """Raise EnvironmentContractError unless these options are true or false: "no" is a text to YAML, and not false."""
    for name, value in options.items():
        if not isinstance(value, bool):
            raise EnvironmentContractError(f"{name} is {short(value)}; it is true or false.")


def check_rewards(**options: object) -> None:
    """Raise EnvironmentContractError unless these options are rewards: some are first paid late in a run."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_REWARD:
            raise EnvironmentContractError(f"{name} is {short(value)}; it is a finite number, up to {MOST_REWARD:g}.")


def unknown(kind: str, given: object, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the most similar one that does."""
    known = tuple(known)
    near = difflib.get_close_matches(str(given), known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    shown = ", ".join(known[:8]) + (f", ... ({len(known)} in all)" if len(known) > 8 else "") if known else "none"
    return f"There is no {kind} {given!r}.{hint} There are: {shown}."
