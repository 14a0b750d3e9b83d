"""What a stage tells its caller while it works. Stages never print: the command line decides how this looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Bar(Protocol):
    """One progress bar."""

    def update(self, n: int = 1) -> object:
        """`n` more units are done."""
        ...

    def note(self, **values: Any) -> None:
        """Show the latest figures beside the bar."""
        ...


class Progress:
    """The silent progress: the base class, and the default of every stage."""

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Bar]:
        """A bar of `total` units, `done` of which a former process had finished."""
        yield _NoBar()

    def say(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something the user should know: a fallback, a weak reflector."""


class _NoBar:
    def update(self, n: int = 1) -> None:
        pass

    def note(self, **values: Any) -> None:
        pass
