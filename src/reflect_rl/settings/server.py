"""Settings of a model server that speaks the OpenAI protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from reflect_rl.settings.base import Section

LENGTH = (
    "the length of an answer, for which the budget reserves, is teacher.max_tokens, reflector.max_new_tokens or "
    "evaluate's --max_tokens"
)
OWN_FIELDS = {
    **dict.fromkeys(("n", "best_of"), "of several answers to a request all are paid for, and one is read"),
    **dict.fromkeys(("messages", "stream"), "the library sets it"),
    "model": "set model",
}
"""Fields of a request that `extra` must not replace, and why, or what to set instead."""

KEY = re.compile(
    "(api|access|secret|private)[-_]?key|secret|password|authorization|credential|^(key|token)$"
    "|(access|api|auth|bearer|id|refresh|session)[-_]?token$",
    re.IGNORECASE,
)
"""Names in `extra` whose values must be in no file."""
INSTEAD = "set OPENAI_API_KEY in the environment"


class ServerSettings(Section):
    """A model behind a server: vLLM, llama.cpp, Ollama, a hosted API. The key comes from $OPENAI_API_KEY only."""

    model: str = Field(default="", description="The model's name at the server.")
    base_url: str | None = Field(
        default=None,
        description="The server's address, usually ending in /v1. null: $OPENAI_BASE_URL, or OpenAI's own API.",
    )
    concurrency: int = Field(default=16, ge=1, le=1024, description="Maximum calls in flight.")
    timeout: float = Field(default=60, gt=0, description="Seconds until a call is given up and tried again.")
    retries: int = Field(
        default=6,
        ge=0,
        description="How often a call is tried again after a lost connection, a time-out, a rate limit or a server "
        "error. At a rate limit, tries count only while no other call is answered.",
    )
    max_retry_wait: float = Field(
        default=60,
        ge=0,
        description="Maximum seconds between two tries, also if the server asks for more. Without a retry-after from "
        "the server, the wait doubles from one second.",
    )
    temperature: float = Field(default=0.0, ge=0, description="Sampling temperature.")
    budget_usd: float | None = Field(
        default=None,
        ge=0,
        description="Hard limit on the cost of all stored answers, in USD: a call that could exceed it is not sent. "
        "Needs the model's price.",
    )
    prices: str | None = Field(
        default=None,
        description="A YAML file with prices in USD per million tokens, such as 'my-model: {input: 0.25, output: 2}'. "
        "It extends the list that ships. Without a price, only tokens are counted.",
    )
    extra: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of each request, such as {reasoning_effort: low}."
    )

    @field_validator("extra")
    @classmethod
    def _leaves_the_cost(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if re.fullmatch(r"max_(\w+_)?tokens", name):
                raise ValueError(f"it must not hold {name}: {LENGTH}")
            if name in OWN_FIELDS:
                raise ValueError(f"it must not hold {name}: {OWN_FIELDS[name]}")
        if key := next(filter(KEY.search, _names(value)), None):
            raise ValueError(f"it must not hold a key ({key}), which files would tell; {INSTEAD}")
        return value

    @field_validator("base_url")
    @classmethod
    def _has_no_key(cls, value: str | None) -> str | None:
        if value is None:
            return None
        for name, _ in parse_qsl(urlsplit(checked_address(value)).query, keep_blank_values=True):
            if re.search("key|token|secret|password|signature", name, re.IGNORECASE):
                raise ValueError(
                    f"it must not hold a key ({name}), which files would tell; {INSTEAD}, or OPENAI_BASE_URL to the "
                    f"whole address"
                )
        return value


def _names(value: Any) -> Iterator[str]:
    """The names in a JSON value, however deep."""
    if isinstance(value, dict):
        yield from map(str, value)
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(each)


def checked_address(value: str) -> str:
    """An address of a server. Raises ValueError: it is none, or holds a password, which messages would tell."""
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} is no address; it begins with http:// or https://")
    if "@" in value.split("/")[2]:
        raise ValueError("an address must not hold a user or password; set OPENAI_API_KEY in the environment")
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0 and value.isprintable() and " " not in value
    except ValueError:  # brackets that do not close, or a port that is no number up to 65535
        usable = False
    if not usable:
        raise ValueError(f"{value!r} is no address; one is http://127.0.0.1:8000/v1, with a port from 1 to 65535")
    return value
