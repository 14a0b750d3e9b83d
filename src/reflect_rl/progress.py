"""Progress reports from a stage to its caller. Stages never print; the command line decides what is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Bar(Protocol):
    """One progress bar."""

    def update(self, n: int = 1) -> object:
        """Advance the bar by `n` units; 0 draws it again."""
        ...

    def note(self, **values: Any) -> None:
        """Show the latest figures next to the bar."""
        ...


class Progress:
    """Silent progress: the base class, and the default of every stage."""

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Bar]:
        """A bar of `total` units, of which an earlier process has finished `done`."""
        yield _NoBar()

    def say(self, text: str) -> None:
        """Report a message."""

    def warn(self, text: str) -> None:
        """Warn the user, for example about a fallback or a weak reflector."""

    def warn_here(self, text: str) -> None:
        """Warn about this process alone, also where it is one of several ranks."""
        self.warn(text)


class _NoBar:
    def update(self, n: int = 1) -> None:
        pass

    def note(self, **values: Any) -> None:
        pass
