"""A world of your own: a corridor in which a key has to be fetched before the door opens.

reflect-rl check examples.my_environment:Corridor
reflect-rl play examples.my_environment:Corridor
"""

from reflect_rl import SimpleTextEnv, StopReason

CELLS = 8
# A task is a name for one start: where the player, the key and the door are. 8 * 7 * 6 = 336 of them.
STARTS = [(you, key, door) for you in range(CELLS) for key in range(CELLS) for door in range(CELLS)]
TASKS = [f"you{y}-key{k}-door{d}" for y, k, d in STARTS if len({y, k, d}) == 3]
# Every fifth task is kept for testing, every fifth for validation, the others are for training.
SPLITS = {"train": (0, 2, 4), "valid": (1,), "test": (3,)}


class Corridor(SimpleTextEnv):
    """Fetch the key K, then open the door D."""

    task_text = "Walk to the key K, take it, walk to the door D, open it."  # told once, before everything else
    actions = ("left", "right", "take key", "open door")
    teachers = ("next",)

    def tasks(self, split):
        self.check_split(split)
        return tuple(task for index, task in enumerate(TASKS) if index % 5 in SPLITS[split])

    def begin(self, task, stage):
        self.you, self.key, self.door = (int(part[-1]) for part in task.split("-"))
        self.has_key = False

    def observe(self):
        cells = ["."] * CELLS
        cells[self.door], cells[self.you] = "D", "Y"
        if not self.has_key:
            cells[self.key] = "X" if self.key == self.you else "K"  # X: you stand on the key
        return "".join(cells) + (" with key" if self.has_key else " no key")

    def act(self, choice):
        action = self.actions[choice]
        if action in ("left", "right"):
            self.you = min(max(self.you + (1 if action == "right" else -1), 0), CELLS - 1)
        elif action == "take key" and self.you == self.key and not self.has_key:
            self.has_key = True
            return 0.5, None
        elif action == "open door" and self.has_key and self.you == self.door:
            return 1.0, StopReason.SUCCESS
        return -0.02, None  # the reward of a step, and why the episode ended: None while it goes on

    # From here on optional. An expert to learn from ...
    def expert(self):
        target = self.door if self.has_key else self.key
        if self.you == target:
            return 3 if self.has_key else 2
        return 1 if self.you < target else 0

    # ... and a teacher that writes reflections, from facts about the state.
    def describe(self):
        target = self.door if self.has_key else self.key
        return {"goal": "door" if self.has_key else "key", "offset": target - self.you}

    @classmethod
    def teach(cls, facts, style):
        if style not in cls.teachers:
            return super().teach(facts, style)  # raises the error that names the styles there are
        side = "here" if not facts["offset"] else "right" if facts["offset"] > 0 else "left"
        return f"The {facts['goal']} is {side}."
