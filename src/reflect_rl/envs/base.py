"""TextEnv: the one contract between worlds and everything else.

A TextEnv is a Gymnasium environment whose observation is text and whose action is the index of one of the actions
admissible now. What it promises:

- `reset(*, seed, options)` and the five-tuple `step(index)` of Gymnasium;
- `info["actions"]`: a non-empty tuple of distinct strings, admissible now, in a fixed order. `step` takes an index into
  it and raises `EnvironmentContractError` for anything else;
- when an episode ends (terminated or truncated), `info["success"]` (bool) and `info["stop"]` (a StopReason);
- `tasks(split)` names the tasks of "train", "valid" and "test"; `reset(options={"task": name})` makes exactly that one,
  `options={"stage": name}` one of the easier `stages` of a curriculum;
- all randomness comes from `self.np_random`: the same seed, options and actions give the same bytes.

Optional: `expert()`, `describe()`, `teach()` and `stages`, for worlds that have them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium

from reflect_rl.errors import EnvironmentContractError, TeacherError

SPLITS = ("train", "valid", "test")


class TextEnv(gymnasium.Env[str, int]):
    """Base class of every world. Subclasses write `reset`, `step` and `tasks`."""

    task_text: ClassVar[str] = ""
    """What the player is told once, before anything else: the rules and the goal."""
    horizon: int = 20
    """Steps after which an episode is truncated (StopReason.HORIZON)."""
    stages: ClassVar[tuple[str, ...]] = ()
    """Easier versions of every task, easiest first, for a curriculum; the full task is not listed."""
    teachers: ClassVar[tuple[str, ...]] = ()
    """Names of the styles that `teach` knows."""

    def tasks(self, split: str) -> tuple[str, ...]:
        """The task names of a split ("train", "valid" or "test"). Raises EnvironmentContractError for another name."""
        raise NotImplementedError

    def expert(self) -> int | None:
        """The index of a best action in the state now, or None if this world has no expert."""
        return None

    def expert_set(self) -> frozenset[int]:
        """The indices of all actions that the expert thinks equally good; empty if it knows none."""
        choice = self.expert()
        return frozenset() if choice is None else frozenset((choice,))

    def describe(self) -> Mapping[str, Any]:
        """Facts about the state now (JSON-able), from which a scripted teacher writes. Empty if there are none."""
        return {}

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """The scripted teacher: a reflection on the state that `facts` (from `describe`) belongs to.

        Raises TeacherError when the world has no such style.
        """
        known = ", ".join(cls.teachers) or "none"
        raise TeacherError(f"{cls.__name__} has no scripted teacher '{style}' (it has: {known}).")

    def panels(self) -> dict[str, tuple[str, ...]]:
        """The fixed panels of tasks to be measured on, "test" and "valid" among them; the first is the main one."""
        splits = {split: tuple(self.tasks(split)) for split in SPLITS}
        return {"all": sum(splits.values(), ()), "test": splits["test"], "valid": splits["valid"]}

    def kind(self, task: str) -> str:
        """What sort of task this is, for results by kind; the same for all if there is one kind only."""
        return ""

    def check_choice(self, choice: object, actions: tuple[str, ...]) -> int:
        """`choice` as an index into `actions`; raises EnvironmentContractError if it is none."""
        index = as_index(choice)
        if not 0 <= index < len(actions):
            raise EnvironmentContractError(
                f"step() was given {choice!r}; it takes an index from 0 to {len(actions) - 1} into the admissible "
                f"actions ({', '.join(actions[:8])}{', ...' if len(actions) > 8 else ''})."
            )
        return index

    @staticmethod
    def check_split(split: str) -> None:
        if split not in SPLITS:
            raise EnvironmentContractError(f"There is no split '{split}'; the splits are {', '.join(SPLITS)}.")


def as_index(value: object) -> int:
    """A whole number, of Python or of numpy, as an int; -1 for anything else, truths included."""
    if type(value) is int:
        return value
    try:
        return -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return -1
