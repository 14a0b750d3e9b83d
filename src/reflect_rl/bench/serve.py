"""Speed, memory and faithfulness of `reflect-rl serve`: a real server process under the load of many clients.

An exported copy of the agent is served, so that nothing is known beforehand. This process plays greedy episodes with
`Agent.act`; then CLIENTS clients at once replay them over HTTP, each episode in a session of its own, again and again.
Clients and server share the machine, so latencies include the clients' own work.

- differ: answers that are not, to the bit, those of `Agent.act`.
- first: the first pass over the episodes, in which the server meets its states for the first time; `all`: all requests.
- memory_mb: resident memory of the server before, after the first pass, half-way, and at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from reflect_rl.envs.checked import advance, begin, facts_of, tasks_of
from reflect_rl.errors import ReflectRLError
from reflect_rl.lm.torch_setup import torch_set_up
from reflect_rl.pipeline.export import export_agent
from reflect_rl.players.agent import Agent
from reflect_rl.players.context import Context
from reflect_rl.progress import Bar, Progress

CLIENTS = 64
EPISODES = 200
START_SECONDS = 120
MEMORY = "process_resident_memory_bytes"
TIMES = "before", "first", "half", "end"


class Turn(NamedTuple):
    """A request, without its session, and what `Agent.act` answers."""

    ask: dict[str, Any]
    answer: dict[str, Any]


def bench_serve(run: str | Path, requests: int, progress: Progress) -> dict[str, Any]:
    """Measure a server of this run with so many requests; about a minute for 50,000 with small models."""
    with tempfile.TemporaryDirectory() as folder:
        exported = export_agent(Path(run), Path(folder) / "agent", Progress())
        episodes = play_alone(exported)
        with served(exported) as port:
            return {
                **asyncio.run(_load(port, episodes, requests, progress)),
                "episodes": len(episodes),
                "states": len({json.dumps(turn.ask, allow_nan=False) for turns in episodes for turn in turns}),
                "machine": {"cpus": os.cpu_count(), "python": sys.version.split()[0]},
            }


def play_alone(exported: Path) -> list[list[Turn]]:
    """Greedy episodes of the agent on its own, as the requests and answers of a server."""
    agent = Agent.load(exported)
    env = Context(agent.settings).make_env()
    tasks = [task for split in ("test", "valid", "train") for task in tasks_of(env, split)][:EPISODES]
    with torch_set_up(agent.settings.compute):
        return [list(_episode(agent, env, task)) for task in tasks]


def _episode(agent: Agent, env: Any, task: str) -> Iterator[Turn]:
    agent.reset()
    observation, actions, _ = begin(env, 0, {"task": task})
    stop = None
    while stop is None:
        facts = facts_of(env) if agent.reads_facts else {}
        decision = agent.act(observation, actions, facts)
        yield Turn({"observation": observation, "actions": actions, "facts": facts}, asdict(decision))
        observation, actions, _, stop = advance(env, decision.choice)


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """The port of a server process, which is stopped in the end. Raises ReflectRLError if it does not start."""
    command = [sys.executable, "-m", "reflect_rl", "serve", str(folder), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "REFLECT_RL_TOKEN"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said, env=environment)
        try:
            yield _port(process, said)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)


def _port(process: subprocess.Popen[bytes], said: Any) -> int:
    given_up = time.monotonic() + START_SECONDS
    text = ""
    while process.poll() is None and time.monotonic() < given_up:
        said.seek(0)
        text = said.read()
        if found := re.search(r"served at http://[^ ]+:(\d+)", text):
            return int(found[1])
        time.sleep(0.1)
    raise ReflectRLError(f"The server did not start: {text.strip() or 'it said nothing'}")


class Client:
    """A connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and body of the answer."""
        sent = b"" if body is None else json.dumps(body, allow_nan=False).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"content-length: (\d+)", answer, re.IGNORECASE)
        return int(answer.split()[1]), await self._reader.readexactly(int(length[1]) if length else 0)

    def close(self) -> None:
        self._writer.close()


async def meter(port: int, name: str) -> float | None:
    """A value of the server's `/metrics`; None where the system does not tell it."""
    client = await Client.connect(port)
    _, text = await client.ask("GET", "/metrics")
    client.close()
    found = re.search(rf"^{name} (\S+)", text.decode(), re.MULTILINE)
    return float(found[1]) if found else None


async def _load(port: int, episodes: Sequence[Sequence[Turn]], requests: int, progress: Progress) -> dict[str, Any]:
    clients = [await Client.connect(port) for _ in range(CLIENTS)]
    first = sum(map(len, episodes))
    memory = [await meter(port, MEMORY)]
    seconds: list[float] = []
    numbers = count()
    differ, spent, passes = 0, 0.0, None
    with progress.bar("serve", requests, "requests") as bar:
        for until in (first, requests // 2, requests):
            started = time.perf_counter()
            playing = [_client(client, episodes, numbers, until, seconds, bar) for client in clients]
            differ += sum(await asyncio.gather(*playing))
            spent += time.perf_counter() - started
            memory.append(await meter(port, MEMORY))
            if until == first:
                passes = await meter(port, "reflect_rl_pass_states_count")
    for client in clients:
        client.close()
    return {
        "clients": CLIENTS,
        "differ": differ,
        "requests_per_second": len(seconds) / spent,
        "first": latencies(seconds[:first]) | {"states_per_pass": first / (passes or 1)},
        "all": latencies(seconds),
        "memory_mb": {name: value and value / 1e6 for name, value in zip(TIMES, memory, strict=True)},
    }


async def _client(
    client: Client,
    episodes: Sequence[Sequence[Turn]],
    numbers: Iterator[int],
    until: int,
    seconds: list[float],
    bar: Bar,
) -> int:
    """Replay episodes until there are so many `seconds`; return the number of answers that differ."""
    differ = 0
    while len(seconds) < until:
        number = next(numbers)
        for turn in episodes[number % len(episodes)]:
            started = time.perf_counter()
            status, answer = await client.ask("POST", "/act", {**turn.ask, "session": f"episode {number}"})
            seconds.append(time.perf_counter() - started)
            bar.update()
            differ += status != 200 or not _same(json.loads(answer), turn.answer)
    return differ


def _same(answer: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return all(answer[key] == value for key, value in json.loads(json.dumps(expected, allow_nan=False)).items())


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Number, percentiles and maximum, in milliseconds."""
    parts = quantiles(seconds, n=100)
    return {
        "requests": len(seconds),
        "p50_ms": 1e3 * parts[49],
        "p99_ms": 1e3 * parts[98],
        "max_ms": 1e3 * max(seconds),
    }


def serve_table(figures: Mapping[str, Any]) -> str:
    """The results as text."""
    rows = [
        f"{name:<5}  {part['requests']:>7,} requests  p50 {part['p50_ms']:.1f} ms  p99 {part['p99_ms']:.1f} ms  "
        f"max {part['max_ms']:.0f} ms"
        for name, part in ((name, figures[name]) for name in ("first", "all"))
    ]
    memory = ", ".join(f"{name} {value or 0:.0f}" for name, value in figures["memory_mb"].items())
    return "\n".join(
        [
            *rows,
            f"{figures['clients']} clients, {figures['requests_per_second']:.0f} requests/s; "
            f"{figures['first']['states_per_pass']:.1f} states a pass at first",
            f"{figures['differ']} answers differ from Agent.act",
            f"memory of the server in MB: {memory}",
        ]
    )
