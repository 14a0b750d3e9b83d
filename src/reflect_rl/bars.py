"""Visible progress: bars with rate and remaining time in a terminal or notebook, and occasional lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TextIO

from reflect_rl.progress import Bar, Progress

QUIET_SECONDS = 15.0
"""Minimum time between two lines of a bar without a terminal."""


class Bars(Progress):
    """Progress on stderr, which leaves stdout to the results. With TERM=dumb there are lines instead of bars.

    Warnings are yellow on a terminal. A non-empty NO_COLOR or FORCE_COLOR turns colour off or on.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = not os.environ.get("NO_COLOR") and (self.terminal or bool(os.environ.get("FORCE_COLOR")))

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Bar]:
        options: dict[str, Any] = {"desc": what, "total": total, "initial": done, "unit": f" {unit}"}
        if self.terminal:
            from tqdm import tqdm

            options |= {"file": self.stream, "dynamic_ncols": True, "mininterval": 0.2}
        elif _in_notebook():
            from tqdm.notebook import tqdm
        else:
            line = _Lines(self.stream, what, total, unit, done)
            yield line
            line.finish()
            return
        with tqdm(**options) as bar:
            yield _TqdmBar(bar)

    def say(self, text: str) -> None:
        self._write(text)

    def warn(self, text: str) -> None:
        self._write(f"\033[33mwarning:\033[0m {text}" if self.colour else f"warning: {text}")

    def _write(self, text: str) -> None:
        if self.terminal:
            from tqdm import tqdm

            tqdm.write(text, file=self.stream)  # above the bars
        else:
            print(text, file=self.stream, flush=True)


def _in_notebook() -> bool:
    """Whether this is a notebook kernel that can show widgets."""
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None


class _TqdmBar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def update(self, n: int = 1) -> None:
        if n:
            self._bar.update(n)
        else:
            self._bar.refresh()

    def note(self, **values: Any) -> None:
        self._bar.set_postfix({name: _short(value) for name, value in values.items()}, refresh=False)


class _Lines:
    """A bar written as occasional lines."""

    def __init__(self, stream: TextIO, what: str, total: int, unit: str, done: int) -> None:
        self.stream, self.what, self.total, self.unit, self.done = stream, what, total, unit, done
        self.first = done
        self.notes = ""
        self.started = self.last = time.monotonic()

    def update(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last >= QUIET_SECONDS and self.done < self.total:
            self.last = now
            self._write(self._pace(self.done - self.first, now - self.started))

    def note(self, **values: Any) -> None:
        self.notes = "".join(f", {name} {_short(value)}" for name, value in values.items())

    def finish(self) -> None:
        self._write(_duration(time.monotonic() - self.started))

    def _pace(self, made: int, seconds: float) -> str:
        if not made:
            return f"{_duration(seconds)} so far"
        rate = f"{_short(made / seconds)} {self.unit}/s" if made > seconds / 10 else f"{_duration(seconds / made)} each"
        return f"{rate}, {_duration((self.total - self.done) * seconds / made)} left"

    def _write(self, text: str) -> None:
        count = f"{self.done}/{self.total} {self.unit}"
        print(f"{self.what}: {count}, {text}{self.notes}", file=self.stream, flush=True)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
