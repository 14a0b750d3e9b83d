"""Throughput of the client of model servers, relative to a plain load loop, against the same server in one run.

The server has no model: it answers each call after a fixed delay, so its limit is concurrency / delay. The plain loop
sends the same calls with httpx and does nothing else; the client also counts, retries, and stores each answer.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reflect_rl.bench.chat_server import ChatServer
from reflect_rl.model_servers.model import ServedModel
from reflect_rl.model_servers.records import Ask, Message
from reflect_rl.progress import Progress
from reflect_rl.settings.server import ServerSettings

CALLS = 1280
CONCURRENCY = 64
DELAY = 0.5
"""Seconds: a short answer of a fast model."""
REPEATS = 3
MODEL = "none"


def bench_client(
    progress: Progress, calls: int = CALLS, delay: float = DELAY, repeats: int = REPEATS
) -> dict[str, Any]:
    """Calls per second of both sides: the median over repeats, which alternate."""
    plain, ours = [], []
    with _server(delay) as base_url, progress.bar("served", 2 * repeats, "passes") as bar:
        for _ in range(repeats):
            plain.append(calls / asyncio.run(_plain(base_url, calls)))
            bar.update()
            ours.append(calls / _client(base_url, calls))
            bar.update()
    ratios = [one / other for one, other in zip(ours, plain, strict=True)]
    return {
        "calls": calls,
        "concurrency": CONCURRENCY,
        "delay_seconds": delay,
        "server_limit": CONCURRENCY / delay,
        "plain_calls_per_second": statistics.median(plain),
        "client_calls_per_second": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def client_table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    return (
        f"{figures['calls']} calls, {figures['concurrency']} at once, {figures['delay_seconds']:g} s each: the server "
        f"allows {figures['server_limit']:.1f} calls/s\n"
        f"plain httpx loop  {figures['plain_calls_per_second']:.1f} calls/s\n"
        f"client            {figures['client_calls_per_second']:.1f} calls/s, every answer stored\n"
        f"ratio             {figures['ratio']:.3f} (of each pair: {', '.join(f'{r:.3f}' for r in figures['ratios'])})"
    )


@contextmanager
def _server(delay: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(delay, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        here.send("stop")
        process.join(10)


def _serve(delay: float, pipe: Connection) -> None:
    with ChatServer(delay) as server:
        pipe.send(server.base_url)
        pipe.recv()


def _asks(calls: int) -> list[Ask]:
    return [Ask((Message("user", f"question {number}"),), 16) for number in range(calls)]


async def _plain(base_url: str, calls: int) -> float:
    """Seconds of a loop that sends all calls and parses the answers."""
    import httpx

    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        waiting = iter(_asks(calls))

        async def work() -> None:
            for ask in waiting:
                body = {"model": MODEL, "messages": [message._asdict() for message in ask.messages]}
                response = await client.post(f"{base_url}/chat/completions", json=body | {"max_tokens": ask.max_tokens})
                assert response.json()["choices"][0]["message"]["content"]

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return time.perf_counter() - started


def _client(base_url: str, calls: int) -> float:
    """Seconds of `ServedModel`, with its store on disk."""
    settings = ServerSettings(model=MODEL, base_url=base_url, concurrency=CONCURRENCY)
    with tempfile.TemporaryDirectory() as folder, ServedModel(settings, Path(folder) / "answers.sqlite") as model:
        started = time.perf_counter()
        model.ask(_asks(calls))
        return time.perf_counter() - started
