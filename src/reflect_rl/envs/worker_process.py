"""Both ends of a process that answers requests, one JSON object a line, with a time-out for each.

Whatever the process prints, reads from its standard input, forks or leaks stays its own affair: requests and replies
go through pipes that nothing else knows, and the process and all that it started are killed together; also when the
process that it works for ends, however that ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

GLANCE = 0.1
"""Seconds between looks at whether the process lives: the end of its pipe does not tell if a fork holds it open."""
PATIENCE = 2.0
"""Seconds to end by itself, before it is killed."""
MOST_WORDS = 1_000_000
"""Bytes of the process's own output that are kept."""
TAIL = 4000
"""Characters of its last words."""
WHERE = signal.SIGUSR2
"""Asks a process that hangs for the line it is at."""
BOOT = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv.pop()); importlib.import_module(sys.argv[1]).main()"
)
"""Runs a module's `main` with this process's own path, which is not left in the environment of what it starts."""

_JSON = json.JSONEncoder(allow_nan=False)


class ProcessLostError(Exception):
    """A process ended, or took too long and was killed.

    code: its exit code; None if it took too long. words: the last it wrote on standard output or error.
    """

    def __init__(self, code: int | None, words: str) -> None:
        super().__init__(code, words)
        self.code, self.words = code, words


class WorkerProcess:
    """A process that runs the function `main` of a module, which calls `serve`.

    timeout: seconds for a reply. variables: environment variables of its own.
    """

    def __init__(
        self, module: str, *arguments: str, timeout: float, variables: Mapping[str, str] | None = None
    ) -> None:
        self.timeout = timeout
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
        (self._replies, written), (watched, life) = os.pipe(), os.pipe()
        path = _JSON.encode([folder for folder in sys.path if folder])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, module, *arguments, str(watched), path],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=self._words,
            env=os.environ | dict(variables or {}),
            pass_fds=(watched,),
            start_new_session=True,  # an interrupt at the keyboard is the caller's to handle
        )
        os.close(written)
        os.close(watched)
        weakref.finalize(self, os.close, self._replies)
        self._end = weakref.finalize(self, _end, self._process, life)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)
        self._received = b""
        self.ended = False
        """Whether it was killed, or asked to end."""

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(self, **request: Any) -> Any:
        """Send a request and wait for the reply. Raises as `send` and `receive` do."""
        self.send(**request)
        return self.receive(self.timeout)

    def send(self, **request: Any) -> None:
        """Send a request. Raises TypeError and ValueError for what JSON cannot hold, before anything is sent."""
        line = _encoded(request)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead: `receive` says so
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def receive(self, timeout: float) -> Any:
        """Wait for the reply to what was sent. Raises ProcessLostError; after any error the process is dead."""
        try:
            line, self._received = self._line(timeout), b""
            return json.loads(line)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End the process, and all processes that it started, at once."""
        if not self.ended:
            _kill(self._process)
        self.end()

    def end(self) -> None:
        """Ask the process to end, and kill what is left of it. Safe to call twice."""
        self.ended = True
        self._end()

    def forget_words(self) -> None:
        """Let go of what the process has written, if it is much."""
        if os.fstat(self._words.fileno()).st_size > MOST_WORDS:
            self._words.seek(0)  # for the process too: both share one place in the file
            self._words.truncate()

    def _line(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while not self._received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._hanging()
            if self._poll.poll(1000 * min(left, GLANCE)):
                chunk = os.read(self._replies, 1 << 16)
                if not chunk:
                    raise self._ended()
                self._received += chunk
            elif not self.alive:
                raise self._ended()
        return self._received

    def _hanging(self) -> ProcessLostError:
        self._process.send_signal(WHERE)
        time.sleep(GLANCE)
        return ProcessLostError(None, self._last_words())

    def _ended(self) -> ProcessLostError:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may have closed its pipe and live on
            self._process.wait(PATIENCE)
        return ProcessLostError(self._process.returncode, self._last_words())

    def _last_words(self) -> str:
        size = os.fstat(self._words.fileno()).st_size
        return os.pread(self._words.fileno(), TAIL, max(0, size - TAIL)).decode(errors="replace").strip()


def _encoded(message: Any) -> bytes:
    return _JSON.encode(message).encode() + b"\n"


def _end(process: subprocess.Popen[bytes], life: int) -> None:
    """Close the process's requests, at which it ends; kill it if it does not, and whatever it started."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    _kill(process)
    process.wait()
    os.close(life)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # they are gone
        os.killpg(process.pid, signal.SIGKILL)


class Session(Protocol):
    """What a process does with requests: `answer` gives something that JSON can hold."""

    def answer(self, request: dict[str, Any]) -> Any: ...
    def close(self) -> None: ...


def serve(begin: Callable[[], Session]) -> NoReturn:
    """The process's end: answer until the requests end, then kill what the process started, and the process."""
    faulthandler.enable()
    faulthandler.register(WHERE, all_threads=False)
    _end_with(int(sys.argv.pop()))
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # whatever is printed
    own = os.getpid()
    try:
        session = begin()
        for line in requests:
            reply = _encoded(session.answer(json.loads(line)))
            if os.getpid() != own:  # a fork that came back out of the code that made it
                os._exit(0)
            replies.write(reply)
            replies.flush()
        session.close()
    except BaseException:  # noqa: BLE001  there is nobody else to tell
        os.write(2, traceback.format_exc().encode(errors="replace"))
    os.killpg(0, signal.SIGKILL)
    os._exit(1)  # never reached


def _end_with(life: int) -> None:
    """Kill this process and all that it started when the other end of a pipe is closed.

    Linux does it by itself, even while native code holds the interpreter; elsewhere a thread does.
    """
    os.set_inheritable(life, False)
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        threading.Thread(target=lambda: (os.read(life, 1), os.killpg(0, signal.SIGKILL)), daemon=True).start()
    if select.select([life], [], [], 0)[0]:  # it was closed before
        os.killpg(0, signal.SIGKILL)
