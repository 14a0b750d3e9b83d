"""Questions about source files that a language model writes: `autoexplore build --teacher`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from end_to_end import Ended, refused
from fake_server import FakeServer
from reflect_rl.__main__ import run_command
from reflect_rl.data.questions import forbidden, question_in
from reflect_rl.envs.autoexplore.tasks import read_tasks

KEY = "sk-planted-12345"
ANSWERS = {
    "crumbs = ": ["Where are cookies taken apart?", "Where are the crumbs that a visitor sends back taken apart?"],
    "old = ": ["Question: Which part of the program forgets answers that have grown too old?"],
    "post = ": ["Here you are.\n\n**Where does the program decide whom a letter goes to?**"],
    "dull = ": ["No.", "Where is this?"],
}
"""By what stands in a file only: what the model says about it, first and when it is asked once more."""
FILES = {
    "cookies.py": '"""Secret words."""\ncrumbs = "a visitor sends back, taken apart"\n',
    "cache.py": 'old = "forgets answers grown"\n',
    "mail/out.py": 'post = "whom a letter goes to"\n',
    "dull.py": "dull = 1\n",
    "tiny.py": "x = 1\n",
    "tests/test_all.py": "y = 1\n",
}
FILLER = "rows = rows + rows\n" * 30
"""A file that is too short is not asked about."""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + ("" if name == "tiny.py" else FILLER))
    return root


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def reply(request: dict[str, Any]) -> str:
        text = request["messages"][-1]["content"]
        answers = next(answers for shown, answers in ANSWERS.items() if shown in text)
        return answers[min(served.calls[text], len(answers)) - 1]

    with FakeServer(reply=reply) as served:
        yield served


def build(shop: Path, out: Path, *more: str) -> Ended:
    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        code = run_command(["autoexplore", "build", str(shop), "--split-by", "file", "-o", str(out), *more])
    return Ended(code, said.getvalue(), told.getvalue())


def asked(shop: Path, server: FakeServer, out: Path, *more: str) -> Ended:
    return build(shop, out, "--teacher", "openai:m", "--server.base_url", server.base_url, *more)


def test_a_model_writes_questions_that_pass_the_filters(shop: Path, server: FakeServer, tmp_path: Path) -> None:
    out = tmp_path / "tasks.jsonl"
    dry = asked(shop, server, out, "--dry-run")
    assert dry.code == 0, dry.err
    assert dry.out.startswith("4 calls to m")
    assert not list(tmp_path.glob("tasks.jsonl*"))
    ended = asked(shop, server, out)
    assert ended.code == 0, ended.err
    found = {task.target: task.question for task in read_tasks(out)}
    assert found == {
        "cookies.py": ANSWERS["crumbs = "][1],
        "cache.py": ANSWERS["old = "][0].removeprefix("Question: "),
        "mail/out.py": "Where does the program decide whom a letter goes to?",
    }
    assert {task.split for task in read_tasks(out)} == {"train", "valid", "test"}
    assert server.calls.total() == 6  # cookies leaked, and dull.py had no question, so both were asked about twice
    shown = next(text for text in server.calls if "crumbs = " in text)
    assert "Secret" not in shown  # as the players read it
    assert "made from them: cookies." in shown
    header, row = (line.split() for line in ended.out.splitlines()[:2])
    assert len(row) > 5
    assert "form" in header


def test_nothing_is_paid_for_twice(shop: Path, server: FakeServer, tmp_path: Path) -> None:
    first = asked(shop, server, tmp_path / "tasks.jsonl")
    before, tasks = server.calls.total(), (tmp_path / "tasks.jsonl").read_bytes()
    again = asked(shop, server, tmp_path / "tasks.jsonl")
    assert (first.code, again.code) == (0, 0)
    assert server.calls.total() == before
    assert (tmp_path / "tasks.jsonl").read_bytes() == tasks
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_prompt_of_ones_own(shop: Path, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("Ask about {source}\n\nNot {forbidden}!")
    assert asked(shop, server, tmp_path / "tasks.jsonl", "--prompt", str(tmp_path / "ask.txt")).code == 0
    assert all(text.startswith("Ask about ") for text in server.calls)
    refused(asked(shop, server, tmp_path / "other.jsonl", "--prompt", str(tmp_path / "none.txt")), "none.txt")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--teacher", "gpt"], "openai:MODEL"),
        (["--server.base_url", "http://127.0.0.1:1/v1"], "is for --teacher"),
        (["--dry-run"], "is for --teacher"),
        (["--teacher", "openai:m", "--rl.lr", "1"], "no option --rl.lr"),
        (["--teacher", "openai:m", "--server.base_url", "here"], "address"),
    ],
)
def test_options_that_cannot_be_used_are_refused(more: list[str], said: str, shop: Path, tmp_path: Path) -> None:
    refused(build(shop, tmp_path / "tasks.jsonl", *more), said)


def test_what_is_read_in_an_answer() -> None:
    assert question_in('Sure!\n\n"Where are the bills kept?"\n') == "Where are the bills kept?"
    assert question_in("question:  Where\tare they?") == "Where are they?"
    assert forbidden("net/urls_v2/parse_url.py") == ["net", "urls", "parse", "url"]


@pytest.mark.parametrize("text", ["", "Ask a question about the file.\n"])
def test_a_prompt_that_shows_no_file_is_refused(text: str, shop: Path, server: FakeServer, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(text)
    given = ("--teacher", "openai:m", "--server.base_url", server.base_url, "--prompt", str(prompt))
    err = io.StringIO()
    with redirect_stderr(err):
        code = run_command(
            ["autoexplore", "build", str(shop), "--split-by", "file", "-o", str(tmp_path / "t.jsonl"), *given]
        )
    assert code == 2
    assert f"--prompt {prompt} lacks {{source}}" in err.getvalue()
    assert server.calls.total() == 0
