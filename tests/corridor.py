"""A world small enough for tests: walk along a corridor to an item and take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reflect_rl.envs.base import TextEnv
from reflect_rl.errors import TeacherError
from reflect_rl.records import StopReason

CELLS = 6


class Corridor(TextEnv):
    """30 tasks (start, item). Taking where there is no item is dangerous. At a wall the way into it is not offered.

    slip: probability that a walk stays where it is.
    """

    task_text = "Walk to the item and take it."
    stages = ("near",)
    teachers = ("way",)

    def __init__(self, horizon: int = 8, slip: float = 0.0) -> None:
        self.horizon = horizon
        self.slip = slip

    def tasks(self, split: str) -> tuple[str, ...]:
        self.check_split(split)
        names = [f"{start}-{item}" for start in range(CELLS) for item in range(CELLS) if start != item]
        order = [names[i] for i in np.random.default_rng(3).permutation(len(names))]
        parts = {"train": order[:18], "valid": order[18:24], "test": order[24:]}
        return tuple(parts[split])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task = (options or {}).get("task") or self.tasks("train")[int(self.np_random.integers(18))]
        self._place, self._item = map(int, task.split("-"))
        if (options or {}).get("stage") == "near":
            self._place = self._item + (1 if self._item < self._place else -1)
        self._steps = 0
        return self._text(), {"actions": self._actions()}

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        name = self._actions()[self.check_choice(action, self._actions())]
        self._steps += 1
        stop = None
        if name == "take":
            stop = StopReason.SUCCESS if self._place == self._item else StopReason.DANGEROUS
        elif self.np_random.random() >= self.slip:
            self._place += 1 if name == "right" else -1
        truncated = stop is None and self._steps >= self.horizon
        info: dict[str, Any] = {"actions": self._actions()}
        if stop or truncated:
            info |= {"stop": stop or StopReason.HORIZON, "success": stop is StopReason.SUCCESS}
        reward = {StopReason.SUCCESS: 1.0, StopReason.DANGEROUS: -0.2}.get(stop, 0.0) - 0.05  # type: ignore[arg-type]
        return self._text(), reward, stop is not None, truncated, info

    def expert(self) -> int | None:
        return self._actions().index(self.describe()["way"])

    def describe(self) -> Mapping[str, Any]:
        way = "take" if self._place == self._item else "right" if self._item > self._place else "left"
        return {"way": way, "distance": abs(self._item - self._place)}

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        if style != "way":
            raise TeacherError(f"Corridor has no scripted teacher '{style}' (it has: way).")
        return f"Item {facts['distance']} away. Go {facts['way']}."

    def _actions(self) -> tuple[str, ...]:
        left = ("left",) if self._place > 0 else ()
        right = ("right",) if self._place < CELLS - 1 else ()
        return (*left, *right, "take")

    def _text(self) -> str:
        cells = ["."] * CELLS
        cells[self._item] = "i"
        cells[self._place] = "x" if self._place == self._item else "P"
        return "".join(cells)


class Telling(Corridor):
    """Its teacher says of each state what it says of no other."""

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "at": f"{self._place}-{self._item}"}

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        return f"At {facts['at']}: go {facts['way']}."


class Unguided(Corridor):
    """The same world without an expert."""

    def expert(self) -> int | None:
        return None


class Endless(Corridor):
    """Breaks the contract: never truncates."""

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._steps = -100
        return super().step(action)


class Undecided(Corridor):
    """Its expert thinks walking either way as good; after three steps it knows no way on."""

    def expert_set(self) -> frozenset[int]:
        walks = (place for place, action in enumerate(self._actions()) if action != "take")
        return frozenset(walks) if self._steps < 3 else frozenset()

    def kind(self, task: str) -> str:
        return "left" if int(task[0]) > int(task[2]) else "right"


class Scaled(Corridor):
    """The same world with rewards of another size."""

    def __init__(self, horizon: int = 8, slip: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(horizon, slip)
        self.scale = scale

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, *ends = super().step(action)
        return observation, reward * self.scale, *ends


class Flat(Corridor):
    """The same world without easier stages."""

    stages = ()


class Paid(Corridor):
    """Pays 100 more at the end, however that comes."""

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + 100 * (terminated or truncated), terminated, truncated, info
