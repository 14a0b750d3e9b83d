"""The corridor of the README as a world to measure on: fetch a key, then open a door."""

from __future__ import annotations

from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.records import StopReason

CELLS = 8
STARTS = [(you, key, door) for you in range(CELLS) for key in range(CELLS) for door in range(CELLS)]
TASKS = [f"you{you}-key{key}-door{door}" for you, key, door in STARTS if len({you, key, door}) == 3]
SPLITS = {"train": (0, 2, 4), "valid": (1,), "test": (3,)}
"""The tasks of each split, by index modulo 5."""


class Corridor(SimpleTextEnv):
    """Fetch the key K, then open the door D."""

    task_text = "Walk to the key K, take it, walk to the door D, open it."
    actions = ("left", "right", "take key", "open door")

    def tasks(self, split: str) -> tuple[str, ...]:
        self.check_split(split)
        return tuple(task for index, task in enumerate(TASKS) if index % 5 in SPLITS[split])

    def begin(self, task: str, stage: str | None) -> None:
        self.you, self.key, self.door = (int(part[-1]) for part in task.split("-"))
        self.has_key = False

    def observe(self) -> str:
        cells = ["."] * CELLS
        cells[self.door], cells[self.you] = "D", "Y"
        if not self.has_key:
            cells[self.key] = "X" if self.key == self.you else "K"
        return "".join(cells) + (" with key" if self.has_key else " no key")

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        action = self.actions[choice]
        if action in ("left", "right"):
            self.you = min(max(self.you + (1 if action == "right" else -1), 0), CELLS - 1)
        elif action == "take key" and self.you == self.key and not self.has_key:
            self.has_key = True
            return 0.5, None
        elif action == "open door" and self.has_key and self.you == self.door:
            return 1.0, StopReason.SUCCESS
        return -0.02, None
