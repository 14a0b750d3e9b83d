"""The client of model servers, against one that fails in every way: nothing is lost, and nothing is paid for twice."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from conftest import Heard
from fake_server import LASTING, PASSING, FakeServer, error
from reflect_rl.bench.chat_server import completion, response
from reflect_rl.bench.client import bench_client, client_table
from reflect_rl.core_yaml import parse_yaml
from reflect_rl.errors import BudgetError, RunFolderError, ServerError, SettingsError
from reflect_rl.memo import Memo
from reflect_rl.model_servers.calls import hide_keys, label_logprobs, retry_after, without_thinking
from reflect_rl.model_servers.meter import PRICES, price_of
from reflect_rl.model_servers.model import ServedModel
from reflect_rl.model_servers.records import Answer, Ask, Failed, Message
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream
from reflect_rl.settings.server import ServerSettings

KEY = "sk-planted-0123456789abcdef"
CALLS = 1000
FAULTS = (*PASSING, *LASTING)
SLOW = ("hang", "trickle")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def settings(server: FakeServer, **more: Any) -> ServerSettings:
    quick = {"model": "m", "base_url": server.base_url, "timeout": 4.0, "max_retry_wait": 0.01, "concurrency": 64}
    return ServerSettings(**(quick | more))


def question(number: int, sample: int = 0) -> Ask:
    return Ask((Message("system", "Be brief."), Message("user", f"question {number}")), 20, sample=sample)


def planned(text: str) -> str | None:
    """The fault of a question: one of ten for half of them. Those that cost the time-out are rare."""
    random = stream(0, f"fault {text}")
    return (
        str(random.choice(FAULTS, p=[0.02 if kind in SLOW else 0.12 for kind in FAULTS]))
        if random.random() < 0.5
        else None
    )


def fault(text: str, tried: int) -> str | None:
    """A passing fault is there for one or two tries; a slow one for one."""
    kind = planned(text)
    return kind if kind in LASTING or tried <= len(text) % 2 * (kind not in SLOW) else None


def expected(number: int) -> str | None:
    """The text of the answer; None where there is none to be had."""
    return None if planned(f"question {number}") in LASTING else f"Answer to question {number}"


def check_books(server: FakeServer, answers: list[Answer | Failed], model: ServedModel) -> None:
    assert [answer.text if isinstance(answer, Answer) else None for answer in answers] == [
        expected(number) for number in range(CALLS)
    ]
    assert set(server.billed.values()) == {1}  # none was paid for twice
    free = [number for number in range(CALLS) if planned(f"question {number}") == "filter"]
    assert server.billed.total() == CALLS - len(free)
    assert [model.meter.prompt_tokens, model.meter.completion_tokens] == server.tokens
    assert model.meter.calls == CALLS
    assert model.meter.usd == pytest.approx((server.tokens[0] * 1 + server.tokens[1] * 2) / 1e6)


@pytest.fixture
def prices(tmp_path: Path) -> str:
    (tmp_path / "prices.yaml").write_text("m: {input: 1, output: 2}\n")
    return str(tmp_path / "prices.yaml")


def test_a_thousand_calls_to_a_faulty_server(tmp_path: Path, prices: str) -> None:
    arrived: Counter[int] = Counter()
    with FakeServer(fault, key=KEY) as server:
        with ServedModel(settings(server, prices=prices), tmp_path / "store.sqlite") as model:
            answers = model.ask([question(i) for i in range(CALLS)], lambda index, answer: arrived.update([index]))
            check_books(server, answers, model)
        assert arrived == Counter(range(CALLS))
        calls = server.calls.total()
        assert {planned(text) for text in server.calls} == {*FAULTS, None}
        with ServedModel(settings(server, prices=prices), tmp_path / "store.sqlite") as model:
            assert model.ask([question(i) for i in range(CALLS)]) == answers
            check_books(server, answers, model)
        assert server.calls.total() == calls


SCRIPT = """
import sys
from pathlib import Path
from test_served_client import CALLS, question, ServedModel, ServerSettings
quick = dict(timeout=4.0, max_retry_wait=0.01, concurrency=64)
model = ServedModel(ServerSettings(model="m", base_url=sys.argv[1], prices=sys.argv[2], **quick), Path(sys.argv[3]))
model.ask([question(i) for i in range(CALLS)])
"""


def test_killed_twice_in_the_middle_and_started_again(tmp_path: Path, prices: str) -> None:
    store = tmp_path / "store.sqlite"
    with FakeServer(fault, key=KEY) as server:
        for part in (300, 650):
            server.hold_at = part
            command = [sys.executable, "-c", SCRIPT, server.base_url, prices, str(store)]
            paths = os.pathsep.join(sys.path)
            killed = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths})
            until = time.monotonic() + 60
            while server.billed.total() < part or _paid(store) < part:
                assert time.monotonic() < until
                assert killed.poll() is None
                time.sleep(0.1)
            killed.send_signal(signal.SIGKILL)
            killed.wait(10)
            server.release()
        with ServedModel(settings(server, prices=prices), store) as model:
            check_books(server, model.ask([question(i) for i in range(CALLS)]), model)


def _paid(store: Path) -> int:
    """Answers in the store that the server billed."""
    if not store.exists():
        return 0
    memo = Memo(store, "")
    try:
        return sum('"prompt_tokens": 0' not in text for text in memo.texts())
    finally:
        memo.close()


def test_calls_run_side_by_side_up_to_the_limit() -> None:
    with FakeServer(delay=0.02) as server, ServedModel(settings(server, concurrency=7), None) as model:
        model.ask([question(i) for i in range(50)])
        assert server.most_at_once == 7


def test_equal_asks_are_sent_once_and_samples_apart() -> None:
    with FakeServer() as server, ServedModel(settings(server), None) as model:
        arrived: list[int] = []
        asks = [question(1), question(2), question(1), question(1, sample=1)]
        answers = model.ask(asks, lambda index, answer: arrived.append(index))
        assert answers[0] == answers[2]
        assert sorted(arrived) == [0, 1, 2, 3]
        assert server.calls == {"question 1": 2, "question 2": 1}
        estimate = model.estimate([*asks, question(3), question(3)])
        assert (estimate.calls, estimate.completion_tokens, estimate.usd) == (1, 20, None)


def test_another_model_temperature_or_field_is_asked_anew(tmp_path: Path) -> None:
    with FakeServer() as server:
        for changed in ({}, {"temperature": 0.5}, {"extra": {"top_k": 3}}, {}):
            with ServedModel(settings(server, **changed), tmp_path / "store.sqlite") as model:
                model.ask([question(1)])
        assert server.calls.total() == 3
        assert server.requests[2]["top_k"] == 3


def test_a_hard_budget_is_never_exceeded_and_counts_earlier_processes(tmp_path: Path, prices: str) -> None:
    with FakeServer(delay=0.005) as server:
        bound = ServedModel(settings(server, prices=prices), None)
        one = bound.ask([question(0)])[0]
        bound.close()
        assert isinstance(one, Answer)
        assert one.usd
        limited = settings(server, prices=prices, budget_usd=20 * one.usd)
        for _ in range(2):
            with ServedModel(limited, tmp_path / "store.sqlite") as model:
                with pytest.raises(BudgetError, match=r"used up.*Raise budget_usd") as caught:
                    model.ask([question(i) for i in range(40)])
                assert caught.value.exit_code == 3
                spent = model.meter.usd
                assert spent is not None
                assert 10 * one.usd < spent <= 20 * one.usd
        with ServedModel(settings(server, prices=prices, budget_usd=1.0), tmp_path / "store.sqlite") as model:
            assert all(isinstance(answer, Answer) for answer in model.ask([question(i) for i in range(40)]))
        assert server.billed["question 1"] == 1


def test_a_budget_counts_what_was_answered_before_the_price_was_known(tmp_path: Path, prices: str) -> None:
    with FakeServer() as server:
        with ServedModel(settings(server), tmp_path / "store.sqlite") as model:
            model.ask([question(i) for i in range(3)])
        with ServedModel(settings(server, prices=prices, budget_usd=1.0), tmp_path / "store.sqlite") as model:
            assert model.meter.usd == pytest.approx((server.tokens[0] + 2 * server.tokens[1]) / 1e6)


def test_a_budget_without_a_price_and_unusable_prices_are_refused(tmp_path: Path) -> None:
    with FakeServer() as server:
        with pytest.raises(SettingsError, match=r"budget_usd needs a price.*'m'"):
            ServedModel(settings(server, budget_usd=1.0), None)
        for content in (
            "m: 3",
            "m: {input: 1}",
            "m: {input: -1, output: 2}",
            "- m",
            "m: {input: x, output: 2}",
            "a: [",
        ):
            (tmp_path / "bad.yaml").write_text(content)
            with pytest.raises(SettingsError, match="prices in"):
                ServedModel(settings(server, prices=str(tmp_path / "bad.yaml")), None)
        with pytest.raises(SettingsError, match="prices in"):
            ServedModel(settings(server, prices=str(tmp_path / "none.yaml")), None)


def test_the_prices_that_ship_can_be_used() -> None:
    prices = {name: price_of(ServerSettings(model=name)) for name in parse_yaml(PRICES.read_text())}
    assert all(price and 0 < price.input < price.output for price in prices.values())
    assert price_of(ServerSettings(model="m")) is None


def test_a_server_that_stays_away_ends_the_command_and_what_arrived_is_kept(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    with FakeServer() as server, ServedModel(settings(server), store) as model:
        model.ask([question(i) for i in range(5)])
    with ServedModel(settings(server, retries=2), store) as model:
        with pytest.raises(ServerError, match=r"did not answer.*3 tries.*run the same command again") as caught:
            model.ask([question(i) for i in range(10)])
        assert caught.value.exit_code == 3
    with FakeServer(port=server.port) as back, ServedModel(settings(back), store) as model:
        assert len(model.ask([question(i) for i in range(10)])) == 10
        assert back.calls.total() == 5


def test_a_key_in_an_address_is_sent_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as server:
        address = f"{server.base_url}?api-key={KEY[3:]}"
        with pytest.raises(ValidationError, match=r"must not hold a key \(api-key\)"):  # a run folder would keep it
            settings(server, base_url=address)
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        with ServedModel(settings(server, base_url=None), None) as model:
            assert isinstance(model.ask([question(1)])[0], Answer)
        assert server.paths == [f"/v1/chat/completions?api-key={KEY[3:]}"]
        wrong = settings(server, base_url=None, model="other")
        with ServedModel(wrong, None) as model, pytest.raises(ServerError) as refused:
            model.ask([question(2)])
    with ServedModel(settings(server, base_url=None, retries=0), None) as model, pytest.raises(ServerError) as away:
        model.ask([question(3)])
    for caught in (refused, away):
        assert f"The model server {server.base_url}" in str(caught.value)
        assert KEY[3:] not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "changed", "said"),
    [
        ({}, {"model": "other"}, r"refused the model.*'other'.*does not exist"),
        ({"key": "sk-another-key-99"}, {}, r"refused the key in OPENAI_API_KEY"),
    ],
)
def test_a_wrong_model_or_key_is_one_message_at_once(
    server: dict[str, Any], changed: dict[str, Any], said: str
) -> None:
    with FakeServer(**server) as running, ServedModel(settings(running, **changed), None) as model:
        with pytest.raises(ServerError, match=said) as caught:
            model.ask([question(i) for i in range(100)])
        assert running.calls.total() <= 64
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_rate_limit_is_no_failure_while_others_are_answered() -> None:
    """The server answers one request of five until it is free, so a call is refused more than `retries` times."""
    came, refused = itertools.count(), itertools.count()

    def limit(text: str, tried: int) -> str | None:
        return "429" if next(came) % 5 and next(refused) < 4 * 45 else None

    with FakeServer(limit) as server, ServedModel(settings(server, retries=3, concurrency=16), None) as model:
        assert len(model.ask([question(i) for i in range(60)])) == 60
        assert max(server.calls.values()) > 4


def test_a_prompt_that_was_too_long_is_asked_again_by_the_next_process(tmp_path: Path) -> None:
    class Short(FakeServer):
        async def respond(self, request: Any, headers: Any, writer: Any) -> None:
            writer.write(error(400, "This model's maximum context length is 2048 tokens."))

    store = tmp_path / "store.sqlite"
    with Short() as server, ServedModel(settings(server), store) as model:
        (answer,) = model.ask([question(1)])
        assert isinstance(answer, Failed)
        assert answer.reason.startswith("too long for the model (")
    with FakeServer(port=server.port) as longer, ServedModel(settings(longer), store) as model:
        assert isinstance(model.ask([question(1)])[0], Answer)


def test_a_server_that_asks_for_no_wait_is_left_alone_all_the_same() -> None:
    class Hasty(FakeServer):
        async def respond(self, request: Any, headers: Any, writer: Any) -> None:
            self.calls["any"] += 1
            if self.calls["any"] > 2:
                await super().respond(request, headers, writer)
            else:
                writer.write(error(503, "Busy.", {"retry-after": "0"}))

    started = time.monotonic()
    with Hasty() as server, ServedModel(settings(server, max_retry_wait=0.2), None) as model:
        model.ask([question(1)])
    assert time.monotonic() - started > 0.4


def test_no_server_no_model_and_keys_in_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="Name the model"):
        ServedModel(ServerSettings(), None)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(SettingsError, match="There is no model server: set base_url"):
        ServedModel(ServerSettings(model="m"), None)
    for address in ("http://me:secret@host/v1", "localhost:80"):
        with pytest.raises(ValueError, match="address"):
            ServerSettings(base_url=address)
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        with pytest.raises(SettingsError, match=r"OPENAI_BASE_URL cannot be used: .*address") as caught:
            ServedModel(ServerSettings(model="m"), None)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-\xe9", "sk-two\nlines"])
def test_a_key_that_no_header_can_hold_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(SettingsError, match="OPENAI_API_KEY should be printable") as caught:
        ServedModel(ServerSettings(model="m"), None)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("field", ["max_tokens", "temperature", "logprobs"])
def test_fields_that_a_model_does_not_support_are_left_out(field: str, heard: Heard) -> None:
    class Strict(FakeServer):
        async def respond(self, request: Any, headers: Any, writer: Any) -> None:
            if field in request:
                writer.write(error(400, f"Unsupported parameter: '{field}' is not supported with this model."))
            else:
                await super().respond(request, headers, writer)

    with Strict() as server, ServedModel(settings(server, retries=0), None, heard) as model:
        asks = [Ask((Message("user", f"choose {i}"),), 9, labels=("A", "B")) for i in range(20)]
        assert all(isinstance(answer, Answer) for answer in model.ask(asks))
        assert all(
            request.get("max_completion_tokens") == (9 if field == "max_tokens" else None)
            for request in server.requests
        )
        assert len(heard.warned) == (field != "max_tokens")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "You are not allowed to request logprobs from this model"),
        (400, "Logprobs is not enabled for models/m"),
        (400, "Requested sample logprobs of 20, which is greater than max allowed: 5"),
        (422, "body.top_logprobs: Extra inputs are not permitted"),
    ],
)
def test_log_probabilities_are_left_out_in_whatever_words_they_are_refused(
    status: int, said: str, heard: Heard
) -> None:
    class Strict(FakeServer):
        async def respond(self, request: Any, headers: Any, writer: Any) -> None:
            if "logprobs" in request or "top_logprobs" in request:
                writer.write(error(status, said))
            else:
                await super().respond(request, headers, writer)

    with Strict() as server, ServedModel(settings(server, retries=0), None, heard) as model:
        asks = [Ask((Message("user", f"choose {i}"),), 9, labels=("A", "B")) for i in range(3)]
        assert all(isinstance(answer, Answer) for answer in model.ask(asks))
    assert heard.warned == ["m does not support logprobs: it is asked without."]


@pytest.mark.parametrize(
    ("changed", "text", "tokens"),
    [
        ({"usage": None}, "fine", (115, 20)),
        ({"usage": {"prompt_tokens": None, "completion_tokens": 3}}, "fine", (115, 3)),
        ({"content": "half \ud800 a pair"}, "half ? a pair", (10, 5)),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "fine"}]}, "fine", (10, 5)),
    ],
)
def test_odd_answers_are_read_as_they_are_paid_for(changed: dict[str, Any], text: str, tokens: tuple[int, int]) -> None:
    class Odd(FakeServer):
        async def respond(self, request: Any, headers: Any, writer: Any) -> None:
            good = completion("fine")
            good["choices"][0]["message"] |= {key: value for key, value in changed.items() if key == "content"}
            writer.write(response(good | {key: value for key, value in changed.items() if key == "usage"}))

    with Odd() as server, ServedModel(settings(server, retries=0), None) as model:
        (answer,) = model.ask([question(1)])
    assert answer == Answer(text, "stop", *tokens)


def test_log_probabilities_of_labels_at_the_first_token() -> None:
    top = [{"token": "A", "logprob": -1.0}, {"token": " A", "logprob": -2.0}, {"token": "x", "logprob": -0.5}]
    top.append({"token": "B", "logprob": float("-inf")})  # as json reads -Infinity
    choice = {"logprobs": {"content": [{"top_logprobs": top}, {"top_logprobs": []}]}}
    assert label_logprobs(choice, ("A", "B"), "A") == pytest.approx({"A": -0.6867}, abs=1e-4)
    never = [{"token": token, "logprob": -9999.0} for token in ("A", " A")]  # as OpenAI gives unlikely tokens
    assert label_logprobs({"logprobs": {"content": [{"top_logprobs": never}]}}, ("A",), "A") == {
        "A": pytest.approx(-9998.3, abs=0.1)
    }
    assert label_logprobs(choice, (), "A") is None
    blank = [{"token": "A", "logprob": -5.0}, {"token": "B", "logprob": -6.0}]
    content = [{"token": token, "top_logprobs": blank} for token in ("", "\n\n")]
    assert label_logprobs({"logprobs": {"content": content}}, ("A", "B"), "B") is None
    content.append({"token": "B", "top_logprobs": [{"token": "B", "logprob": -0.1}]})
    assert label_logprobs({"logprobs": {"content": content}}, ("A", "B"), "B") == {"B": -0.1}
    assert label_logprobs({"logprobs": None}, ("A",), "A") is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>\nA or B?\n</think>\n\nB", "B"),
        ("<think>A or", ""),
        (" B <think> ", "B <think>"),
        ("", ""),
        ("One.\nAction: go south? no.\n</think>\nAction: go north", "Action: go north"),
        ("<think>A</think>no</think>\nB", "B"),
    ],
)
def test_thoughts_are_no_part_of_an_answer(text: str, left: str) -> None:
    assert without_thinking(text) == left


def test_the_bench_compares_with_a_plain_loop_in_one_run() -> None:
    figures = bench_client(Progress(), calls=128, delay=0.05, repeats=1)
    assert figures["server_limit"] == 1280
    assert 0 < figures["plain_calls_per_second"] < 1280
    assert figures["ratio"] == figures["client_calls_per_second"] / figures["plain_calls_per_second"]
    assert f"ratio             {figures['ratio']:.3f}" in client_table(figures)


def test_retry_after_in_seconds_milliseconds_or_as_a_date() -> None:
    assert retry_after({"retry-after": "3"}) == 3
    assert retry_after({"retry-after-ms": "250", "retry-after": "3"}) == 0.25
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


@pytest.mark.parametrize("text", ["bad sk-proj-ABC***xyz.", f"key {KEY}", "Bearer abc.def", "local-token is wrong"])
def test_keys_are_hidden(text: str) -> None:
    hidden = hide_keys(text, "local-token")
    assert "***" in hidden
    for secret in ("ABC", KEY, "abc.def", "local-token"):
        assert secret not in hidden


def test_a_damaged_store_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("not a database, but long enough to be looked at" * 99)
    with FakeServer() as server, pytest.raises(RunFolderError, match=r"store of answers.*Restore it"):
        ServedModel(settings(server), tmp_path / "store.sqlite")
