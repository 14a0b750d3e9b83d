"""TextEnv: the contract between worlds and everything else."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, ClassVar, SupportsFloat

import gymnasium

from reflect_rl.envs.optional import SPLITS, OptionalMethods
from reflect_rl.errors import EnvironmentContractError

__all__ = ["SPLITS", "TextEnv", "as_index"]


class TextEnv(OptionalMethods, gymnasium.Env[str, int]):
    """A Gymnasium environment whose observation is text and whose action is an index into `info["actions"]`.

    A world implements three methods: `reset`, `step` and `tasks`. An expert, a teacher, a curriculum and panels are
    optional (`OptionalMethods`). `SimpleTextEnv` does the bookkeeping below and is the easier base class.

    All randomness comes from `self.np_random`: equal seeds, options and actions give equal bytes, whatever else runs.

    Example:
        A coin lies under one of three cups; look until you find it.

        >>> from reflect_rl.records import StopReason
        >>> class Cups(TextEnv):
        ...     task_text = "Find the coin."
        ...     actions = ("left", "middle", "right")
        ...
        ...     def __init__(self, horizon=3):
        ...         self.horizon, self.over = horizon, True
        ...
        ...     def tasks(self, split):
        ...         self.check_split(split)
        ...         return {"train": ("coin-0", "coin-1"), "valid": ("coin-2",), "test": ("coin-3",)}[split]
        ...
        ...     def reset(self, *, seed=None, options=None):
        ...         super().reset(seed=seed)
        ...         self.over = True
        ...         options = {"task": self.np_random.choice(self.tasks("train")), **(options or {})}
        ...         known = [{"task": task} for split in ("train", "valid", "test") for task in self.tasks(split)]
        ...         if options not in known:
        ...             raise EnvironmentContractError(f"options is {options}; there are the tasks coin-0 to coin-3.")
        ...         self.coin, self.steps, self.over = int(options["task"][-1]) % 3, 0, False
        ...         return "Three cups.", {"actions": self.actions}
        ...
        ...     def step(self, action):
        ...         choice = self.check_choice(action, () if self.over else self.actions)
        ...         self.steps += 1
        ...         found, late = choice == self.coin, self.steps == self.horizon
        ...         self.over, info = found or late, {"actions": self.actions}
        ...         if self.over:
        ...             info |= {"success": found, "stop": StopReason.SUCCESS if found else StopReason.HORIZON}
        ...         return "A coin!" if found else "Nothing.", float(found), found, late and not found, info
        >>> env = Cups()
        >>> env.reset(options={"task": "coin-2"})
        ('Three cups.', {'actions': ('left', 'middle', 'right')})
        >>> env.step(2)[:4]
        ('A coin!', 1.0, True, False)
    """

    task_text: ClassVar[str] = ""
    """The rules and the goal, told to the player once, before everything else."""
    horizon: int = 20
    """Steps after which an episode is truncated (StopReason.HORIZON)."""

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode. Call `super().reset(seed=seed)` first: it seeds `self.np_random`.

        Args:
            seed: Seeds the world's random numbers; None continues with the generator there is.
            options: `{"task": name}` begins exactly this task, `{"stage": name}` an easier version of it (see
                `stages`). Without a task, the world draws one from "train".

        Returns:
            The observation, a non-empty string, and the info. `info["actions"]` is a non-empty tuple of distinct
            strings: the actions admissible now, in a fixed order.

        Raises:
            EnvironmentContractError: For an unknown option, task or stage.
        """
        return super().reset(seed=seed)  # type: ignore[safe-super]

    def step(self, action: int) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Do an action.

        Args:
            action: An index into the latest `info["actions"]`.

        Returns:
            Gymnasium's five: observation, reward, terminated, truncated, info. `info["actions"]` is always there.
            When the episode ends, `info["stop"]` is a StopReason (HORIZON if truncated, another if terminated) and
            `info["success"]` a bool.

        Raises:
            EnvironmentContractError: For anything but an admissible index, which changes nothing, and for a step
                before `reset` or after the end.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step(action).")

    def tasks(self, split: str) -> tuple[str, ...]:
        """Name the tasks of a split.

        Args:
            split: "train", "valid" or "test".

        Returns:
            At least one name, always the same ones; no name is in two splits.

        Raises:
            EnvironmentContractError: For another split (`self.check_split(split)` raises it).
        """
        raise NotImplementedError(f"{type(self).__name__} has no tasks(split).")

    def check_choice(self, choice: object, actions: tuple[str, ...]) -> int:
        """Validate the argument of `step`.

        Args:
            choice: What `step` was given.
            actions: The actions admissible now.

        Returns:
            The choice as an index into `actions`.

        Raises:
            EnvironmentContractError: If it is none.
        """
        index = as_index(choice)
        if not 0 <= index < len(actions):
            raise EnvironmentContractError(
                f"step() was given {choice!r}; it takes an index from 0 to {len(actions) - 1} into the admissible "
                f"actions ({', '.join(actions[:8])}{', ...' if len(actions) > 8 else ''})."
            )
        return index

    @staticmethod
    def check_split(split: str) -> None:
        """Raise EnvironmentContractError unless this is the name of a split."""
        if split not in SPLITS:
            raise EnvironmentContractError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")


def as_index(value: object) -> int:
    """A whole number of Python or numpy as an int; -1 for anything else, bools included."""
    if type(value) is int:
        return value
    try:
        return -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return -1
