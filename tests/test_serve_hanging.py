"""Servers whose worlds hang, are slow or idle: real processes, which close what they opened and end in time."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridges_page import WAIT, environment

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'reflect-rl[serve]'")
pytest.importorskip("websockets", reason="websockets is not installed: pip install 'reflect-rl[openenv]'")

from websockets.sync.client import ClientConnection, connect

BOTH = """
import os, sys, time
from reflect_rl.bars import Bars
from reflect_rl.envs.taxi.world import DangerousTaxi
from reflect_rl.serving.limits import Limits

def count(name):
    with open(name, "a") as log:
        log.write("x")

class Odd(DangerousTaxi):
    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        count("opened")
    def reset(self, **given):
        while os.path.exists("slow"):
            time.sleep(0.02)
        return super().reset(**given)
    def step(self, action):
        while os.path.exists("hang"):
            time.sleep(0.02)
        return super().step(action)
    def close(self):
        while os.path.exists("open"):
            time.sleep(0.02)
        count("closed")

"""
AGENT = """
import reflect_rl.players.context as context
from reflect_rl.serving.server import serve
context.Context.make_env = lambda self: Odd()
serve({run!r}, "127.0.0.1", 0, None, Bars(), Limits({limits}))
"""
WORLD = """
from reflect_rl.serving.openenv import serve_world
serve_world("odd", Odd, "127.0.0.1", 0, None, Bars(), Limits({limits}))
"""
SHORT = "answer_seconds=0.5, leaving_seconds=1"


class Odd:
    """A server of such a world. folder: where a file "slow" delays resets, "hang" steps, and "open" `close`."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, port: int) -> None:
        self.process, self.folder, self.port = process, folder, port

    def have(self, name: str) -> None:
        (self.folder / name).touch()

    def counted(self, name: str) -> int:
        path = self.folder / name
        return len(path.read_text()) if path.exists() else 0

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def post(self, path: str, **data: Any) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", json=data, timeout=WAIT)

    def session(self) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/ws", proxy=None)


@contextmanager
def serving(code: str, folder: Path) -> Iterator[Odd]:
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", BOTH + code], cwd=folder, env=environment(), stdout=log, stderr=log, text=True
        )
    try:
        until(lambda: re.search(r":(\d+)\n", (folder / "log").read_text()) is not None or process.poll() is not None)
        found = re.search(r"served at http://[^ ]+:(\d+)\n", (folder / "log").read_text())
        assert found, (folder / "log").read_text()
        yield Odd(process, folder, int(found[1]))
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], bool]) -> None:
    given_up = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < given_up
        time.sleep(0.02)


def said(client: ClientConnection, kind: str, **data: Any) -> dict[str, Any]:
    client.send(json.dumps({"type": kind, "data": data}))
    return json.loads(client.recv(timeout=WAIT))["data"]


def test_a_server_of_an_agent_ends_though_its_world_hangs(whole: Path, tmp_path: Path) -> None:
    with serving(AGENT.format(run=str(whole), limits=SHORT), tmp_path) as odd:
        begun = odd.post("/worlds").json()
        odd.have("hang")
        assert odd.post(f"/worlds/{begun['world']}", choice=0).status_code == 503
        assert odd.end() == 0


def test_worlds_of_the_page_are_closed(whole: Path, tmp_path: Path) -> None:
    limits = "answer_seconds=0.5, idle_seconds=2"
    with serving(AGENT.format(run=str(whole), limits=limits), tmp_path) as odd:
        unseen = odd.counted("opened") - odd.counted("closed")  # of the agent itself
        odd.have("slow")
        for _ in range(2):  # the second one is not begun
            assert odd.post("/worlds").status_code == 503
        (tmp_path / "slow").unlink()
        until(lambda: odd.counted("closed") + unseen == odd.counted("opened") > unseen)
        before = odd.counted("opened")
        assert odd.post("/worlds").status_code == 200
        until(lambda: odd.counted("closed") + unseen == odd.counted("opened"))  # idle, and nobody asks
        assert odd.counted("opened") == before + 1
        for _ in range(2):
            assert odd.post("/worlds").status_code == 200
        assert odd.end() == 0
        assert odd.counted("closed") + unseen == odd.counted("opened") == before + 3


def test_a_session_counts_until_its_world_is_closed(tmp_path: Path) -> None:
    with serving(WORLD.format(limits=f"worlds=2, {SHORT}"), tmp_path) as odd, ExitStack() as opened:
        odd.have("hang")
        for _ in range(2):
            client = opened.enter_context(odd.session())
            said(client, "reset")
            assert said(client, "step", message="south")["code"] == "SESSION_ERROR"
        with odd.session() as late:
            assert json.loads(late.recv(timeout=WAIT))["data"]["code"] == "CAPACITY_REACHED"
        assert "reflect_rl_sessions 2" in httpx.get(f"http://127.0.0.1:{odd.port}/metrics").text
        (tmp_path / "hang").unlink()
        until(lambda: odd.counted("closed") == 2)
        for _ in range(6):  # one after another, each at once after the last
            with odd.session() as one, odd.session() as other:
                assert said(one, "reset")["done"] is said(other, "reset")["done"] is False
        odd.have("hang")
        client = opened.enter_context(odd.session())
        said(client, "reset")
        client.send(json.dumps({"type": "step", "data": {"message": "south"}}))
        assert odd.end() == 0


def test_worlds_of_open_sessions_are_closed_at_the_end(tmp_path: Path) -> None:
    with serving(WORLD.format(limits=SHORT), tmp_path) as odd, odd.session() as one, odd.session() as other:
        said(one, "reset")
        said(other, "reset")
        odd.have("open")
        odd.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        (tmp_path / "open").unlink()
        assert odd.process.wait(20) == 0
        assert odd.counted("closed") == odd.counted("opened") == 3  # and the one that tells of them
