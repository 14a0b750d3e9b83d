"""A real server in a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from end_to_end import processes
from reflect_rl.serving.limits import Limits

WAIT = 120
"""Seconds after which a process counts as hanging, on a busy machine too."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. log: what it wrote on stderr."""

    port: int
    process: BaseProcess
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=WAIT, **options)

    def send(self, data: bytes) -> bytes:
        """What the server answers to these bytes on a connection of their own, up to its end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT) as opened:
            opened.sendall(data)
            received = b""
            while piece := opened.recv(65536):
                received += piece
            return received

    def end(self, number: int = signal.SIGTERM) -> int | None:
        """Send a signal and return the exit code."""
        assert self.process.pid
        os.kill(self.process.pid, number)
        self.process.join(WAIT)
        return self.process.exitcode


@contextmanager
def served(
    run: Path, limits: Limits | None = None, token: str | None = None, cwd: Path | None = None
) -> Iterator[Server]:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        process = processes.Process(target=_serve, args=(run, limits, token, log, cwd or folder))
        process.start()
        try:
            yield Server(_port(process, log), process, log)
        finally:
            process.kill()
            process.join()


def _port(process: BaseProcess, log: Path) -> int:
    given_up = time.monotonic() + WAIT
    while process.is_alive() and time.monotonic() < given_up:
        if found := re.search(r"served at http://[^ ]+:(\d+)\n", log.read_text()):
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError(f"the server did not start: {log.read_text()}")


def _serve(run: Path, limits: Limits | None, token: str | None, log: Path, cwd: Path) -> None:
    os.dup2(os.open(log, os.O_WRONLY), 2)
    os.chdir(cwd)
    from reflect_rl.bars import Bars
    from reflect_rl.serving.server import serve

    serve(run, "127.0.0.1", 0, token, Bars(), limits)
