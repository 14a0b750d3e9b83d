"""Settings of a model server that speaks the OpenAI protocol."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from reflect_rl.settings.base import Section


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

    @field_validator("base_url")
    @classmethod
    def _has_no_key(cls, value: str | None) -> str | None:
        return None if value is None else checked_address(value)


def checked_address(value: str) -> str:
    """An address of a server. Raises ValueError: it is none, or holds a password, which messages would tell."""
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} is no address; it begins with http:// or https://")
    if "@" in value.split("/")[2]:
        raise ValueError("an address must not hold a user or password; set OPENAI_API_KEY in the environment")
    return value
