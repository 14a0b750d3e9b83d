"""A chat server without a model, to measure and test clients: OpenAI's protocol on a free port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from threading import Event, Thread
from typing import Any, Self

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


class ChatServer:
    """Answers `POST .../chat/completions` after `delay` seconds, any number at once. A context manager."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.port = 0
        self._ready = Event()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, daemon=True)
        self._stop = asyncio.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self.serve())

    async def serve(self) -> None:
        """Serve until stopped."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def respond(self, request: dict[str, Any], headers: Mapping[str, str], writer: asyncio.StreamWriter) -> None:
        """Write the response to one request. headers: in lower case, and ":path"."""
        await asyncio.sleep(self.delay)
        writer.write(response(completion(f"Answer to {request['messages'][-1]['content']}")))
        await writer.drain()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")[:-2]
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                headers[":path"] = first.split(" ")[1]
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self.respond(json.loads(body), headers, writer)
        writer.close()


def completion(text: str, prompt_tokens: int = 10, completion_tokens: int = 5, finish: str = "stop") -> dict[str, Any]:
    """A chat completion with one choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def response(content: dict[str, Any] | bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an HTTP response."""
    body = content if isinstance(content, bytes) else json.dumps(content, allow_nan=False).encode()
    lines = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    head = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}", *(f"{name}: {value}" for name, value in lines.items())]
    return "\r\n".join([*head, "", ""]).encode() + body
