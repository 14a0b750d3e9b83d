"""Any world as an OpenEnv server: sessions over WebSockets, each with a world of its own.

A message either way is JSON with a type and data, as clients of https://github.com/meta-pytorch/OpenEnv send them.
OpenEnv's POST /reset and /step, which forget the episode between two requests, are left out.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from reflect_rl import __version__
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, tasks_of
from reflect_rl.envs.promises import BrokenPromiseError
from reflect_rl.errors import ReflectRLError
from reflect_rl.progress import Progress
from reflect_rl.records import CHECKED, StopReason, read_record
from reflect_rl.seeding import stream
from reflect_rl.serving.gate import Gate
from reflect_rl.serving.limits import Limits
from reflect_rl.serving.listening import bound, run_until_stopped
from reflect_rl.serving.meters import CONTENT_TYPE_LATEST, Meters
from reflect_rl.serving.worker import Worker, wait_for

NORMAL, SILENT, FAILED, BUSY = 1000, 1001, 1011, 1013
"""Close codes: the client is done, or said nothing for too long; the world failed; there are enough sessions."""
CLOSE_SECONDS = 1.0
"""Time that a new session waits for the world of one that has ended to be closed."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The episode to begin: a task, or a split from which the seed draws one. episode_id: the client's own name."""

    __pydantic_config__ = CHECKED

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    task: str | None = None
    split: str = "train"
    stage: str | None = None
    episode_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The action to do, word by word as in `actions`. metadata: the client's own, ignored."""

    __pydantic_config__ = CHECKED

    message: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """What an observation holds. success: None while the episode goes on; stop: why it ended."""

    text: str
    actions: tuple[str, ...]
    task: str | None
    success: bool | None = None
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """The state of a session."""

    episode_id: str | None
    step_count: int
    task: str | None


class Refused(Exception):  # noqa: N818  an answer, sent to the client
    """A message that cannot be followed. code: OpenEnv's. The session goes on."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Play:
    """What a session plays. It is called by the session's own thread alone."""

    def __init__(self, make_env: Callable[[], TextEnv]) -> None:
        self._make_env = make_env
        self._env: TextEnv | None = None
        self._seen: Seen | None = None
        self._steps = 0
        self._episode: str | None = None

    def answer(self, message: str) -> dict[str, Any] | None:
        """The answer to a message; None to the one that ends the session.

        Raises Refused, or BrokenPromiseError if the world fails.
        """
        try:
            given = json.loads(message)
            kind, data, is_text = given["type"], given.get("data", {}), _is_text(given)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Refused("INVALID_JSON", 'Send JSON like {"type": "reset", "data": {}}.') from error
        if not is_text:
            raise Refused("VALIDATION_ERROR", "The message holds a lone surrogate, which is part of no text.")
        try:
            match kind:
                case "reset":
                    return {"type": "observation", "data": self._reset(read_record(Reset, data))}
                case "step":
                    return {"type": "observation", "data": self._step(read_record(Step, data))}
                case "state":
                    task = self._seen.task if self._seen else None
                    return {"type": "state", "data": asdict(Where(self._episode, self._steps, task))}
                case "close":
                    return None
        except ValueError as error:
            raise Refused("VALIDATION_ERROR", f"The data of {kind} cannot be read: {error}.") from error
        raise Refused("UNKNOWN_TYPE", f"There is no message {str(kind)[:50]!r}; send reset, step, state or close.")

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _reset(self, asked: Reset) -> dict[str, Any]:
        self._seen = None
        env = self._env = self._env or self._make_env()
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        try:
            task = asked.task
            if task is None:
                tasks = tasks_of(env, asked.split)
                task = tasks[int(stream(seed, "served task").integers(len(tasks)))]
            options = {"task": task} if asked.stage is None else {"task": task, "stage": asked.stage}
            text, actions, _ = begin(env, seed, options)
        except BrokenPromiseError:
            raise
        except ReflectRLError as error:  # no such task, split or stage
            raise Refused("VALIDATION_ERROR", str(error)) from error
        self._seen, self._steps = Seen(text, actions, task), 0
        self._episode = asked.episode_id or secrets.token_hex(8)
        return {"observation": asdict(self._seen), "reward": None, "done": False}

    def _step(self, asked: Step) -> dict[str, Any]:
        if self._env is None or self._seen is None or self._seen.stop is not None:
            why = "has ended" if self._seen else "has not begun"
            raise Refused("EXECUTION_ERROR", f"The episode {why}. Send a reset.")
        if asked.message not in self._seen.actions:
            known = ", ".join(self._seen.actions[:50])
            raise Refused("VALIDATION_ERROR", f"{asked.message[:200]!r} is not admissible now. These are: {known}.")
        text, actions, reward, stop = advance(self._env, self._seen.actions.index(asked.message))
        solved = None if stop is None else stop is StopReason.SUCCESS
        self._seen, self._steps = Seen(text, actions, self._seen.task, solved, stop), self._steps + 1
        return {"observation": asdict(self._seen), "reward": reward, "done": stop is not None}


class Sessions:
    """The sessions of a server.

    Args:
        name: the world's.
        world: one that is not played, to tell of it.
        make_env: makes one for a session.
        limits: what is accepted, kept and waited for; `worlds` is the most sessions.
    """

    def __init__(self, name: str, world: TextEnv, make_env: Callable[[], TextEnv], limits: Limits) -> None:
        self.meters = Meters()
        self._name = name
        self._world = world
        self._make_env = make_env
        self._limits = limits
        self._open: set[Worker] = set()
        self._leaving: set[Worker] = set()
        self.meters.gauge("sessions", "Sessions whose world is open.", self._count)

    def _count(self) -> int:
        """The number of sessions. One that its client has left counts until its world is closed."""
        self._leaving = {worker for worker in list(self._leaving) if worker.alive}
        return len(self._open) + len(self._leaving)

    async def _room(self) -> bool:
        """Whether there is room for a session. A moment is left to worlds that are being closed."""
        given_up = time.monotonic() + CLOSE_SECONDS
        while self._count() >= self._limits.worlds:
            if not self._leaving or time.monotonic() > given_up:
                return False
            await asyncio.sleep(0.02)
        return True

    async def session(self, socket: WebSocket) -> None:
        """Play with one client until it goes away, or is told to."""
        await socket.accept()
        with suppress(WebSocketDisconnect):
            if await self._room():
                await self._play(socket)
            else:
                reason = f"This server has its {self._limits.worlds} sessions already. Try again later."
                await _end(socket, BUSY, reason, "CAPACITY_REACHED")

    def close(self) -> None:
        """Wait until the worlds of sessions that have ended are closed, but not for one that hangs."""
        wait_for(self._leaving, self._limits.leaving_seconds)

    async def _play(self, socket: WebSocket) -> None:
        play, thread = Play(self._make_env), Worker("session")
        self._open.add(thread)
        try:
            await self._talk(socket, play, thread)
        finally:
            thread.submit(play.close)
            thread.close()
            self._open.remove(thread)
            self._leaving.add(thread)

    async def _talk(self, socket: WebSocket, play: Play, thread: Worker) -> None:
        limits = self._limits
        while True:
            try:
                message = await asyncio.wait_for(socket.receive(), limits.idle_seconds)
            except TimeoutError:
                return await _end(socket, SILENT, f"Nothing was sent for {limits.idle_seconds:g} s.")
            if message["type"] == "websocket.disconnect":
                return None
            try:
                work = thread.submit(partial(play.answer, message.get("text") or ""))
                answer = await asyncio.wait_for(asyncio.wrap_future(work), limits.answer_seconds)
            except Refused as refused:
                answer = _error(refused.code, str(refused))
            except TimeoutError:
                return await _end(socket, FAILED, f"The world took over {limits.answer_seconds:g} s.", "SESSION_ERROR")
            except ReflectRLError as error:
                return await _end(socket, FAILED, str(error), "EXECUTION_ERROR")
            if answer is None:
                return await socket.close(NORMAL)
            await socket.send_json(answer)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "healthy"})

    async def metadata(self, request: Request) -> Response:
        about = self._world.task_text or self._name
        return JSONResponse({"name": self._name, "description": about, "version": __version__})

    async def schema(self, request: Request) -> Response:
        kinds = {"action": Step, "observation": Seen, "state": Where}
        return JSONResponse({name: TypeAdapter(kind).json_schema() for name, kind in kinds.items()})

    async def metrics(self, request: Request) -> Response:
        return Response(self.meters.text(), media_type=CONTENT_TYPE_LATEST)


def make_app(sessions: Sessions, token: str | None = None) -> Starlette:
    """The ASGI application. token: what clients have to know; None to serve this machine alone."""
    routes = {
        "/health": sessions.health,
        "/metadata": sessions.metadata,
        "/schema": sessions.schema,
        "/metrics": sessions.metrics,
    }
    return Starlette(
        routes=[WebSocketRoute("/ws", sessions.session), *(Route(path, answer) for path, answer in routes.items())],
        middleware=[Middleware(Gate, token, sessions.meters)],
    )


def serve_world(
    name: str,
    make_env: Callable[[], TextEnv],
    host: str,
    port: int,
    token: str | None,
    progress: Progress,
    limits: Limits | None = None,
) -> None:
    """Serve a world to clients of OpenEnv, until SIGINT or SIGTERM.

    Args:
        name: the world's, as clients are told.
        make_env: makes the world.
        host: the address to listen on.
        port: its port; 0 for any that is free.
        token: see `access.read_token`, which decides whether `host` needs one.
        progress: is told the address, once sessions are accepted.
        limits: what is accepted, kept and waited for; `worlds` is the most sessions.

    Raises:
        SettingsError: the address cannot be used.
        EnvironmentContractError, or an error of the world: it cannot be made or begun.
    """
    limits = limits or Limits()
    with bound(host, port) as listening:
        world = make_env()
        try:
            begin(world, 0, {})  # what it lacks, such as its data, is said here rather than to the first client
            sessions = Sessions(name, world, make_env, limits)
            app = make_app(sessions, token)
            run_until_stopped(app, listening, name, limits, progress, "websockets-sansio")
            sessions.close()
        finally:
            world.close()


def _is_text(given: Any) -> bool:
    """Whether all strings are Unicode text, so that answers can hold them. Raises ValueError for what JSON lacks."""
    try:
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _error(code: str, reason: str) -> dict[str, Any]:
    """An error, whatever a world's own one says."""
    return {"type": "error", "data": {"message": reason.encode(errors="replace").decode(), "code": code}}


async def _end(socket: WebSocket, code: int, reason: str, error: str = "SESSION_ERROR") -> None:
    """Say why, and close: the reason of a close alone is limited to 123 bytes, and many clients do not show it."""
    await socket.send_json(_error(error, reason))
    await socket.close(code, reason.encode(errors="replace")[:120].decode(errors="ignore"))
