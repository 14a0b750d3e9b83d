"""Answers that have to be of use: what cannot be used is asked for once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from reflect_rl.model_servers.model import ServedModel
from reflect_rl.model_servers.records import Answer, Ask, Failed
from reflect_rl.progress import Bar

TRIES = 2
"""How often something is asked for."""

Found = TypeVar("Found")


class Unusable(Exception):  # noqa: N818  a reason, caught here
    """An answer that cannot be used; the message says why."""


def ask_usable(
    model: ServedModel, asks: Sequence[Ask], read: Callable[[int, str], Found], bar: Bar
) -> tuple[list[Found | None], dict[int, str]]:
    """Ask, and ask once more for what could not be used.

    model: who is asked. read: `read(index, text)` makes something of an answer's text, or raises Unusable. bar: counts
    the asks, and shows tokens or cost.

    Returns: what was read, in the order of `asks`, None where nothing was; and the reasons for these, by index.

    Raises ServerError or BudgetError: see `ServedModel.ask`.
    """
    found: list[Found | None] = [None] * len(asks)
    reasons = dict.fromkeys(range(len(asks)), "")
    for sample in range(TRIES):

        def arrived(index: int, answer: Answer | Failed, first: bool = sample == 0) -> None:
            bar.update(int(first))
            usd = model.meter.usd
            bar.note(**({"tokens": model.meter.completion_tokens} if usd is None else {"usd": usd}))

        answers = model.ask([replace(asks[index], sample=sample) for index in reasons], arrived)
        for index, answer in zip(list(reasons), answers, strict=True):
            try:
                found[index] = read(index, answer_text(answer))
                del reasons[index]
            except Unusable as reason:
                reasons[index] = str(reason)
    return found, reasons


def answer_text(answer: Answer | Failed) -> str:
    """The text of an answer. Raises Unusable."""
    if isinstance(answer, Failed):
        raise Unusable(answer.reason.partition(" (")[0])
    if answer.finish == "length":
        raise Unusable("too long")
    if not answer.text.strip():
        raise Unusable("empty")
    return answer.text.strip()
