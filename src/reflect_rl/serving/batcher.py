"""Decisions for many clients at once: states that wait together go through the models together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from typing import NamedTuple

from starlette.exceptions import HTTPException

from reflect_rl.errors import EnvironmentContractError, PromptError, ReflectRLError, ServerError, TeacherError
from reflect_rl.players.agent import Decision
from reflect_rl.records import State
from reflect_rl.serving.limits import RETRY, Limits

Decide = Callable[[Sequence[State]], list[Decision]]

UNREADABLE = (PromptError, EnvironmentContractError, TeacherError)
"""Errors about a state: it does not fit into a prompt, or a scripted teacher cannot read its facts."""


class _Job(NamedTuple):
    states: Sequence[State]
    decided: Future[list[Decision]]


class Batcher:
    """A thread that decides in the states that clients wait for, in order of arrival.

    It never waits for a batch to fill: what arrives during one pass makes up the next.

    Args:
        decide: decides in up to `limits.states` states.
        limits: of these, `states`, `waiting`, `answer_seconds` and `leaving_seconds`.
        passed: is told the number of states of each pass.
    """

    def __init__(self, decide: Decide, limits: Limits, passed: Callable[[int], object] = lambda states: None) -> None:
        self._decide = decide
        self._limits = limits
        self._passed = passed
        self._jobs: deque[_Job] = deque()
        self._arrived = Condition()
        self._open = True
        self._thread = Thread(target=self._work, name="decisions", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of states that wait."""
        with self._arrived:
            return sum(len(job.states) for job in self._jobs)

    @property
    def alive(self) -> bool:
        """Whether decisions can be expected."""
        return self._thread.is_alive()

    async def decide(self, states: Sequence[State]) -> list[Decision]:
        """The decision in each of up to `limits.states` states.

        Raises:
            HTTPException: 422 (the agent cannot read a state), 429 (too many wait already) or 503 (it took too long,
                the server of its reflector stays away, or this one is stopping).
        """
        decided: Future[list[Decision]] = Future()
        with self._arrived:
            if not self._open:
                raise HTTPException(503, "The server is stopping.", RETRY)
            if self.waiting + len(states) > self._limits.waiting:
                raise HTTPException(429, f"{self.waiting} states wait for a decision already. Ask again later.", RETRY)
            self._jobs.append(_Job(states, decided))
            self._arrived.notify()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(decided), self._limits.answer_seconds)
        except TimeoutError:
            raise HTTPException(503, f"No decision within {self._limits.answer_seconds:g} s.", RETRY) from None
        except UNREADABLE as error:
            raise HTTPException(422, str(error)) from error
        except ServerError as error:  # of the reflector
            raise HTTPException(503, str(error), RETRY) from error

    def close(self) -> None:
        """Decide in what waits, and stop: at once if that takes too long, as where a reflector's server stays away."""
        with self._arrived:
            self._open = False
            self._arrived.notify()
        self._thread.join(self._limits.leaving_seconds)

    def _work(self) -> None:
        while jobs := self._take():
            self._answer(jobs)

    def _take(self) -> list[_Job]:
        """The next jobs, as many as fit into one pass and are still wanted; none after `close`."""
        jobs: list[_Job] = []
        with self._arrived:
            while not jobs and (self._jobs or self._open):
                self._arrived.wait_for(lambda: self._jobs or not self._open)
                room = self._limits.states
                while self._jobs and len(self._jobs[0].states) <= room:
                    job = self._jobs.popleft()
                    if job.decided.set_running_or_notify_cancel():
                        jobs.append(job)
                        room -= len(job.states)
        return jobs

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """Decide for these jobs in one pass; after an error each for itself, so that it meets only the job it is of."""
        states = [state for job in jobs for state in job.states]
        try:
            decisions = iter(self._decide(states))
        except ReflectRLError as error:
            if len(jobs) == 1:
                jobs[0].decided.set_exception(error)
            for job in jobs if len(jobs) > 1 else ():
                self._answer([job])
            return
        except Exception as error:  # noqa: BLE001  a bug: whoever waits for the answer raises it
            for job in jobs:
                job.decided.set_exception(error)
            return
        self._passed(len(states))
        for job in jobs:
            job.decided.set_result([next(decisions) for _ in job.states])
