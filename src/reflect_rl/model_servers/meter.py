"""Tokens and cost of the calls to a model server, held within a budget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from reflect_rl.core_yaml import YamlError, parse_yaml
from reflect_rl.errors import BudgetError, SettingsError
from reflect_rl.model_servers.records import Answer, Ask, Failed
from reflect_rl.paths import expanded
from reflect_rl.settings.server import ServerSettings

PRICES = Path(__file__).parent / "prices.yaml"


class Price(NamedTuple):
    """USD per million tokens."""

    input: float
    output: float

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def price_of(settings: ServerSettings) -> Price | None:
    """The model's price; None if it is unknown. Raises SettingsError: an unusable file, or a budget without a price."""
    known = _read(PRICES) | (_read(expanded(settings.prices)) if settings.prices else {})
    price = known.get(settings.model)
    if price is None and settings.budget_usd is not None:
        raise SettingsError(
            f"budget_usd needs a price, and that of '{settings.model}' is unknown. Write a YAML file with the line "
            f"'{settings.model}: {{input: 0.25, output: 2}}' (USD per million tokens) and name it with "
            f"teacher.prices, or with --server.prices for an agent."
        )
    return price


def _read(path: Path) -> dict[str, Price]:
    try:
        rows = parse_yaml(path.read_text(encoding="utf-8")) or {}
        prices = {str(name): Price(float(row["input"]), float(row["output"])) for name, row in rows.items()}
        if any(not 0 <= usd < float("inf") for price in prices.values() for usd in price):
            raise ValueError("a price is negative or infinite")
    except (OSError, YamlError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"The prices in {path} cannot be read ({error}). Each line is 'MODEL: {{input: 0.25, output: 2}}', in USD "
            f"per million tokens."
        ) from error
    return prices


def most_prompt_tokens(ask: Ask) -> int:
    """An upper bound: no token is shorter than a byte, and a chat template adds a few."""
    return 64 + sum(len(message.content.encode()) + 16 for message in ask.messages)


def likely_prompt_tokens(ask: Ask) -> int:
    """An estimate: four bytes a token."""
    return sum(len(message.content.encode()) // 4 + 8 for message in ask.messages)


class Meter:
    """Calls, tokens and cost. usd: None if the price is unknown."""

    def __init__(self, price: Price | None, budget_usd: float | None = None) -> None:
        self.price = price
        self.budget_usd = budget_usd
        self.calls = self.prompt_tokens = self.completion_tokens = 0
        self.usd = None if price is None else 0.0
        self._in_flight = 0
        self._reserved = 0.0
        self._changed = asyncio.Condition()

    def add(self, paid: Answer | Failed) -> None:
        """Count a call that was answered; at today's price, if none was known when it was."""
        self.calls += 1
        self.prompt_tokens += paid.prompt_tokens
        self.completion_tokens += paid.completion_tokens
        if self.price is not None and self.usd is not None:
            now = self.price.usd(paid.prompt_tokens, paid.completion_tokens)
            self.usd += now if paid.usd is None else paid.usd

    @asynccontextmanager
    async def reserved(self, ask: Ask) -> AsyncIterator[None]:
        """Reserve the highest possible cost of a call while it is in flight.

        Waits for calls in flight if they leave too little. Raises BudgetError if nothing is in flight, and the call
        could exceed the budget all the same.
        """
        if self.price is None or self.usd is None or self.budget_usd is None:
            yield
            return
        most = self.price.usd(most_prompt_tokens(ask), ask.max_tokens)
        async with self._changed:
            while self.usd + self._reserved + most > self.budget_usd:
                if not self._in_flight:
                    raise BudgetError(
                        f"The budget of {self.budget_usd:g} USD is used up: {self.usd:.4f} USD are spent, and the next "
                        f"call may cost {most:.4f} USD. All answers are kept. Raise budget_usd to continue."
                    )
                await self._changed.wait()
            self._in_flight += 1
            self._reserved += most
        try:
            yield
        finally:
            async with self._changed:
                self._in_flight -= 1
                self._reserved = self._reserved - most if self._in_flight else 0.0
                self._changed.notify_all()
