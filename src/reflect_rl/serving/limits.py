"""What a server accepts, keeps and waits for."""

from __future__ import annotations

from dataclasses import dataclass

RETRY = {"retry-after": "1"}
"""The header of an answer that a client should ask for again, in seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server.

    Attributes:
        body: most bytes of a request's body.
        states: most states in one request, and in one pass through the models.
        observation: most characters of an observation.
        actions: most actions of a state.
        action: most characters of an action, and of a session's name.
        waiting: most states that wait for a decision; beyond that, requests get 429.
        sessions: most sessions; beyond that, the least recently used is dropped.
        sessions_bytes: most bytes of text that all sessions remember; beyond that, likewise.
        worlds: most episodes of the page, likewise.
        idle_seconds: time without a request after which a session or an episode is dropped.
        read_seconds: time for a client to send the head of a request, and again for its body.
        answer_seconds: time for a decision, waiting included.
        leaving_seconds: time for requests to be answered after a signal, and again for decisions and for worlds to end.
        connections: most open connections; beyond that, requests get 503.
    """

    body: int = 2**18
    states: int = 64
    observation: int = 100_000
    actions: int = 1_000
    action: int = 1_000
    waiting: int = 256
    sessions: int = 4_096
    sessions_bytes: int = 2**28
    worlds: int = 64
    idle_seconds: float = 1_800.0
    read_seconds: float = 10.0
    answer_seconds: float = 60.0
    leaving_seconds: float = 10.0
    connections: int = 1_000
