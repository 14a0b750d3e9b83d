"""A chat server that misbehaves as real ones do, and keeps books with which a client's own are compared."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from reflect_rl.bench.chat_server import ChatServer, completion, response

PASSING = ("429", "500", "503", "cut", "hang", "malformed", "trickle")
"""Faults that pass: the call is tried again."""
LASTING = ("empty", "filter", "filtered")
"""Faults that no retry helps against. The first and the last are paid for all the same."""


class FakeServer(ChatServer):
    """Answers with `reply(request)`; bills an answer when it has been written whole.

    fault: the fault of a call by (last message, number of the try from 0); None is a good answer. hold_at: number of
    billed answers after which all calls wait until `release`, and are then cut.

    Attributes:
        calls: requests by last message. paths: of all requests. billed: answers by last message.
        tokens: (prompt, completion) billed.
    """

    def __init__(
        self,
        fault: Callable[[str, int], str | None] = lambda text, tried: None,
        reply: Callable[[dict[str, Any]], str] = lambda request: f"Answer to {request['messages'][-1]['content']}",
        model: str = "m",
        key: str | None = None,
        delay: float = 0.0,
        port: int = 0,
    ) -> None:
        super().__init__(delay)
        self.fault, self.reply, self.model, self.key, self.port = fault, reply, model, key, port
        self.calls: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()
        self.tokens = [0, 0]
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.most_at_once = self._at_once = 0
        self.hold_at: int | None = None
        self._released = asyncio.Event()

    def release(self) -> None:
        """End what waits: its client is gone."""
        self.hold_at = None
        self._loop.call_soon_threadsafe(self._released.set)

    async def respond(self, request: dict[str, Any], headers: Mapping[str, str], writer: asyncio.StreamWriter) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await self._respond(request, headers, writer)
        finally:
            self._at_once -= 1

    async def _respond(self, request: dict[str, Any], headers: Mapping[str, str], writer: asyncio.StreamWriter) -> None:
        text = request["messages"][-1]["content"]
        tried = self.calls[text]
        self.calls[text] += 1
        self.requests.append(request)
        self.paths.append(headers[":path"])
        await asyncio.sleep(self.delay)
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            given = headers.get("authorization", "").removeprefix("Bearer ")
            writer.write(error(401, f"Incorrect API key provided: {given}."))
        elif request["model"] != self.model:
            writer.write(error(404, f"The model `{request['model']}` does not exist."))
        elif self.hold_at is not None and self.billed.total() >= self.hold_at:
            await self._released.wait()
            writer.close()
        else:
            await self._faulty(self.fault(text, tried), request, text, writer)

    def completed(self, request: dict[str, Any]) -> dict[str, Any]:
        """A good answer."""
        return completion(self.reply(request), 7 + len(request["messages"][-1]["content"]), 5)

    async def _faulty(
        self, fault: str | None, request: dict[str, Any], text: str, writer: asyncio.StreamWriter
    ) -> None:
        good = self.completed(request)
        if fault in ("429", "500", "503"):
            writer.write(error(int(fault), "Try later.", {"retry-after": "0.02"} if fault == "429" else {}))
        elif fault == "cut":
            writer.write(response(good)[:60])
            writer.close()
        elif fault == "hang":
            await asyncio.sleep(30)
        elif fault == "malformed":
            writer.write(response(b'{"choices": [{"mess'))
        elif fault == "trickle":
            for byte in response(good):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
        elif fault == "filter":
            writer.write(error(400, "The response was filtered.", code="content_filter"))
        else:
            if fault == "empty":
                good["choices"] = []
            elif fault == "filtered":
                good["choices"][0] |= {
                    "message": {"role": "assistant", "content": ""},
                    "finish_reason": "content_filter",
                }
            writer.write(response(good))
            self.billed[text] += 1
            self.tokens[0] += good["usage"]["prompt_tokens"]
            self.tokens[1] += good["usage"]["completion_tokens"]


def error(status: int, message: str, headers: Mapping[str, str] | None = None, code: str | None = None) -> bytes:
    return response({"error": {"message": message, "type": "error", "param": None, "code": code}}, status, headers)
