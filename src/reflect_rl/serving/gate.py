"""The way in and out of the application: access, security headers and meters, for every request."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from reflect_rl.serving.access import refusal
from reflect_rl.serving.meters import Meters

DRAINED, DRAINING_SECONDS = 2**16, 1.0
"""Bytes of a body that is read though nobody wants it, and the time that this may take."""
HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"}


def error_response(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error, in the form that clients of the OpenAI protocol read."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": reason, "type": kind, "code": status}}, status, headers)


class Gate:
    """ASGI middleware around the application.

    Args:
        app: the application.
        token: what a client has to know; None if the server serves this machine alone.
        meters: count the requests, by the route that took them.
    """

    def __init__(self, app: ASGIApp, token: str | None, meters: Meters) -> None:
        self._app = app
        self._token = token
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._let_in(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        started, status = time.perf_counter(), 500
        unread = "transfer-encoding" in asked or asked.get("content-length", "0") != "0"

        async def receiving() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def drained() -> None:
            """Read a short rest of the body: a client that is still sending it would lose the answer."""
            if unread and int(asked.get("content-length", DRAINED + 1)) <= DRAINED:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DRAINING_SECONDS):
                        while unread and (await receiving())["type"] != "http.disconnect":
                            pass

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                await drained()
                if unread:  # the rest of the body would be taken for the next request, and may never come
                    headers["connection"] = "close"
            await send(message)

        refused = refusal(scope["path"], asked, self._token)
        try:
            if refused is None:
                await self._app(scope, receiving, sending)
            else:
                challenge = {"www-authenticate": "Bearer"} if refused[0] == 401 else None
                await error_response(*refused, challenge)(scope, receiving, sending)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._meters.requests.labels(path, status).inc()
            self._meters.seconds.labels(path).observe(time.perf_counter() - started)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket. A browser opens one for any page, and says whose page it is: only this server's own may."""
        asked = Headers(scope=scope)
        refused = refusal(scope["path"], asked, self._token)
        if "origin" in asked and _host_in(asked["origin"]) != asked.get("host"):
            refused = refused or (403, "Pages of other sites may not open sessions here.")
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await WebSocket(scope, receive, send).send_denial_response(error_response(*refused))


def _host_in(origin: str) -> str:
    """The host and port of an origin; "" if it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
