"""A process for ALFWorld's own engine, with a time-out for every request.

The engine is native code that keeps global state, may call `sys.exit` on a malformed problem, and can take minutes, so
it never runs in the caller's process.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reflect_rl.envs.worker_process import ProcessLostError, WorkerProcess
from reflect_rl.errors import ReflectRLError

PACKAGES = ("textworld", "alfworld", "fast_downward")
WORKER = "reflect_rl.envs.alfworld.real_worker"
TAIL = 400
"""Characters of the engine's own last words in a message."""


class RealEngineError(ReflectRLError):
    """ALFWorld's own engine is not installed, refused a game, crashed, or took too long."""


def missing_packages() -> tuple[str, ...]:
    """The packages of ALFWorld's own engine that are not installed."""
    return tuple(name for name in PACKAGES if find_spec(name) is None)


def require_packages() -> None:
    """Raise RealEngineError, with the command that installs them, if packages are missing."""
    if missing := missing_packages():
        raise RealEngineError(
            f"ALFWorld's own engine is not installed (missing: {', '.join(missing)}). Run: pip install "
            f'"reflect-rl[alfworld]". The fast engine (engine="fast") gives the same texts without it.'
        )


class RealProcess:
    """One engine process, for one game at a time. Not for use by two threads at once.

    timeout: seconds a single request may take (loading a large kitchen takes about 5, on a busy machine 30).
    patched: use the shortcuts of `real_patches`, which leave every text as it is.
    """

    def __init__(self, *, timeout: float = 120.0, patched: bool = False) -> None:
        if not timeout > 0:
            raise RealEngineError(f"timeout is {timeout!r}; it is a number of seconds above 0.")
        require_packages()
        self.timeout = timeout
        self.patched = patched
        self.player: object = None
        """Whose game is loaded: loading another one takes the process over."""
        self._folder = tempfile.TemporaryDirectory(prefix="alfworld-", ignore_cleanup_errors=True)
        self._process: WorkerProcess | None = None

    @property
    def folder(self) -> Path:
        """A folder of this process's own, for the game it plays; gone after `close`."""
        return Path(self._folder.name)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """The number of the process, if one runs."""
        return self._process.pid if self._process is not None and self.alive else None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its reply; starts the process if none runs.

        Raises RealEngineError if the engine reports an error (the process goes on), crashes or takes too long (it is
        then ended, and the next request starts another).
        """
        if not self.alive:
            self.end()
            self._process = self._started()
        assert self._process is not None
        try:
            reply = self._process.ask(**request)
        except ProcessLostError as lost:
            self.end()
            raise RealEngineError(self._why(lost, request["do"])) from lost
        if "error" in reply:
            why = f"{reply['error']}: {' '.join(reply['message'].split())}".removesuffix(": ")
            raise RealEngineError(
                f"ALFWorld's own engine refused to {request['do']} the game ({why[:TAIL]}). "
                "A game that it cannot load is damaged or not one of ALFWorld's."
            )
        return reply

    def end(self) -> None:
        """End the process, if one runs. Another request starts a new one."""
        if self._process is not None:
            self._process.end()
        self._process, self.player = None, None

    def close(self) -> None:
        """End the process and remove its folder. Safe to call twice."""
        self.end()
        self._folder.cleanup()

    def _started(self) -> WorkerProcess:
        """A process without random hashes, which makes no folder in the user's home."""
        patched = ["--patched"] if self.patched else []
        variables = {"PYTHONHASHSEED": "0", "ALFWORLD_DATA": str(self.folder)}
        return WorkerProcess(WORKER, *patched, timeout=self.timeout, variables=variables)

    def _why(self, lost: ProcessLostError, what: str) -> str:
        if lost.code is None:
            return (
                f"ALFWorld's own engine did not {what} within {self.timeout:g} seconds and was ended. "
                f"Give a longer timeout, or use the fast engine."
            )
        said = f" Its last words: {lost.words[-TAIL:]}" if lost.words else ""
        return f"ALFWorld's own engine ended (exit code {lost.code}) at a {what}.{said}"
