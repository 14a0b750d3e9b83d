"""The bridge from OpenEnv: worlds of its servers, and what is said when a server does not play along."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import reflect_rl as rr
from bridges_page import Section, python_of, run, running
from ports import free_port
from reflect_rl.cli.look import check as check_by_name
from reflect_rl.envs.bridges import openenv
from reflect_rl.envs.bridges.openenv import OpenEnvWorld
from reflect_rl.envs.check import check
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

pytest.importorskip("websockets", reason="websockets is not installed: pip install 'reflect-rl[openenv]'")

from websockets.sync.server import serve

Answer = Callable[[dict[str, Any]], Any]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """A server that answers each message with what `answer` gives for it; None closes the session."""

    def talk(session: Any) -> None:
        for message in session:
            reply = answer(json.loads(message))
            if reply is None:
                return
            session.send(reply if isinstance(reply, str) else json.dumps(reply))

    with serve(talk, "127.0.0.1", 0) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.socket.getsockname()[1]}"
        finally:
            listening.shutdown()
            thread.join()


def seen(observation: dict[str, Any], reward: Any = None, done: bool = False) -> dict[str, Any]:
    return {"type": "observation", "data": {"observation": observation, "reward": reward, "done": done}}


def echo(message: dict[str, Any]) -> Any:
    """Like OpenEnv's echo environment; "bye" ends the episode."""
    if message["type"] == "reset":
        return seen({"echoed_message": f"ready {message['data']['seed']}"}, 0.0)
    said = message["data"]["message"]
    return seen({"echoed_message": said}, len(said) / 10, said == "bye")


def test_a_server_is_a_world_that_keeps_every_promise() -> None:
    with server(echo) as url:
        world = rr.from_openenv(url, actions=("hi", "hello", "bye"), tasks=(3, 2, 1), horizon=3, task_text="Speak.")
        assert [str(finding) for finding in check(world) if not finding.ok] == []
        env = world()
        text, info = env.reset(options={"task": "seed-4"})
        assert (text, info["actions"]) == ('{"echoed_message": "ready 4"}', ("hi", "hello", "bye"))
        assert env.step(1)[:4] == ('{"echoed_message": "hello"}', 0.5, False, False)
        _, reward, terminated, _, info = env.step(2)
        assert (reward, terminated, info["stop"]) == (0.3, True, StopReason.SUCCESS)
        env.close()


def test_render_success_and_what_is_sent_are_the_users() -> None:
    sent = []

    def answer(message: dict[str, Any]) -> Any:
        sent.append(message)
        return seen({"left": 3 - len(sent)}, 1)

    with server(answer) as url:
        env = rr.from_openenv(
            url,
            render=lambda seen: f"{seen['left']} left",
            actions=lambda seen: {f"take {seen['left']}": {"take": seen["left"]}, "wait": "nothing"},
            success=lambda seen, reward, done: seen["left"] == 0,
            field="text",
        )()
        assert env.reset(options={"task": "seed-7"})[0] == "2 left"
        assert env.step(0)[4]["actions"] == ("take 1", "wait")
        text, reward, terminated, _, info = env.step(1)
        assert (text, reward, terminated, info["success"]) == ("0 left", 1.0, True, True)
        env.close()
    assert [message["data"] for message in sent[:3]] == [{"seed": 7}, {"take": 2}, {"text": "nothing"}]


def test_an_observation_may_list_its_own_actions_and_a_recipe_may_name_the_url() -> None:
    with server(
        lambda message: seen({"text": "A door.", "actions": ["open", "leave"], "success": False}, 1, True)
    ) as url:
        env = rr.make("reflect_rl.envs.bridges.openenv:OpenEnvWorld", url=url, horizon=5)
        text, info = env.reset(seed=0)
        assert (text, info["actions"]) == ("A door.", ("open", "leave"))
        assert env.step(0)[4]["stop"] is StopReason.FAILURE  # it says so itself, for all its reward
        env.close()


def test_a_session_that_ended_between_two_episodes_is_opened_again() -> None:
    asked: list[str] = []

    def answer(message: dict[str, Any]) -> Any:
        asked.append(message["type"])
        return None if message["type"] == "step" else echo(message)

    with server(answer) as url:
        env = rr.from_openenv(url, actions=("hi",))()
        env.reset(seed=0)
        with pytest.raises(EnvironmentContractError, match=f"{url} closed the session"):
            env.step(0)
        assert env.reset(seed=0)[1]["actions"] == ("hi",)
        env._session._socket.close()  # as after a long silence
        env.reset(seed=0)
        env.close()
    assert asked.count("reset") == 3


@pytest.mark.parametrize("kind", ["reset", "step", "interrupt"])
def test_an_answer_that_came_too_late_is_never_taken_for_a_later_one(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    may = threading.Event()

    def answer(message: dict[str, Any]) -> Any:
        number = message["data"].get("seed")
        if number == 1 or message["data"].get("message") == "slow":
            may.wait(30)
        return seen({"text": f"{message['type']} {number}"}, 0.0)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with server(answer) as url:
        env = rr.from_openenv(url, actions=("hi", "slow"))()
        assert env.reset(options={"task": "seed-0"})[0] == "reset 0"
        late = (lambda: env.step(1)) if kind == "step" else lambda: env.reset(options={"task": "seed-1"})
        with monkeypatch.context() as patched:
            patched.setattr(openenv, "ANSWER_SECONDS", 0.1)
            patched.setattr(openenv, "CLOSE_SECONDS", 0.1)
            if kind == "interrupt":
                patched.setattr(env._session._socket, "recv", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    late()
            else:
                with pytest.raises(EnvironmentContractError, match=f"{url} took too long"):
                    late()
        may.set()
        assert env.reset(options={"task": "seed-2"})[0] == "reset 2"
        assert env.step(0)[0] == "step None"
        env.close()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("no JSON", "answered 'no JSON' to reset"),
        ([1], "answered '[1]' to reset"),
        ({"type": "state", "data": {}}, "no observation of OpenEnv's"),
        (seen([]), "no observation of OpenEnv's"),  # type: ignore[arg-type]
        (seen({}, "much"), "no observation of OpenEnv's"),
        (seen({}, 10**400), "no observation of OpenEnv's"),
        (seen({}, 1, "yes"), "no observation of OpenEnv's"),  # type: ignore[arg-type]
        ({"type": "error", "data": {"message": "bad seed", "code": "VALIDATION_ERROR"}}, "refused reset.*bad seed'}.$"),
        ({"type": "error", "data": {"message": "1 of 1", "code": "CAPACITY_REACHED"}}, "no free session.*num_envs"),
        (seen({"board": 1}), "lists no actions.*actions="),
        (None, "closed the session"),
    ],
)
def test_nonsense_is_one_message_with_the_url(reply: Any, said: str) -> None:
    with server(lambda message: reply) as url:
        env = rr.from_openenv(url)()
        with pytest.raises(EnvironmentContractError, match=said.replace("[1]", r"\[1\]")) as caught:
            env.reset(seed=0)
        assert url in str(caught.value)
        env.close()


class Web(BaseHTTPRequestHandler):
    """Answers 501."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_is_not_there_or_speaks_no_openenv(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EnvironmentContractError, match=f"{url} cannot be reached"):
        rr.from_openenv(url, actions=("hi",))().reset(seed=0)
    web = HTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{web.server_port}"
    with pytest.raises(EnvironmentContractError, match=f"{url} is no OpenEnv server.*501"):
        rr.from_openenv(url, actions=("hi",))().reset(seed=0)
    web.shutdown()
    web.server_close()
    monkeypatch.setattr(openenv, "ANSWER_SECONDS", 0.1)
    with server(lambda message: threading.Event().wait(1) and None) as url:
        env = rr.from_openenv(url, actions=("hi",))()
        with pytest.raises(EnvironmentContractError, match=f"{url} took too long"):
            env.reset(seed=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"actions": ("a", "a")}, "actions is"),
        ({"actions": "hello"}, "actions is"),
        ({"actions": {}}, "actions is"),
        ({"tasks": (1, 0, 1)}, "tasks is"),
        ({"tasks": {"train": ["a"], "test": ["b"]}}, "tasks is"),
        ({"tasks": {"train": ["a"], "valid": ["a"], "test": ["b"]}}, "tasks is"),
        ({"tasks": {"train": "a", "valid": ["c"], "test": ["b"]}}, "tasks is"),
        ({"tasks": {"train": None, "valid": ["c"], "test": ["b"]}}, "tasks is"),
        ({"tasks": {"train": [], "valid": ["c"], "test": ["b"]}}, "tasks is"),
        ({"tasks": {"train": [1], "valid": ["c"], "test": ["b"]}}, "tasks is"),
    ],
)
def test_wrong_arguments_are_told_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(EnvironmentContractError, match=said):
        rr.from_openenv("http://127.0.0.1:8000", **options)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://[", "http://x:99999", "http://x:y", "", None, 5])
def test_an_address_that_is_none(url: Any) -> None:
    class Nowhere(OpenEnvWorld):
        pass

    Nowhere.url = url
    with pytest.raises(EnvironmentContractError, match="url is"):
        Nowhere()


@pytest.mark.parametrize("around", [("", "/"), (" ", "\n"), ("", "?key=a")])
def test_an_address_may_be_written_in_other_ways(around: tuple[str, str]) -> None:
    with server(lambda message: seen({"text": "hi", "actions": ["a"]})) as url:
        env = rr.from_openenv(url.replace("http", "HTTP").join(around))()
        assert env.reset(seed=0)[0] == "hi"
        env.close()


def test_the_page_trains_an_agent_in_openenvs_own_echo_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    python, port = python_of("openenv"), free_port()
    section = Section("OpenEnv", tmp_path, port)
    *commands, last = section.marked("sh")[0].splitlines()
    for command in commands:
        run(shlex.split(command), tmp_path, python)
    folder, _, command = last.partition(" && ")
    with running(shlex.split(command), tmp_path / folder.removeprefix("cd "), port, python):
        section.write_files()
        assert check_by_name(section.command("check")[1]) == 0
        assert "keeps every promise" in capsys.readouterr().out
        section.reflect_rl("run")
    greedy = rr.Run(tmp_path / "runs" / "echo").results["panels"]["test"]["greedy"]
    assert greedy["success"] == 1
