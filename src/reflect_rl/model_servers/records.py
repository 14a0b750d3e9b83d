"""What a model server is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Message(NamedTuple):
    """One message of a chat. role: "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One call.

    max_tokens: maximum tokens of the answer. labels: texts whose log-probabilities as the first token are wanted.
    sample: tells apart several answers to the same messages.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    labels: tuple[str, ...] = ()
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an ask.

    finish: why it ended, "stop" or "length". usd: its cost; None if the price is unknown. logprobs: natural logarithms
    of the probabilities of those labels that are among the server's most probable first tokens; None if labels were not
    asked for, or the server gives no log-probabilities.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    usd: float | None = None
    logprobs: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An ask that the server will not answer, however often it is sent; what it cost all the same.

    final: False if it may be answered once the server has other settings, such as a longer context.
    """

    reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None
    final: bool = True


class Estimate(NamedTuple):
    """What asks would cost. calls: without those answered before. prompt_tokens: estimated. completion_tokens: most."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
