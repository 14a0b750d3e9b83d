"""A bounded cache for values that can be recomputed."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(dict[Key, Value]):
    """A dict that is emptied when the sizes passed to `keep` would exceed `most`."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = self.room = most

    def keep(self, key: Key, value: Value, size: int) -> None:
        if key not in self:
            if size > self.room:
                self.clear()
                self.room = self.most
            self.room -= size
        self[key] = value
