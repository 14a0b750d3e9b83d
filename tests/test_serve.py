"""A served agent: a real server process on a free port, and real clients."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from end_to_end import reflect_rl, refused
from reflect_rl.bench.serve import bench_serve, serve_table
from reflect_rl.envs.checked import advance, begin
from reflect_rl.players.agent import Agent
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.serving.limits import Limits
from serving_process import WAIT, Server, served

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'reflect-rl[serve]'")

TOKEN = "a-planted-secret"
CLIENTS = 64
SHORT = Limits(body=20_000, states=8, observation=2_000, actions=20, action=100, read_seconds=0.5)
JSON = {"content-type": "application/json"}
ROOT = Path(__file__).parents[1]

Turns = list[tuple[dict[str, Any], dict[str, Any]]]
"""The requests of an episode, and the answers of `Agent.act`."""


@pytest.fixture(scope="module")
def server(whole: Path) -> Iterator[Server]:
    with served(whole) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(whole: Path) -> Iterator[Server]:
    """A server with a token and short limits."""
    with served(whole, SHORT, TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def episodes(whole: Path) -> list[Turns]:
    """Greedy episodes of the agent on its own."""
    agent = Agent.load(whole)
    env = Context(agent.settings).make_env()
    return [list(_played(agent, env, task)) for task in env.tasks("train")[:CLIENTS]]


def _played(agent: Agent, env: Any, task: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    agent.reset()
    observation, actions, _ = begin(env, 0, {"task": task})
    for _ in range(6):
        decision = agent.act(observation, actions)
        yield {"observation": observation, "actions": actions}, json.loads(json.dumps(asdict(decision)))
        observation, actions, _, stop = advance(env, decision.choice)
        if stop is not None:
            return


def head(path: str = "/act", length: int = 2, token: str = TOKEN) -> bytes:
    """The head of a request."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", f"content-length: {length}"]
    return "\r\n".join([*lines, f"authorization: Bearer {token}", "\r\n"]).encode()


# Acting


def test_many_clients_at_once_get_the_answers_of_the_agent(server: Server, episodes: list[Turns]) -> None:
    def play(number: int) -> list[dict[str, Any]]:
        with server.client() as client:
            asks = [{**ask, "session": f"client {number}"} for ask, _ in episodes[number]]
            return [client.post("/act", json=ask).json() for ask in asks]

    with ThreadPoolExecutor(CLIENTS) as clients:
        given = list(clients.map(play, range(CLIENTS)))
    assert len(episodes) == CLIENTS
    assert max(map(len, episodes)) > 1
    for answers, turns in zip(given, episodes, strict=True):
        assert answers == [{**answer, "step": step} for step, (_, answer) in enumerate(turns, start=1)]
    passes, states = (meter(server, f"reflect_rl_pass_states_{name}") for name in ("count", "sum"))
    assert states > passes  # some went through the models together


def meter(server: Server, name: str) -> float:
    with server.client() as client:
        return float(re.findall(rf"^{re.escape(name)} (\S+)", client.get("/metrics").text, re.MULTILINE)[0])


def test_a_list_of_states_gets_a_list_of_answers(server: Server, episodes: list[Turns]) -> None:
    asks, answers = zip(*(turns[0] for turns in episodes[:5]), strict=True)
    with server.client() as client:
        assert client.post("/act", json=list(asks)).json() == list(answers)


def test_a_session_goes_on_until_it_begins_anew(server: Server, whole: Path, episodes: list[Turns]) -> None:
    ask, answer = episodes[0][0]
    agent = Agent.load(whole)
    agent.act(**ask)
    second = json.loads(json.dumps(asdict(agent.act(**ask))))
    assert second["probabilities"] != answer["probabilities"]
    with server.client() as client:
        acts = [client.post("/act", json={**ask, "session": "s", "first": first}).json() for first in (True, False)]
        assert acts == [{**answer, "step": 1}, {**second, "step": 2}]
        assert client.post("/act", json={**ask, "session": "s", "first": True}).json() == {**answer, "step": 1}
        assert client.post("/act", json=ask).json() == answer  # without a session there is no past


def test_a_refused_request_leaves_its_sessions_as_they_were(server: Server, episodes: list[Turns]) -> None:
    (ask, answer), *_ = episodes[0]
    with server.client() as client:
        long = {"observation": "word " * 5_000, "actions": ["a", "b"], "session": "kept"}
        assert client.post("/act", json=[{**ask, "session": "other"}, long]).status_code == 422
        assert client.post("/act", json={**ask, "session": "kept"}).json() == {**answer, "step": 1}
        twice = client.post("/act", json=[{**ask, "session": "kept"}] * 2)
        assert (twice.status_code, "twice at once" in twice.text) == (409, True)
        assert client.post("/act", json={**ask, "session": "other"}).json() == {**answer, "step": 1}


# What is refused

STATE = {"observation": "o", "actions": ["a", "b"]}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "no JSON"),
        (b'{"observation"', 400, "no JSON"),
        (b"\xff", 400, "no JSON"),
        (b'{"observation": "o", "actions": ["a"], "facts": {"x": NaN}}', 400, "NaN is no number"),
        (b"[" * 10_000, 400, "no JSON"),
        (b"3", 400, "should be a JSON object"),
        (b"[]", 400, "0 states"),
        (json.dumps([STATE] * 9).encode(), 400, "9 states; send 1 to 8"),
        (json.dumps([STATE, {"observation": "o"}]).encode(), 400, "State 1 of the list .* 'actions' is missing"),
        (json.dumps({"observation": "o"}).encode(), 400, "'actions' is missing"),
        (json.dumps({**STATE, "observation": 3}).encode(), 400, "'observation' is 3"),
        (json.dumps({**STATE, "actions": "north"}).encode(), 400, "'actions' is 'north'"),
        (json.dumps({**STATE, "colour": 1}).encode(), 400, "'colour' is not known"),
        (json.dumps({**STATE, "session": 1}).encode(), 400, "'session' is 1"),
        (json.dumps({**STATE, "actions": []}).encode(), 422, "chooses from a list of distinct texts"),
        (json.dumps({**STATE, "actions": ["a", "a"]}).encode(), 422, "chooses from a list of distinct texts"),
        (json.dumps({**STATE, "observation": "\ud800"}).encode(), 422, "without lone surrogates"),
        (json.dumps({**STATE, "observation": "o" * 2_001}).encode(), 413, "2001 characters of observation"),
        (json.dumps({**STATE, "actions": [str(n) for n in range(21)]}).encode(), 413, "21 actions"),
        (json.dumps({**STATE, "actions": ["a" * 101]}).encode(), 413, "101 characters in an action"),
        (json.dumps({**STATE, "session": "s" * 101}).encode(), 413, "101 characters in the session"),
        (b" " * 20_001, 413, "more than 20000 bytes"),
    ],
)
def test_bad_input_gets_a_status_and_a_reason(guarded: Server, body: bytes, status: int, said: str) -> None:
    with guarded.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        answer = client.post("/act", content=body, headers=JSON)
        assert answer.status_code == status
        assert re.search(said, answer.json()["error"]["message"]), answer.text
        assert client.post("/act", json=STATE).status_code == 200  # nothing is broken


def test_a_body_without_an_announced_length_is_limited_too(guarded: Server) -> None:
    with guarded.client(headers={"authorization": f"Bearer {TOKEN}", **JSON}) as client:
        answer = client.post("/act", content=(b" " * 1_000 for _ in range(25)))
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head(length=10**9), 413),  # before any of it is sent
        (head(length=20), 408),  # the body never comes
        (head(length=20) + b'{"obs', 408),
        (head()[:40], 408),  # half a head
        (b"", 408),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # TLS
        (head(token="wrong"), 401),
        (head("/nothing"), 404),
        (head().replace(b"POST", b"PUT"), 405),
        (head().replace(b"application/json", b"text/plain"), 415),
    ],
)
def test_odd_and_half_open_requests_get_their_status_and_are_closed(guarded: Server, sent: bytes, status: int) -> None:
    started = time.monotonic()
    assert guarded.send(sent).startswith(f"HTTP/1.1 {status} ".encode())
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("path", "token", "status"), [("/nothing", TOKEN, 404), ("/act", "wrong", 401)])
def test_a_refused_request_is_answered_though_its_body_comes_later(
    guarded: Server, path: str, token: str, status: int
) -> None:
    """Clients such as httpx send head and body apart, and lose the answer if the connection is closed between them."""
    with closing(HTTPConnection("127.0.0.1", guarded.port, timeout=10)) as connection:
        connection.putrequest("POST", path)
        connection.putheader("authorization", f"Bearer {token}")
        connection.putheader("content-length", "20")
        connection.endheaders()
        time.sleep(0.2)
        connection.send(b" " * 20)
        refused = connection.getresponse()
        assert (refused.status, refused.headers["connection"]) == (status, None)
        assert "error" in json.load(refused)
        connection.auto_open = 0
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200


def test_a_client_that_goes_away_harms_nobody(guarded: Server) -> None:
    for sent in (b"", head()[:30], head(length=400), head(length=400) + b'{"obs', head(length=2) + b"{}") * 5:
        with socket.create_connection(("127.0.0.1", guarded.port)) as opened:
            opened.sendall(sent)
    with guarded.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        assert client.post("/act", json=STATE).status_code == 200
    assert guarded.log.read_text().count("\n") == 1  # the address


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ANYTHING = st.recursive(PLAIN, lambda values: st.lists(values) | st.dictionaries(st.text(), values), max_leaves=8)
FIELDS = {"observation": st.text(), "actions": st.lists(st.text()), "session": st.text(), "facts": ANYTHING}


@given(ANYTHING | st.fixed_dictionaries({}, optional={name: kind | ANYTHING for name, kind in FIELDS.items()}))
def test_whatever_is_sent_the_server_does_not_fail(guarded: Server, data: Any) -> None:
    sent = json.dumps(data).encode()
    with guarded.client(headers={"authorization": f"Bearer {TOKEN}", **JSON}) as client:
        for path in ("/act", "/v1/chat/completions", "/worlds", "/worlds/x"):
            assert client.post(path, content=sent).status_code in (200, 400, 404, 413, 422)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"nope": 1}, "'nope' is not known"),
        ({"seed": "5"}, "'seed' is '5'"),
        ({"seed": True}, "'seed' is True"),
        ({"seed": 5.0}, "'seed' is 5.0"),
        ({"task": 3}, "'task' is 3"),
        ({"choice": 0, "zzz": 1}, "'zzz' is not known"),
        ({"choice": "0"}, "'choice' is '0'"),
        ({"choice": False}, "'choice' is False"),
        ({"choice": -1}, "The choice is -1"),
    ],
)
def test_a_request_of_the_page_that_cannot_be_read_gets_a_reason(
    server: Server, data: dict[str, Any], said: str
) -> None:
    with server.client() as client:
        begun = client.post("/worlds", json={"seed": 5}).json()["world"]
        path = f"/worlds/{begun}" if "choice" in data else "/worlds"
        answer = client.post(path, json=data)
        assert answer.status_code == 400, answer.text
        assert said in answer.json()["error"]["message"]
        assert client.get(f"/worlds/{begun}").json()["step"] == 0


@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer \xe9"])
@pytest.mark.parametrize("path", ["/card", "/metrics", "/v1/models", "/worlds", "/nothing"])
def test_without_the_token_nothing_is_told(guarded: Server, path: str, given: str | None) -> None:
    with guarded.client() as client:
        answer = client.get(path, headers={"authorization": given.encode("latin-1")} if given else {})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert [client.get(path).status_code for path in ("/", "/health")] == [200, 200]


def test_a_server_without_a_token_answers_to_this_machine_only(server: Server) -> None:
    with server.client() as client:
        names = {"localhost:80": 200, "127.0.0.1": 200, "[::1]:8080": 200, "evil.example": 403, "": 403, "[": 403}
        given = {name: client.get("/health", headers={"host": name}).status_code for name in names}
    assert given == names


def test_the_token_is_written_nowhere(guarded: Server, whole: Path) -> None:
    with guarded.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        told = [client.get(path).text for path in ("/", "/health", "/card", "/metrics", "/worlds", "/v1/models")]
    guarded.send(head(length=10**9))
    files = [path.read_bytes() for path in whole.rglob("*") if path.is_file()]
    assert [text for text in (*told, guarded.log.read_text()) if TOKEN in text] == []
    assert [data for data in files if TOKEN.encode() in data] == []


# What is told


def test_card_health_and_metrics(server: Server, whole: Path) -> None:
    with server.client() as client:
        assert client.get("/card").text.startswith("---\nlibrary_name: reflect-rl")
        assert "an agent for taxi" in client.get("/card").text
        assert client.get("/health").json().items() >= {"status": "ok", "agent": whole.name}.items()
        client.get("/somewhere/else")
    assert meter(server, 'reflect_rl_requests_total{path="other",status="404"}') >= 1
    assert meter(server, "process_resident_memory_bytes") > 1e6


# The OpenAI protocol


def told(ask: dict[str, Any], as_json: bool) -> str:
    lines = "".join(f"\n- {action}" for action in ask["actions"])
    return json.dumps(ask) if as_json else f"{ask['observation']}\n\nActions:{lines}"


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_chat_is_an_episode(guarded: Server, episodes: list[Turns], as_json: bool, stream: bool) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed: pip install 'reflect-rl[api]'")
    turns = max(episodes, key=len)
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=TOKEN, max_retries=0, timeout=WAIT) as client:
        plain, reflecting = [model.id for model in client.models.list()]
        for model in (plain, reflecting):
            messages: list[dict[str, str]] = [{"role": "system", "content": "You drive a taxi."}]
            for ask, answer in turns:
                messages.append({"role": "user", "content": told(ask, as_json)})
                given = client.chat.completions.create(model=model, messages=messages, stream=stream, temperature=0.5)
                text = (
                    "".join(piece.choices[0].delta.content or "" for piece in given)
                    if stream
                    else given.choices[0].message.content
                )
                reflection = "" if model == plain else f"{answer['reflection']}\n\n"
                assert text == reflection + answer["action"]
                messages.append({"role": "assistant", "content": text})


@pytest.mark.parametrize(
    ("chat", "status", "said"),
    [
        ({"messages": []}, 400, "not the user's"),
        ({"messages": [{"role": "user", "content": "hello"}]}, 400, "names no actions"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "other than text"),
        ({"messages": [{"role": "user", "content": "o\nActions:\n"}]}, 422, "distinct texts"),
        ({"messages": [{"role": "user", "content": '{"observation": "o"}'}]}, 400, "'actions' is missing"),
        ({"n": 2}, 400, "n = 1"),
        ({"n": True}, 400, "'n' is True"),
        ({"stream": "no"}, 400, "'stream' is 'no'"),
        ({"model": "gpt-4"}, 404, "no model 'gpt-4'"),
        ({"model": 4}, 400, "'model' is 4"),
        (
            {"messages": [{"role": "user", "content": "o\nactions:\na"}, {"role": "assistant", "content": "b"}] * 2},
            400,
            "not the user's",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "o\nactions:\na"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "o\nactions:\na"},
                ]
            },
            400,
            "does not end in an action",
        ),
    ],
)
def test_a_chat_without_a_state_gets_a_reason(
    guarded: Server, whole: Path, chat: dict[str, Any], status: int, said: str
) -> None:
    ask = {"model": whole.name, "messages": [{"role": "user", "content": "o\nActions:\na\nb"}], **chat}
    with guarded.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        answer = client.post("/v1/chat/completions", json=ask)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]["message"]


def test_an_action_of_a_chat_may_end_in_white_space(guarded: Server, whole: Path) -> None:
    """As this server answered it, or as a client has trimmed it."""
    told = json.dumps({"observation": "o", "actions": [" a ", "b"]})
    with guarded.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        for answer in (" a ", "a", "b "):
            turns = [{"role": "user", "content": told}, {"role": "assistant", "content": answer}]
            ask = {"model": whole.name, "messages": [*turns, {"role": "user", "content": told}]}
            assert client.post("/v1/chat/completions", json=ask).status_code == 200


# Beginning and ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_after_its_answers(whole: Path, episodes: list[Turns], number: int) -> None:
    with served(whole) as running, ThreadPoolExecutor(8) as threads, running.client() as client:
        asks = [ask for turns in episodes for ask, _ in turns][:48]
        waiting = [threads.submit(client.post, "/act", json=asks[n::8]) for n in range(8)]
        while not any(future.done() for future in waiting):
            time.sleep(0.005)
        code = running.end(number)
        statuses = {future.result().status_code for future in waiting if future.exception() is None}
        assert (code, running.log.read_text().count("\n"), statuses) == (0, 1, {200})


def test_who_is_impatient_ends_a_server_as_well(whole: Path) -> None:
    """A second SIGINT comes from a wrapper that passes it on, or from a person."""
    with served(whole) as running, running.client() as client:
        assert client.get("/health").status_code == 200
        os.kill(running.process.pid, signal.SIGINT)
        time.sleep(0.02)
        code = running.end(signal.SIGINT)
        assert (code, running.log.read_text().count("\n")) == (0, 1)


def test_a_port_in_use_is_one_message(server: Server, whole: Path) -> None:
    refused(reflect_rl("serve", str(whole), "--port", str(server.port)), "is in use", "--port")


def test_other_machines_need_a_token(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFLECT_RL_TOKEN", raising=False)
    refused(reflect_rl("serve", str(whole), "--host", "0.0.0.0"), "needs a token", "REFLECT_RL_TOKEN")
    refused(reflect_rl("serve", str(whole), "--token-env", "NOT_THERE"), "NOT_THERE is not set")


def test_a_run_without_an_agent_is_one_message(tmp_path: Path) -> None:
    refused(reflect_rl("serve", str(tmp_path), "--port", "0"), "no trained agent")


def test_the_examples_of_the_documents_work(whole: Path, server: Server) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```sh\n(curl .*?)^```\n(?:\n```json\n(.*?)^```)?", page, flags=re.MULTILINE | re.DOTALL)
    assert len(shown) >= 5
    for command, answer in shown:
        words = shlex.split(
            command.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}").replace("taxi-", f"{whole.name}-")
        )
        done = subprocess.run([*words, "-sS", "--fail-with-body"], capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == 0, done
        if answer:
            assert _shape(json.loads(done.stdout)) == _shape(json.loads(answer)), command


def _shape(data: Any) -> Any:
    """Keys and types of an answer."""
    if isinstance(data, dict):
        return {key: _shape(value) for key, value in data.items()}
    return [_shape(data[0])] if isinstance(data, list) and data else type(data)


def test_the_benchmark_compares_a_server_with_its_agent(whole: Path) -> None:
    figures = bench_serve(whole, 300, Progress())
    assert figures["differ"] == 0
    assert figures["all"]["requests"] >= 300
    assert figures["all"]["p50_ms"] <= figures["all"]["p99_ms"] <= figures["all"]["max_ms"]
    assert "0 answers differ" in serve_table(figures)
    refused(reflect_rl("bench", "serve"), "--run")
