"""`POST /act`: decisions for clients, with a memory for each of their sessions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

from starlette.exceptions import HTTPException

from reflect_rl.players.agent import Agent
from reflect_rl.records import EpisodeMemory
from reflect_rl.serving.batcher import Batcher
from reflect_rl.serving.kept import Kept
from reflect_rl.serving.limits import Limits
from reflect_rl.serving.requests import Ask, told


@dataclass(slots=True)
class Session:
    """An episode of a client: its memory, and the number of decisions in it."""

    memory: EpisodeMemory
    steps: int = 0


class Acting:
    """Acts in the sessions of clients. Not thread-safe: the event loop alone calls it."""

    def __init__(self, agent: Agent, batcher: Batcher, limits: Limits) -> None:
        self.sessions = Kept[Session](
            limits.sessions,
            limits.idle_seconds,
            most_bytes=limits.sessions_bytes,
            size=lambda session: session.memory.size(),
        )
        self._agent = agent
        self._batcher = batcher
        self._limits = limits
        self._busy: set[str] = set()

    async def act(self, asks: Sequence[Ask]) -> list[dict[str, Any]]:
        """Act in every state, or in none: after an error all sessions are as before.

        Raises:
            HTTPException: 409 (a session waits for an answer already), 413 or 422 (see `requests.told`), or as
                `Batcher.decide`.
        """
        given = [told(ask, self._limits) for ask in asks]
        with self._alone([ask.session for ask in asks if ask.session is not None]):
            sessions = [self._session(ask) for ask in asks]
            states = [session.memory.observe(*each) for session, each in zip(sessions, given, strict=True)]
            decisions = await self._batcher.decide(states)
            answers = []
            for ask, session, decision in zip(asks, sessions, decisions, strict=True):
                session.memory.acted(decision.choice, decision.reflection)
                session.steps += 1
                answers.append(asdict(decision))
                if ask.session is not None:
                    self.sessions.put(ask.session, session)
                    answers[-1]["step"] = session.steps
            return answers

    def _session(self, ask: Ask) -> Session:
        """The session to act in: a copy, since the one that is kept stays as it is if there is no answer."""
        known = None if ask.session is None or ask.first else self.sessions.get(ask.session)
        return Session(copy(known.memory), known.steps) if known else Session(self._agent.new_memory())

    @contextmanager
    def _alone(self, names: Sequence[str]) -> Iterator[None]:
        """Refuse other requests in these sessions: an episode has one state at a time."""
        for place, name in enumerate(names):
            if name in self._busy or name in names[:place]:
                raise HTTPException(409, f"The session {name!r} was asked twice at once. Wait for its answer first.")
        self._busy.update(names)
        try:
            yield
        finally:
            self._busy.difference_update(names)
