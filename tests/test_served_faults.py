"""Odd answers of a model server: what is paid for is counted, and the rest is one message."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_server import FakeServer
from reflect_rl.bench.chat_server import completion, response
from reflect_rl.errors import BudgetError, RunFolderError, ServerError, SettingsError
from reflect_rl.model_servers.calls import Calls
from reflect_rl.model_servers.model import ServedModel
from reflect_rl.model_servers.records import Answer, Ask, Failed, Message
from reflect_rl.settings.server import ServerSettings
from test_served_client import prices, question, settings

__all__ = ["prices"]
Changed = Callable[[dict[str, Any]], Any]
USAGE = b'{"usage": {"prompt_tokens": %s, "completion_tokens": %s}, "choices": [{"message": {"content": "fine"}}]}'


class Odd(FakeServer):
    """Gives the same answer to everything. change: changes a good one, or gives another as bytes."""

    def __init__(self, change: Changed) -> None:
        super().__init__()
        self.change = change

    async def respond(self, request: dict[str, Any], headers: Any, writer: Any) -> None:
        self.calls[request["messages"][-1]["content"]] += 1
        good = completion("fine", 100_000, 5)
        changed = self.change(good)
        writer.write(response(changed if isinstance(changed, bytes) else good))


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good["choices"][0].update(message=None),
        lambda good: good["choices"][0]["message"].update(content=5),
        lambda good: good.update(choices=[None]),
        lambda good: good.update(choices={"a": 1}),
        lambda good: good.update(choices=None),
        lambda good: good.pop("choices"),
        lambda good: good.update(choices=[], error={"message": "overloaded", "code": 502}),
    ],
)
def test_what_cannot_be_used_is_paid_for_once_and_counted(change: Changed, tmp_path: Path, prices: str) -> None:
    with Odd(change) as server:
        limited = settings(server, prices=prices, budget_usd=0.15)
        for _ in range(2):
            with ServedModel(limited, tmp_path / "store.sqlite") as model:
                (answer,) = model.ask([question(1)])
                assert isinstance(answer, Failed)
                assert answer.reason.startswith(("the server's answer cannot be read (", "the server gave no choice"))
                assert (model.meter.calls, model.meter.usd) == (1, pytest.approx(0.10001))
        with ServedModel(limited, tmp_path / "store.sqlite") as model, pytest.raises(BudgetError):
            model.ask([Ask((Message("user", "long " * 20_000),), 20)])
        assert server.calls == {"question 1": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good["choices"][0]["message"].update(content=["fi", {"text": "ne"}]),
        lambda good: good["choices"][0].update(logprobs={"content": [{"token": "A", "top_logprobs": [None]}]}),
        lambda good: good["choices"][0].update(
            logprobs={"content": [{"token": "fine", "top_logprobs": [{"token": "A", "logprob": None}]}]}
        ),
    ],
)
def test_a_text_is_read_whatever_stands_beside_it(change: Changed) -> None:
    with Odd(change) as server, ServedModel(settings(server, retries=0), None) as model:
        (answer,) = model.ask([Ask((Message("user", "choose"),), 9, labels=("A", "B"))])
    assert answer == Answer("fine", "stop", 100_000, 5)


@pytest.mark.parametrize("counts", [(b"1e999", b"-1"), (b"NaN", b"9e99"), (b'"7"', b"null"), (b"1" * 400, b"[]")])
def test_tokens_that_nobody_can_count_count_as_the_most_there_can_be(counts: tuple[bytes, bytes], prices: str) -> None:
    with Odd(lambda good: USAGE % counts) as server, ServedModel(settings(server, prices=prices), None) as model:
        (answer,) = model.ask([question(1)])
        assert (answer.prompt_tokens, answer.completion_tokens) == (115, 20)
        assert (server.calls.total(), model.meter.usd) == (1, pytest.approx(155e-6))


@pytest.mark.parametrize(
    ("error", "calls", "said"),
    [
        ("credits exhausted", 1, "refused the request .*credits exhausted"),
        ({"message": "credits exhausted", "code": 402}, 1, "refused the request .*credits exhausted"),
        ({"message": "no such model", "code": 404}, 1, "refused the model .*no such model"),
        ({"message": "upstream is busy", "code": 502}, 3, "did not answer: upstream is busy"),
        ({"message": "upstream is busy", "code": "503"}, 3, "did not answer: upstream is busy"),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, 3, "did not answer: slow down"),
        ({"message": "slow down", "type": "overloaded_error"}, 3, "did not answer: slow down"),
    ],
)
def test_an_error_that_comes_as_an_answer_is_told(error: Any, calls: int, said: str) -> None:
    with Odd(lambda good: json.dumps({"error": error}).encode()) as server:
        with ServedModel(settings(server, retries=2), None) as model, pytest.raises(ServerError, match=said):
            model.ask([question(1)])
        assert server.calls.total() == calls


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good["choices"][0].update(finish_reason="error"),
        lambda good: good["choices"][0].update(error={"message": "Provider disconnected", "code": 502}),
        lambda good: good.update(error={"message": "Provider disconnected", "code": 502}),
    ],
)
def test_an_answer_that_the_server_broke_off_is_asked_for_again(change: Changed, tmp_path: Path) -> None:
    """Gateways send what there was of it, as if it were an answer."""
    with Odd(change) as server:
        with ServedModel(settings(server, retries=2), tmp_path / "store.sqlite") as model:
            with pytest.raises(ServerError, match=r"did not answer: (Provider disconnected 502|the server broke)"):
                model.ask([question(1)])
            assert model.meter.calls == 0
        assert server.calls.total() == 3


@pytest.mark.parametrize("body", [b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"[]", b"{}", b"null"])
def test_what_is_no_completion_is_one_message(body: bytes) -> None:
    with Odd(lambda good: body) as server, ServedModel(settings(server, retries=1), None) as model:
        with pytest.raises(ServerError, match="no chat completion; check base_url"):
            model.ask([question(1)])
        assert server.calls.total() == 2


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"n": 5}, "n: of several answers to a request all are paid for"),
        ({"max_tokens": 400}, r"max_tokens: the length of an answer.*teacher.max_tokens.*--max_tokens"),
        ({"max_completion_tokens": 400}, "max_completion_tokens: the length of an answer"),
        ({"model": "dear"}, "model: set model"),
        ({"stream": True}, "stream: the library sets it"),
        ({"api_key": "sk-1"}, r"a key \(api_key\), which files would tell"),
        ({"extra_headers": {"Authorization": "Bearer 1"}}, r"a key \(Authorization\)"),
        ({"tools": [{"auth_token": "1"}]}, r"a key \(auth_token\)"),
    ],
)
def test_what_would_change_the_cost_is_no_extra_field(extra: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"it must not hold {said}"):
        ServerSettings(extra=extra)


def test_fields_that_only_sound_like_a_key_are_sent() -> None:
    extra = {"stop_token_ids": [2], "min_tokens": 3, "chat_template_kwargs": {"keys": 1}, "bad_words": ["secret"]}
    assert ServerSettings(extra=extra).extra == extra


@pytest.mark.parametrize(
    "address",
    ["http://", "http:///v1", "http://127.0.0.1:99999/v1", "http://host:x/v1", "http://[::1/v1", "http://a b/v1"],
)
def test_an_address_to_which_nobody_can_connect_is_refused_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"is no address; one is http://127.0.0.1:8000/v1"):
        ServerSettings(base_url=address)
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(SettingsError, match=r"OPENAI_BASE_URL cannot be used: .*is no address"):
        ServedModel(ServerSettings(model="m"), None)


def test_after_an_error_that_nobody_foresaw_no_more_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Calls._read

    def odd(self: Calls, text: str, ask: Ask) -> Answer | Failed:
        if ask == question(0):
            raise ZeroDivisionError
        return read(self, text, ask)

    monkeypatch.setattr(Calls, "_read", odd)
    with FakeServer(lambda text, tried: None if text == "question 0" else "slow") as server:
        server.delay = 0.2
        with ServedModel(settings(server, concurrency=2), None) as model:
            with pytest.raises(ZeroDivisionError):
                model.ask([question(i) for i in range(12)])
            time.sleep(0.5)
            assert server.calls.total() <= 3
            assert model.meter.calls == server.billed.total() - 1


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT interrupts, as it does not where tests were started in the background of a script."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_waits_for_the_calls_in_flight(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    with FakeServer(delay=1.5) as server, ServedModel(settings(server, concurrency=8), store) as model:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            model.ask([question(i) for i in range(30)])
        assert model.meter.calls == server.billed.total() == 8
    server = FakeServer(port=server.port)
    with server, ServedModel(settings(server), store) as model:
        model.ask([question(i) for i in range(30)])
        assert server.calls.total() == 22


@pytest.mark.parametrize(
    "row",
    [
        '{"text": "a", "new": 1}',
        '{"text": "a", "finish": "stop", "prompt_tokens": "1", "completion_tokens": 1}',
        '{"reason": "a", "new": 1}',
        "[]",
        "null",
        "no JSON",
    ],
)
def test_an_answer_of_another_version_is_one_message(row: str, tmp_path: Path) -> None:
    with FakeServer() as server:
        with ServedModel(settings(server), tmp_path / "store.sqlite") as model:
            model.ask([question(1)])
        with sqlite3.connect(tmp_path / "store.sqlite") as database:
            database.execute("INSERT INTO memo VALUES (?, ?)", (b"0", row))
        with pytest.raises(RunFolderError, match=r"store of answers .* cannot be used \(.*another version.*Restore it"):
            ServedModel(settings(server), tmp_path / "store.sqlite")
