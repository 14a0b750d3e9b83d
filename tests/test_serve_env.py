"""`serve-env`: a real server process, its sessions, its limits, and OpenEnv's own client."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reflect_rl as rr
from bridges_page import Section, environment, python_of, run, running
from ports import free_port
from reflect_rl.cli.serve import serve_env
from reflect_rl.envs.alfworld.data import AlfworldDataError
from reflect_rl.errors import EnvironmentContractError, SettingsError

pytest.importorskip("websockets", reason="websockets is not installed: pip install 'reflect-rl[openenv]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'reflect-rl[openenv]'")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from reflect_rl.serving.openenv import Play, Refused

TOKEN = "a-planted-secret"
WORLD = '''
import os, time
from reflect_rl import SimpleTextEnv, StopReason

class Trap(SimpleTextEnv):
    """A world that fails in several ways."""
    task_text = "Do not touch."
    actions = ("wait", "fail", "sleep")
    def tasks(self, split):
        self.check_split(split)
        return (f"{split}-0", f"{split}-1")
    def begin(self, task, stage):
        self.seed = int(self.np_random.integers(1000))
    def observe(self):
        return f"{self.task} {self.seed}"
    def act(self, choice):
        if choice == 1:
            raise RuntimeError("it failed \\ud800")
        time.sleep(choice)
        return 1.0, None
    def close(self):
        with open("closed", "a") as log:
            log.write("x")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    (made / "trap.py").write_text(WORLD)
    return made


def command(port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "reflect_rl", "serve-env", "trap:Trap", "--port", str(port), *more]


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    number = free_port()
    with running(command(number, "--env.horizon", "3", "--sessions", "3"), folder, number):
        yield number


def session(port: int, **options: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}/ws", proxy=None, **options)


def ask(client: ClientConnection, kind: str, **data: Any) -> Any:
    client.send(json.dumps({"type": kind, "data": data}))
    answer = json.loads(client.recv(timeout=60))
    return answer["data"]["code"] if answer["type"] == "error" else answer["data"]


def code_of(error: ConnectionClosed) -> int | None:
    """The close code that the server sent."""
    return error.rcvd.code if error.rcvd else None


def test_an_episode(port: int) -> None:
    with session(port) as client:
        first = ask(client, "reset", task="test-1", seed=5, episode_id="mine")
        assert first["observation"]["actions"] == ["wait", "fail", "sleep"]
        assert (first["observation"]["task"], first["reward"], first["done"]) == ("test-1", None, False)
        again = ask(client, "reset", task="test-1", seed=5, episode_id="mine")
        assert again == first
        steps = [ask(client, "step", message="wait", metadata={"by": "me"}) for _ in range(3)]
        assert [step["reward"] for step in steps] == [1.0, 1.0, 1.0]
        assert [step["done"] for step in steps] == [False, False, True]
        assert (steps[2]["observation"]["success"], steps[2]["observation"]["stop"]) == (False, "horizon")
        assert ask(client, "state") == {"episode_id": "mine", "step_count": 3, "task": "test-1"}
        assert ask(client, "step", message="wait") == "EXECUTION_ERROR"


def test_what_cannot_be_followed_changes_nothing(port: int) -> None:
    with session(port) as client:
        assert ask(client, "step", message="wait") == "EXECUTION_ERROR"
        begun = ask(client, "reset", split="valid", seed=1)
        begun_as = ask(client, "state")["episode_id"]
        assert begun["observation"]["task"] in ("valid-0", "valid-1")
        for kind, data, code in (
            ("step", {"message": "fly"}, "VALIDATION_ERROR"),
            ("step", {"message": 3}, "VALIDATION_ERROR"),
            ("step", {}, "VALIDATION_ERROR"),
            ("step", {"message": "wait", "speed": 2}, "VALIDATION_ERROR"),
            ("reset", {"seed": -1}, "VALIDATION_ERROR"),
            ("reset", {"seed": "5"}, "VALIDATION_ERROR"),
            ("reset", {"seed": True}, "VALIDATION_ERROR"),
            ("reset", {"episode_id": "\ud800"}, "VALIDATION_ERROR"),
            ("reset", {"split": "\ud800"}, "VALIDATION_ERROR"),
            ("reset", {"\ud800": 1}, "VALIDATION_ERROR"),
            ("step", {"message": "\ud800"}, "VALIDATION_ERROR"),
            ("dance", {}, "UNKNOWN_TYPE"),
        ):
            assert ask(client, kind, **data) == code
        for text in ("{", "[]", "7", '{"data": {}}', "[" * 5000):
            client.send(text)
            assert json.loads(client.recv(timeout=60))["data"]["code"] == "INVALID_JSON"
        assert ask(client, "state") == {"episode_id": begun_as, "step_count": 0, "task": begun["observation"]["task"]}
        client.send(b"bytes")
        assert json.loads(client.recv(timeout=60))["type"] == "error"
        assert ask(client, "step", message="wait")["observation"]["text"] == begun["observation"]["text"]
        for data in ({"task": "test-9"}, {"split": "all"}, {"stage": "easy"}):
            assert ask(client, "reset", **data) == "VALIDATION_ERROR"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(("seed", "task", "split", "stage", "episode_id", "message", "metadata"))
DATA = st.dictionaries(FIELDS, JSON | st.sampled_from(("train", "south")), max_size=3) | JSON
KINDS = st.sampled_from(("reset", "step", "state", "close", "mcp")) | JSON


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(KINDS, DATA), max_size=8))
def test_whatever_is_sent_is_answered_or_refused(messages: list[tuple[Any, Any]]) -> None:
    play = Play(lambda: rr.make("taxi"))
    for kind, data in messages:
        try:
            answer = play.answer(json.dumps({"type": kind, "data": data}))
        except Refused:
            continue
        if kind in ("reset", "step"):
            assert answer
            json.dumps(answer, allow_nan=False)
    play.close()


def test_sessions_are_apart_limited_and_closed_with_their_socket(port: int, folder: Path) -> None:
    closed = folder / "closed"
    closed.write_text("")
    with ExitStack() as opened:
        clients = [opened.enter_context(session(port)) for _ in range(3)]
        see_them_end(clients, port)
    for _ in range(600):
        if len(closed.read_text()) == 3:
            break
        time.sleep(0.05)
    assert len(closed.read_text()) == 3


def see_them_end(clients: list[ClientConnection], port: int) -> None:
    begun = [ask(client, "reset", task="train-0", seed=seed) for seed, client in enumerate(clients)]
    assert len({each["observation"]["text"] for each in begun}) == 3
    with session(port) as late:
        assert json.loads(late.recv(timeout=60))["data"]["code"] == "CAPACITY_REACHED"
        with pytest.raises(ConnectionClosed) as caught:
            late.recv(timeout=60)
        assert code_of(caught.value) == 1013
    clients[0].send('{"type": "close"}')
    with pytest.raises(ConnectionClosed) as caught:
        clients[0].recv(timeout=60)
    assert code_of(caught.value) == 1000
    clients[1].close()
    clients[2].socket.shutdown(socket.SHUT_RDWR)  # it died


def test_a_world_that_fails_ends_its_session_alone(port: int) -> None:
    with session(port) as other, session(port) as client:
        ask(other, "reset")
        ask(client, "reset")
        client.send('{"type": "step", "data": {"message": "fail"}}')
        answer = json.loads(client.recv(timeout=60))
        assert answer["data"]["code"] == "EXECUTION_ERROR"
        assert "it failed" in answer["data"]["message"]
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=60)
        assert code_of(caught.value) == 1011
        assert ask(other, "step", message="wait")["reward"] == 1


def test_silence_and_a_world_that_hangs_end_a_session(folder: Path) -> None:
    number = free_port()
    code = f"""
from reflect_rl.bars import Bars
from reflect_rl.envs.registry import make
from reflect_rl.serving.limits import Limits
from reflect_rl.serving.openenv import serve_world
limits = Limits(idle_seconds=1, answer_seconds=0.5)
serve_world("trap", lambda: make("trap:Trap"), "127.0.0.1", {number}, None, Bars(), limits)
"""
    with running([sys.executable, "-c", code], folder, number), ExitStack() as opened:
        silent, client = (opened.enter_context(session(number)) for _ in range(2))
        ask(client, "reset")
        assert ask(client, "step", message="sleep") == "SESSION_ERROR"
        for ended, close_code in ((client, 1011), (silent, 1001)):
            with pytest.raises(ConnectionClosed) as caught:
                while True:
                    ended.recv(timeout=60)
            assert code_of(caught.value) == close_code


def test_too_long_a_message_is_refused(port: int) -> None:
    with session(port) as client:
        client.send("x" * 300_000)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=60)
    assert code_of(caught.value) == 1009


def test_only_this_machine_and_no_page_of_another_site_may_open_a_session(port: int) -> None:
    for host, origin in (
        ("127.0.0.1", "https://evil.example"),
        ("127.0.0.1", "null"),
        ("127.0.0.1", "http://["),
        ("evil.example", None),
    ):
        way = socket.create_connection(("127.0.0.1", port))
        with pytest.raises(InvalidStatus) as caught, connect(f"ws://{host}:{port}/ws", sock=way, origin=origin):
            pass
        assert caught.value.response.status_code == 403
    with session(port, origin=f"http://127.0.0.1:{port}") as client:
        assert ask(client, "reset")["done"] is False


def test_what_is_told_over_http(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/metadata").json()["description"] == "Do not touch."
        assert client.get("/schema").json()["action"]["required"] == ["message"]
        assert "reflect_rl_sessions" in client.get("/metrics").text
        assert client.post("/reset", json={}).status_code == 404


def test_our_own_client_plays_it(port: int) -> None:
    env = rr.from_openenv(f"http://127.0.0.1:{port}", tasks=(2, 1, 1))()
    text, info = env.reset(options={"task": "seed-3"})
    assert text == env.reset(options={"task": "seed-3"})[0] != env.reset(options={"task": "seed-2"})[0]
    assert info["actions"] == ("wait", "fail", "sleep")
    assert [env.step(0)[1] for _ in range(2)] == [1, 1]
    _, _, terminated, _, info = env.step(0)
    assert (terminated, info["success"]) == (True, False)  # its horizon ended it: no success, for all its reward
    env.reset()
    with pytest.raises(EnvironmentContractError, match="it failed"):
        env.step(1)
    env.close()


def test_the_splits_of_a_served_world_are_its_own(port: int) -> None:
    names = {split: (f"{split}-0", f"{split}-1") for split in ("train", "valid", "test")}
    env = rr.from_openenv(f"http://127.0.0.1:{port}", tasks=names)()
    assert {split: env.tasks(split) for split in names} == names
    for task in ("test-1", "valid-0"):
        text, info = env.reset(seed=3, options={"task": task})
        assert info["task"] == task == text.split()[0]
        assert (env.reset(seed=3, options={"task": task})[0], env.reset(seed=4, options={"task": task})[0] == text) == (
            text,
            False,
        )
    with pytest.raises(EnvironmentContractError, match="test-2"):
        env.reset(options={"task": "test-2"})
    env.close()


def test_a_token_a_port_in_use_and_a_signal(folder: Path) -> None:
    number = free_port()
    variables = environment() | {"MINE": TOKEN}
    done = subprocess.Popen(
        command(number, "--token-env", "MINE"), cwd=folder, env=variables, stderr=subprocess.PIPE, text=True
    )
    assert done.stderr
    assert re.search(rf"trap:Trap is served at http://127.0.0.1:{number}\n", done.stderr.readline())
    with pytest.raises(InvalidStatus) as caught, session(number):
        pass
    assert caught.value.response.status_code == 401
    with session(number, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert ask(client, "reset")["done"] is False
        said = subprocess.run(
            command(number), cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
        )
        assert (said.returncode, "is in use" in said.stderr) == (2, True)
        done.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=60)
    assert done.wait(60) == 0
    assert TOKEN not in done.stderr.read()


def test_mistakes_on_the_command_line() -> None:
    with pytest.raises(SettingsError, match="needs a token"):
        serve_env("taxi", host="0.0.0.0", overrides={})
    with pytest.raises(SettingsError, match="serve-env has no option"):
        serve_env("taxi", port=0, overrides={"rl.lr": 1})
    with pytest.raises(EnvironmentContractError, match="taxxi"):
        serve_env("taxxi", port=0, overrides={})


def test_a_world_that_lacks_its_data_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(AlfworldDataError, match="There are no ALFWorld games in"):
        serve_env("alfworld", port=0, overrides={})


def test_openenvs_own_client_plays_it_as_the_page_says(tmp_path: Path) -> None:
    python, number = python_of("openenv"), free_port()
    section = Section("OpenEnv", tmp_path, number)
    with running([sys.executable, "-m", "reflect_rl", *section.command("serve-env")], tmp_path, number):
        (code,) = section.marked("python")
        assert run([python, "-c", code], tmp_path, python).startswith(("dangerous -1.02", "horizon"))
