"""A model behind a server. Callers are synchronous; calls run side by side; every answer is stored when it arrives."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self

from reflect_rl.memo import Memo
from reflect_rl.model_servers.calls import Calls, address_and_key
from reflect_rl.model_servers.meter import Meter, likely_prompt_tokens, price_of
from reflect_rl.model_servers.records import Answer, Ask, Estimate, Failed
from reflect_rl.progress import Progress
from reflect_rl.settings.server import ServerSettings

LAST_WAIT = 10.0
"""Seconds in which calls in flight may still be answered after an interrupt."""
Arrived = Callable[[int, Answer | Failed], None]


def check_server(settings: ServerSettings) -> None:
    """Raise SettingsError where `ServedModel` would. Nothing is sent or written."""
    price_of(settings)
    address_and_key(settings)


class ServedModel:
    """Asks one model of one server.

    settings: the server, the model, and limits. store: an SQLite file of answers, so that nothing is paid for twice;
    None keeps them in memory. progress: is warned of what the server does not support.

    Attributes:
        meter: calls, tokens and cost of all answers in the store, earlier processes included.

    Raises SettingsError: no model or key, a budget without a price, unusable prices, no openai package. Raises
    RunFolderError: the store is damaged.
    """

    def __init__(self, settings: ServerSettings, store: Path | None, progress: Progress | None = None) -> None:
        price = price_of(settings)
        self.settings = settings
        self._calls = Calls(settings, price, progress or Progress())
        self._store = Memo(
            store,
            json.dumps([settings.model, settings.temperature, settings.extra], sort_keys=True, allow_nan=False),
            "The store of answers",
            "Restore it from a copy; if you delete it, its answers are asked and paid for again.",
        )
        self.meter = Meter(price, settings.budget_usd)
        for text in self._store.texts():
            self.meter.add(self._read(text))
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="model server", daemon=True)
        self._thread.start()

    def ask(self, asks: Sequence[Ask], arrived: Arrived | None = None) -> list[Answer | Failed]:
        """The answers, in the order of `asks`. Equal asks are sent once, and stored ones not at all.

        arrived: is called in this thread with the index and the answer, as each arrives.

        Raises ServerError: the server stays away, or refuses the model or the key. Raises BudgetError: a call could
        exceed the budget. What has arrived by then is stored. An interrupt waits up to LAST_WAIT seconds for the calls
        in flight; a second one does not.
        """
        places: dict[Ask, list[int]] = defaultdict(list)
        for index, ask in enumerate(asks):
            places[ask].append(index)
        found: dict[Ask, Answer | Failed] = {}

        def take(ask: Ask, answer: Answer | Failed) -> None:
            found[ask] = answer
            if arrived:
                for index in places[ask]:
                    arrived(index, answer)

        known = self._known(places)
        for ask, answer in known.items():
            take(ask, answer)
        if missing := [ask for ask in places if ask not in known]:
            arrivals: SimpleQueue[tuple[Ask, Answer | Failed] | None] = SimpleQueue()
            errors: list[Exception] = []
            sending = asyncio.run_coroutine_threadsafe(self._send(missing, arrivals.put, errors), self._loop)
            sending.add_done_callback(lambda _: arrivals.put(None))
            try:
                while pair := arrivals.get():
                    take(*pair)
                sending.result()
            except BaseException:  # also an interrupt, which would end the loop if it were raised there
                errors.append(InterruptedError())
                wait([sending], LAST_WAIT)
                raise
            finally:
                sending.cancel()
        return [found[ask] for ask in asks]

    def estimate(self, asks: Iterable[Ask]) -> Estimate:
        """What `ask` would send, without sending it."""
        distinct = dict.fromkeys(asks)
        missing = distinct.keys() - self._known(distinct).keys()
        prompt, completion = sum(map(likely_prompt_tokens, missing)), sum(ask.max_tokens for ask in missing)
        price = self.meter.price
        return Estimate(len(missing), prompt, completion, price and price.usd(prompt, completion))

    def close(self) -> None:
        """Close the connections and the store."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._calls.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _known(self, asks: Iterable[Ask]) -> dict[Ask, Answer | Failed]:
        keys = {_key(ask): ask for ask in asks}
        return {keys[key]: self._read(text) for key, text in self._store.get(keys).items()}

    def _read(self, text: str) -> Answer | Failed:
        """An answer of the store. Raises RunFolderError."""
        try:
            data: dict[str, Any] = json.loads(text)
            found = Failed(**data) if "reason" in data else Answer(**data)
            if not isinstance(found.prompt_tokens, int) or not isinstance(found.completion_tokens, int):
                raise TypeError("tokens are not counted")
        except (ValueError, TypeError) as error:
            raise self._store.unusable(f"an answer is damaged, or of another version: {error}") from error
        return found

    async def _send(
        self,
        asks: Sequence[Ask],
        arrived: Callable[[tuple[Ask, Answer | Failed]], None],
        errors: list[Exception],
    ) -> None:
        """Send asks; after an error no more are sent, and those in flight are waited for, as they are paid for.

        errors: what happened, here or in the thread that asks.
        """
        waiting = iter(asks)

        async def work() -> None:
            for ask in waiting:
                try:
                    async with self._slots, self.meter.reserved(ask):
                        if errors:
                            return
                        answer = await self._calls.answer(ask)
                        if isinstance(answer, Answer) or answer.final:
                            self._store.put({_key(ask): json.dumps(asdict(answer), allow_nan=False)})
                        self.meter.add(answer)
                except Exception as error:  # noqa: BLE001  raised below; after it no more are sent
                    errors.append(error)
                    return
                arrived((ask, answer))

        await asyncio.gather(*(work() for _ in range(min(len(asks), self.settings.concurrency))))
        if errors:
            raise errors[0]


def _key(ask: Ask) -> tuple[str, int]:
    return json.dumps([ask.messages, ask.max_tokens, ask.labels], allow_nan=False), ask.sample
