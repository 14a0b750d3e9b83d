"""A process for ALFWorld's own engine, with a time-out for every request.

The engine is native code that keeps global state, may call `sys.exit` on a malformed problem, and can take minutes, so
it never runs in the caller's process.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reflect_rl.errors import ReflectRLError

PACKAGES = ("textworld", "alfworld", "fast_downward")
WORKER = "reflect_rl.envs.alfworld.real_worker"
TAIL = 400
"""Characters of the engine's own last words in a message."""
PATIENCE = 2.0
"""Seconds to end by itself, before it is killed."""


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
        self._end: weakref.finalize[Any, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""

    @property
    def folder(self) -> Path:
        """A folder of this process's own, for the game it plays; gone after `close`."""
        return Path(self._folder.name)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The number of the process, if one runs."""
        return self._process.pid if self._process is not None and self.alive else None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its reply; starts the process if none runs.

        Raises RealEngineError if the engine reports an error (the process goes on), crashes or takes too long (it is
        then ended, and the next request starts another).
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request, allow_nan=False).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            raise self._crashed(request) from error
        reply = json.loads(self._line(process, request))
        if "error" in reply:
            why = f"{reply['error']}: {' '.join(reply['message'].split())}".removesuffix(": ")
            raise RealEngineError(
                f"ALFWorld's own engine refused to {request['do']} the game ({why[:TAIL]}). "
                "A game that it cannot load is damaged or not one of ALFWorld's."
            )
        return reply

    def end(self) -> None:
        """End the process, if one runs. Another request starts a new one."""
        if self._end is not None:
            self._end()
        self._process, self._end, self._received, self.player = None, None, b"", None

    def close(self) -> None:
        """End the process and remove its folder. Safe to call twice."""
        self.end()
        self._folder.cleanup()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self.alive:
            return self._process
        self.end()
        command = [sys.executable, "-P", "-m", WORKER, *(["--patched"] if self.patched else [])]
        with (self.folder / "stderr.txt").open("wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(self.folder),
                start_new_session=True,  # an interrupt at the keyboard is the caller's to handle
            )
        self._process = process
        self._end = weakref.finalize(self, _end, process)
        return process

    def _line(self, process: subprocess.Popen[bytes], request: dict[str, Any]) -> bytes:
        assert process.stdout is not None
        deadline = time.monotonic() + self.timeout
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.end()
                    raise RealEngineError(
                        f"ALFWorld's own engine did not {request['do']} within {self.timeout:g} seconds and was ended. "
                        f"Give a longer timeout, or use the fast engine."
                    )
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._crashed(request)
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _crashed(self, request: dict[str, Any]) -> RealEngineError:
        process = self._process
        self.end()
        code = process.returncode if process is not None else None
        words = (self.folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip()
        said = f" Its last words: {words[-TAIL:]}" if words else ""
        return RealEngineError(f"ALFWorld's own engine ended (exit code {code}) at a {request['do']}.{said}")


def _environment(folder: Path) -> dict[str, str]:
    """The worker's variables: this very package, no random hashes, and no folder made in the user's home."""
    package = Path(__file__).resolve().parents[3]
    path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "ALFWORLD_DATA": str(folder)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process, by force if it does not end by itself, and wait for it."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # it leads a session: with the processes that a batch started
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
