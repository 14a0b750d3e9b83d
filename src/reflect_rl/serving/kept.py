"""Values by name, for a while: the least recently used and the idle ones are dropped."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A bounded table of values that expire. Not thread-safe.

    Args:
        most: maximum number of values.
        idle_seconds: a value is dropped if it was not used for so long.
        dropped: is given each value that is dropped.
        clock: the time in seconds.
        most_bytes: maximum size of all values together.
        size: the size of a value in bytes, when it is put.
    """

    def __init__(
        self,
        most: int,
        idle_seconds: float,
        dropped: Callable[[Value], object] = lambda value: None,
        clock: Callable[[], float] = time.monotonic,
        most_bytes: int = 0,
        size: Callable[[Value], int] = lambda value: 0,
    ) -> None:
        self._most = most
        self._idle_seconds = idle_seconds
        self._dropped = dropped
        self._clock = clock
        self._most_bytes = most_bytes
        self._size = size
        self._bytes = 0
        self._values: OrderedDict[str, tuple[float, Value, int]] = OrderedDict()

    def __len__(self) -> int:
        self.expire()
        return len(self._values)

    def get(self, name: str) -> Value | None:
        """The value, which counts as used; None if there is none, or no longer."""
        self.expire()
        if name not in self._values:
            return None
        _, value, size = self._values.pop(name)
        self._values[name] = self._clock(), value, size
        return value

    def put(self, name: str, value: Value) -> None:
        """Keep a value, if it is not too large alone. One that is replaced is not `dropped`."""
        if name in self._values:
            self._bytes -= self._values.pop(name)[2]
        size = self._size(value)
        self._values[name] = self._clock(), value, size
        self._bytes += size
        self.expire()
        while len(self._values) > self._most or self._bytes > self._most_bytes:
            self._drop_oldest()

    def expire(self) -> None:
        """Drop what is idle, as every use does."""
        while self._values and self._clock() - next(iter(self._values.values()))[0] > self._idle_seconds:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (_, value, size) = self._values.popitem(last=False)
        self._bytes -= size
        self._dropped(value)
