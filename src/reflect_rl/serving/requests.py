"""Reading requests: JSON bodies within limits, and what a client says of a state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from pydantic import StrictBool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from reflect_rl.errors import PromptError
from reflect_rl.players.agent import Told, checked_input
from reflect_rl.records import CHECKED, read_record
from reflect_rl.serving.limits import Limits

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Ask:
    """A state in which the agent is asked to act.

    session: the episode that it belongs to; None for a state without a past. first: whether it begins that episode
    anew. The rest is as in `Agent.act`.
    """

    __pydantic_config__ = CHECKED

    observation: str
    actions: tuple[str, ...]
    session: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    first: StrictBool = False


async def read_json(request: Request, limits: Limits) -> Any:
    """The body of a request.

    Another content type is refused because a browser lets any page post it without asking the server first. Raises
    HTTPException: 400 (no JSON, or cut off), 408 (too slow), 413 (too large) or 415 (another type).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"The content type is {kind or 'not given'}. Send application/json.")
    too_large = HTTPException(413, f"The body has more than {limits.body} bytes.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.body:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.read_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {limits.read_seconds:g} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The client went away before its body had arrived.") from None
    try:
        return json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The body is no JSON: {error}.") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def read_as(kind: type[Record], data: Any, what: str = "The body") -> Record:
    """A record from JSON. Raises HTTPException (400), which names the first invalid field of `what`."""
    try:
        return read_record(kind, data)
    except ValueError as error:
        raise HTTPException(400, f"{what} cannot be read: {error}.") from error


def told(ask: Ask, limits: Limits) -> Told:
    """What the agent is told. Raises HTTPException: 413 (over the limits) or 422 (nothing an agent can read)."""
    lengths = {
        "characters of observation": (len(ask.observation), limits.observation),
        "actions": (len(ask.actions), limits.actions),
        "characters in an action": (max(map(len, ask.actions), default=0), limits.action),
        "characters in the session's name": (len(ask.session or ""), limits.action),
    }
    for name, (given, most) in lengths.items():
        if given > most:
            raise HTTPException(413, f"A state has {given} {name}; this server takes {most}.")
    try:
        return checked_input(ask.observation, ask.actions, ask.facts)
    except PromptError as error:
        raise HTTPException(422, str(error)) from error
