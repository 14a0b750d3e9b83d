"""A port, and an application that answers on it until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import WSProtocolType
from uvicorn.protocols.http.h11_impl import H11Protocol

from reflect_rl.errors import SettingsError
from reflect_rl.progress import Progress
from reflect_rl.serving.limits import Limits

KEPT_SECONDS = 30
"""Time that an idle connection is kept: longer than clients keep theirs, so that none is closed under a request."""
TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound before anything is loaded, so that a port in use is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        opened = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        why = "is in use" if number == errno.EADDRINUSE else f"cannot be used ({error})"
        raise SettingsError(f"Port {port} of {host} {why}. Choose another one with --port, or 0 for any.") from error
    with opened:
        yield opened


def run_until_stopped(
    app: ASGIApp, listening: socket.socket, name: str, limits: Limits, progress: Progress, ws: WSProtocolType = "none"
) -> None:
    """Serve an application until SIGINT or SIGTERM.

    Args:
        app: what answers.
        listening: as `bound` gives it.
        name: what is served; `progress` is told, with the address, once requests are answered.
        limits: what is accepted, kept and waited for.
        progress: see name.
        ws: uvicorn's implementation of WebSockets.
    """
    config = uvicorn.Config(
        app,
        http=_patient(limits.read_seconds),
        ws=ws,
        ws_max_size=limits.body,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEPT_SECONDS,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=math.ceil(limits.leaving_seconds),
    )
    host, port = listening.getsockname()[:2]
    progress.say(f"{name} is served at http://{f'[{host}]' if ':' in host else host}:{port}")
    _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends with exit code 0 after SIGINT and SIGTERM. After a second SIGINT it waits for no client."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would leave worlds open, and cancel the application with a traceback
            await self.lifespan.shutdown()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()  # otherwise they are raised again


def _patient(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, but a connection whose request's head is not complete in time gets 408."""

    class Patient(H11Protocol):
        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            self._wait()
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._arrived()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self.waiting is None and self.conn.their_state is h11.IDLE:
                self.waiting = self.loop.call_later(seconds, self._give_up)

        def _arrived(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

        def _give_up(self) -> None:
            self.transport.write(TOO_LATE)
            self.transport.close()

    return Patient
