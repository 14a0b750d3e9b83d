"""The application: what each path answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from reflect_rl import __version__
from reflect_rl.envs.base import TextEnv
from reflect_rl.players.agent import Agent
from reflect_rl.serving.acting import Acting
from reflect_rl.serving.batcher import Batcher
from reflect_rl.serving.chat import Chat, ChatModel, streamed
from reflect_rl.serving.gate import Gate, error_response
from reflect_rl.serving.limits import Limits
from reflect_rl.serving.meters import CONTENT_TYPE_LATEST, Meters
from reflect_rl.serving.requests import Ask, read_as, read_json
from reflect_rl.serving.worlds import Begin, Choose, Worlds

PAGE = Path(__file__).parent / "page.html"
TIDY_SECONDS = 60.0
"""Time after which idle sessions and episodes are looked for again."""


class Service:
    """The agent with everything that a server keeps, and one method for each path.

    Args:
        name: the agent's name in answers.
        agent: acts; nothing else may use it meanwhile.
        make_env: makes a world of the agent.
        card: the agent's model card.
        limits: what is accepted, kept and waited for.
    """

    def __init__(self, name: str, agent: Agent, make_env: Callable[[], TextEnv], card: str, limits: Limits) -> None:
        self.meters = Meters()
        self._name = name
        self._card = card
        self._limits = limits
        self._batcher = Batcher(agent.decide, limits, self.meters.states.observe)
        self._acting = Acting(agent, self._batcher, limits)
        self._chat = ChatModel(name, agent, self._batcher, limits)
        self._worlds = Worlds(agent, make_env, self._batcher, limits)
        self._page = PAGE.read_text(encoding="utf-8")
        self.meters.gauge("waiting_states", "States that wait for a decision.", lambda: self._batcher.waiting)
        self.meters.gauge("sessions", "Sessions that are kept.", lambda: len(self._acting.sessions))

    async def act(self, request: Request) -> Response:
        data = await read_json(request, self._limits)
        if not isinstance(data, list):
            return JSONResponse((await self._acting.act([read_as(Ask, data)]))[0])
        if not 1 <= len(data) <= self._limits.states:
            raise HTTPException(400, f"The list has {len(data)} states; send 1 to {self._limits.states}.")
        asks = [read_as(Ask, each, f"State {place} of the list") for place, each in enumerate(data)]
        return JSONResponse(await self._acting.act(asks))

    async def complete(self, request: Request) -> Response:
        chat = read_as(Chat, await read_json(request, self._limits))
        completion = await self._chat.complete(chat)
        if chat.stream:
            return StreamingResponse(streamed(completion), media_type="text/event-stream")
        return JSONResponse(completion)

    async def models(self, request: Request) -> Response:
        return JSONResponse(self._chat.models())

    async def health(self, request: Request) -> Response:
        alive = self._batcher.alive
        about = {"status": "ok" if alive else "broken", "agent": self._name, "version": __version__}
        return JSONResponse(about, 200 if alive else 503)

    async def card(self, request: Request) -> Response:
        return PlainTextResponse(self._card, media_type="text/markdown")

    async def metrics(self, request: Request) -> Response:
        return Response(self.meters.text(), media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers={"content-security-policy": policy_of(self._page)})

    async def world(self, request: Request) -> Response:
        return JSONResponse({"agent": self._name, **self._worlds.about()})

    async def begin(self, request: Request) -> Response:
        return JSONResponse(await self._worlds.begin(read_as(Begin, await read_json(request, self._limits))))

    async def show(self, request: Request) -> Response:
        return JSONResponse(await self._worlds.show(request.path_params["name"]))

    async def step(self, request: Request) -> Response:
        choose = read_as(Choose, await read_json(request, self._limits))
        return JSONResponse(await self._worlds.step(request.path_params["name"], choose))

    @asynccontextmanager
    async def running(self, app: object) -> AsyncIterator[None]:
        tidying = asyncio.create_task(self._tidy())
        yield
        tidying.cancel()
        self._batcher.close()
        self._worlds.close()

    async def _tidy(self) -> None:
        """Drop what is idle, also while nobody asks."""
        while True:
            await asyncio.sleep(min(self._limits.idle_seconds, TIDY_SECONDS))
            self._acting.sessions.expire()
            self._worlds.expire()


def make_app(service: Service, token: str | None = None) -> Starlette:
    """The ASGI application of a service. token: what clients have to know; None to serve this machine alone."""
    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("POST", "/act", service.act),
        ("GET", "/health", service.health),
        ("GET", "/card", service.card),
        ("GET", "/metrics", service.metrics),
        ("GET", "/v1/models", service.models),
        ("POST", "/v1/chat/completions", service.complete),
        ("GET", "/", service.page),
        ("GET", "/worlds", service.world),
        ("POST", "/worlds", service.begin),
        ("GET", "/worlds/{name}", service.show),
        ("POST", "/worlds/{name}", service.step),
    ]
    return Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in routes],
        middleware=[Middleware(Gate, token, service.meters)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=service.running,
    )


async def _refused(request: Request, error: Any) -> Response:
    return error_response(error.status_code, error.detail, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(500, "The server failed on this request. Its log says why.")


def policy_of(page: str) -> str:
    """A Content Security Policy that allows the page's own script and style, and requests to this server."""

    def sums(tag: str) -> str:
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(p.encode()).digest()).decode()}'" for p in parts)

    return (
        f"default-src 'none'; script-src {sums('script')}; style-src {sums('style')}; img-src data:; "
        f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
