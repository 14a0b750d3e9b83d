"""The corridor, in worlds that hang, die, leak, print or fork: for worlds in processes of their own."""

# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from corridor import Corridor

MEGABYTE = 1_000_000


def hang() -> None:
    time.sleep(600)


def hang_in_native_code() -> None:
    """Never comes back to the interpreter, so that no other thread of the process runs either."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def leave() -> None:
    os._exit(3)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def close_all() -> None:
    """As daemons do: its pipes are gone, it lives on."""
    os.closerange(3, 256)
    time.sleep(600)


FAULTS = {each.__name__: each for each in (hang, hang_in_native_code, leave, crash, close_all)}


class Faulty(Corridor):
    """Has a fault in one task.

    fault: which of FAULTS. task: in which task ("": in all). at: in the reset (0), or in a step, from 1. marks: a
    folder that counts the faults, as files. most: how often it happens at all.
    """

    def __init__(
        self,
        horizon: int = 8,
        slip: float = 0.0,
        fault: str = "leave",
        task: str = "",
        at: int = 1,
        marks: str = "",
        most: int = 1000,
    ) -> None:
        super().__init__(horizon, slip)
        self.fault, self.bad, self.at, self.marks, self.most = fault, task, at, marks, most

    def panels(self) -> dict[str, tuple[str, ...]]:
        return {"test": self.tasks("test"), "valid": self.tasks("valid")}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        told = super().reset(seed=seed, options=options)
        self.now = (options or {}).get("task", "")
        self._fail_at(0)
        return told

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._fail_at(self._steps + 1)
        return super().step(action)

    def _fail_at(self, step: int) -> None:
        if step != self.at or self.bad not in ("", self.now):
            return
        if self.marks:
            before = len(list(Path(self.marks).iterdir()))
            if before >= self.most:
                return
            Path(self.marks, f"{before}-{os.getpid()}").touch()
        FAULTS[self.fault]()


class Rude(Corridor):
    """Prints, reads, leaks a megabyte and forks in every step: one child comes back, one stays."""

    kept: list[bytes] = []  # noqa: RUF012  a leak is one because it is shared

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        sys.stdout.write('{"value": 1}\n' * 10)
        sys.stdout.flush()
        os.write(1, b"\x00\xff not json\n")
        subprocess.run(["echo", "more"], check=True)
        assert sys.stdin.read() == ""
        self.kept.append(os.urandom(MEGABYTE))
        os.fork()
        subprocess.Popen(["sleep", "600"])
        return super().step(action)
