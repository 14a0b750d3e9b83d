"""The served teacher: what it is asked, what is made of its answers, and that nothing is lost or paid for twice."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import end_to_end
from conftest import TINY, Heard
from corridor import Corridor
from end_to_end import Ended, Kill
from fake_server import FakeServer
from reflect_rl.__main__ import run_command
from reflect_rl.api import run as run_recipe
from reflect_rl.config import parse_settings
from reflect_rl.data.annotate import annotate
from reflect_rl.data.pool import PoolState, read_labels, read_pool, read_reflections
from reflect_rl.data.teacher import (
    PROMPTS,
    choice_in,
    filled,
    gives_away,
    named_actions,
    shipped_prompt,
)
from reflect_rl.errors import SettingsError, TeacherError
from reflect_rl.model_servers.records import Failed
from reflect_rl.model_servers.usable import Unusable, answer_text
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.records import State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.settings.labels import PLACEHOLDERS

KEY = "sk-planted-fedcba9876543210"
NOTE = "The item is some way off."
QUICK = {"teacher.max_retry_wait": 0.01, "teacher.timeout": 5.0}


class Blind(Corridor):
    """A world without an expert."""

    def expert(self) -> int | None:
        return None


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def served(server: FakeServer, **more: Any) -> Settings:
    teacher = {"annotate.teacher": "openai", "teacher.model": "m", "teacher.base_url": server.base_url}
    return parse_settings({}, TINY | teacher | QUICK | {name.replace("__", "."): value for name, value in more.items()})


@pytest.fixture
def collected(tmp_path: Path, tiny: Callable[..., Settings]) -> RunFolder:
    return run_pipeline(tiny(), tmp_path / "run", Progress(), until="collect")


def command(*arguments: str) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_command(list(arguments))
    return Ended(code, out.getvalue(), err.getvalue())


def annotated(run: RunFolder, server: FakeServer, *more: str) -> Ended:
    options = ("--teacher", "openai", "--teacher.model", "m", "--teacher.base_url", server.base_url)
    return command("annotate", str(run.path), *options, "--teacher.max_retry_wait", "0.01", *more)


def prompts(server: FakeServer) -> list[str]:
    return [request["messages"][-1]["content"] for request in server.requests]


def test_the_command_labels_a_run_and_a_second_one_asks_nothing(collected: RunFolder) -> None:
    with FakeServer(reply=lambda request: f"  {NOTE}\n") as server:
        dry = annotated(collected, server, "--dry-run")
        assert dry.code == 0
        assert server.calls.total() == 0
        assert not (collected / "teacher.sqlite").exists()
        ended = annotated(collected, server)
        assert ended.code == 0, ended.err
        assert f"{server.calls.total()} calls to m" in dry.out
        rows = [json.loads(line) for line in (collected / "reflections.jsonl").read_text().splitlines()]
        assert {(row["text"], row["teacher"]) for row in rows} == {(NOTE, "openai:m")}
        assert len(rows) == 150
        assert set(server.billed.values()) == {1}
        assert f"{server.calls.total()} calls" in ended.err
        again = annotated(collected, server, "--force")
        assert again.code == 0
        assert set(server.billed.values()) == {1}
        assert annotated(collected, server, "--dry-run").out.startswith("0 calls to m")
    manifest = json.loads((collected / "manifests/annotate.json").read_text())
    assert manifest["counts"]["teacher_calls"] == server.billed.total()
    assert manifest["counts"]["teacher_prompt_tokens"] == server.tokens[0]
    assert manifest["counts"]["teacher_failed"] == {}


def test_the_prompt_shows_state_history_hint_and_mistake(collected: RunFolder) -> None:
    with FakeServer(reply=lambda request: NOTE) as server:
        annotate(collected, Context(served(server)), Progress())
        shown = prompts(server)
        annotate(collected, Context(served(server, teacher__hint=False, teacher__history=0)), Progress())
        bare = prompts(server)[len(shown) :]
    pool = read_pool(collected, served(server), texts={})
    assert all("Walk to the item and take it." in text for text in shown)
    assert all('For you alone: a perfect player would now choose "' in text for text in shown)
    wrong = [text for text in shown if "was a mistake" in text]
    assert 0 < len(wrong) < len(shown)
    mistakes = {entry.mistake for entry in pool} - {None}
    assert all(any(f'last action, "{mistake}", was a mistake. Begin' in text for mistake in mistakes) for text in wrong)
    assert any("What happened so far, oldest first:\n" in text and "\n> " in text for text in shown)
    assert not any("perfect" in text or "happened so far" in text or "{" in text for text in bare)


def test_a_mistake_is_a_random_action_that_the_expert_would_not_have_taken(pooled: RunFolder) -> None:
    pool = read_pool(pooled, parse_settings({}, TINY))
    episodes = [json.loads(line) for line in (pooled / "episodes.jsonl").read_text().splitlines()]
    for entry in pool:
        before = episodes[entry.episode]["steps"][entry.step - 1] if entry.step else None
        wrong = before and before["perturbed"] and before["choice"] not in before["experts"]
        assert entry.mistake == (before["actions"][before["choice"]] if wrong else None)


def test_what_cannot_be_used_is_asked_once_more_and_then_left_out(collected: RunFolder, heard: Heard) -> None:
    """Of each text the first answer, the second, and what becomes of it."""
    plans = [
        (["Go {hint}.", NOTE], NOTE),
        (["Go {hint}.", "You should go {hint}."], "gives the hint away"),
        (["", NOTE], NOTE),
        (["", "  "], "empty"),
        (["word " * 81, NOTE], NOTE),
        (["word " * 81] * 2, "too long"),
        ([NOTE], NOTE),
    ]
    of: dict[str, int] = {}
    asked: Counter[str] = Counter()

    def reply(request: dict[str, Any]) -> str:
        text = request["messages"][-1]["content"]
        texts = plans[of.setdefault(text, len(of)) % len(plans)][0]
        asked[text] += 1
        return texts[asked[text] - 1].replace("{hint}", text.partition('now choose "')[2].partition('"')[0])

    with FakeServer(reply=reply) as server:
        settings = served(server, annotate__distinct=True, teacher__concurrency=1)
        counts = annotate(collected, Context(settings), heard)
    outcomes = Counter(plans[number % len(plans)][1] for number in of.values())
    assert counts["reflections"] == outcomes[NOTE] == len((collected / "reflections.jsonl").read_text().splitlines())
    assert counts["teacher_failed"] == {what: count for what, count in outcomes.items() if what != NOTE}
    assert any("labels could not be had (empty:" in text for text in heard.warned)
    assert all(asked[text] == len(plans[number % len(plans)][0]) for text, number in of.items())


def test_refusals_are_counted_by_their_kind() -> None:
    for said, kind in {
        "too long for the model (it has 2048 tokens, (really))": "too long for the model",
        "refused by the server's filter (no)": "refused by the server's filter",
        "the server gave no choice": "the server gave no choice",
    }.items():
        with pytest.raises(Unusable, match=f"^{kind}$"):
            answer_text(Failed(said))


def test_a_teacher_without_one_usable_word_is_an_error(collected: RunFolder) -> None:
    with (
        FakeServer(reply=lambda request: "") as server,
        pytest.raises(TeacherError, match=r"no usable reflection \(empty"),
    ):
        annotate(collected, Context(served(server)), Progress())


def test_a_pool_without_an_experts_action_is_told_before_anything_is_paid_for(collected: RunFolder) -> None:
    file = collected / "episodes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for step in (step for row in rows for step in row["steps"]):
        step |= {"expert": None, "experts": []}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FakeServer(reply=lambda request: NOTE) as server:
        for more in (("--dry-run",), ()):
            ended = annotated(collected, server, *more)
            assert ended.code == 2
            assert "episodes.jsonl has no state with an expert's action" in ended.err
            assert "annotate.actions_by: teacher" in ended.err
        assert server.calls.total() == 0


def test_more_actions_than_labels_are_told_before_anything_is_paid_for(collected: RunFolder) -> None:
    file = collected / "episodes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["steps"][0]["actions"] = [f"go to {place}" for place in range(257)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FakeServer(reply=lambda request: NOTE) as server:
        ended = annotated(collected, server)
        assert ended.code == 2
        assert "A state offers 257 actions, and there are at most 256 single-token labels" in ended.err
        assert server.calls.total() == 0


def test_a_faulty_server_labels_every_state_exactly_once(collected: RunFolder) -> None:
    faults = ("429", "500", "503", "cut", "malformed", None, None)

    def fault(text: str, tried: int) -> str | None:
        return faults[(len(text) + 3 * text.count("a") + tried) % len(faults)]

    with FakeServer(fault, lambda request: NOTE) as server:
        settings = served(server, annotate__distinct=True, teacher__retries=20)
        counts = annotate(collected, Context(settings), Progress())
    pool = read_pool(collected, settings)
    assert sorted(row.state for row in read_reflections(collected, pool)) == sorted({entry.id for entry in pool})
    assert set(server.billed.values()) == {1}
    assert (counts["teacher_prompt_tokens"], counts["teacher_completion_tokens"]) == tuple(server.tokens)


def test_a_world_without_an_expert_is_trained_on_the_teachers_labels(tmp_path: Path, heard: Heard) -> None:
    def reply(request: dict[str, Any]) -> str:
        text = request["messages"][-1]["content"]
        if "Answer with the best" not in text:
            return NOTE
        return "I would Take it." if len(text) % 2 else "It is hard to say: left, right or take?"

    blind = {"env.name": "test_teacher:Blind", "annotate.actions_by": "teacher", "rl.iterations": 1}
    blind |= {f"{who}_sft.steps": 5 for who in ("reflector", "policy")}
    with FakeServer(reply=reply) as server:
        settings = served(server, **{name.replace(".", "__"): value for name, value in blind.items()})
        done = run_recipe(settings, tmp_path / "run", progress=heard)
    run = RunFolder(tmp_path / "run")
    pool = read_pool(run, settings)
    assert all(entry.expert is None and entry.mistake is None for entry in pool)
    at = {(entry.episode, entry.step): entry.state for entry in pool}
    labels = read_labels(run, pool)
    assert 0 < len(labels) < 60
    assert {at[label.episode, label.step].actions[label.action] for label in labels} == {"take"}
    assert not any("perfect" in text for text in prompts(server))
    failed = json.loads((run / "manifests/annotate.json").read_text())["counts"]["teacher_failed"]
    assert failed == {"names several actions": 60 - len(labels)}
    assert (run / "results.json").exists()
    assert done.path == run.path


@pytest.mark.parametrize(
    "needed", [("--annotate.teacher", "openai"), ("--reflector.kind", "served", "--reflector.server.model", "m")]
)
def test_a_server_that_cannot_be_asked_is_told_before_the_stages_ahead(
    needed: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ended = command("run", "taxi", "--out", str(tmp_path / "run"), *needed)
    assert ended.code == 2
    assert ended.err.startswith("error: There is no model server: set base_url")
    assert not (tmp_path / "run").exists()


def test_a_world_without_an_expert_needs_a_teacher(tmp_path: Path, tiny: Callable[..., Settings]) -> None:
    ended = command(
        *("run", "taxi", "--out", str(tmp_path / "run"), "--env.name", "test_teacher:Blind", "--env.options", "{}"),
        *("--annotate.teacher", "way"),
    )
    assert ended.code == 2
    assert "annotate.actions_by: teacher" in ended.err


@pytest.mark.parametrize("past", [1, 3])
def test_past_reflections_are_the_teachers_own(collected: RunFolder, past: int) -> None:
    """Each text is written with those before it in view, and every later stage reads the same states."""
    numbers = iter(range(100_000))
    with FakeServer(reply=lambda request: f"Note {next(numbers)}.") as server:
        settings = served(server, prompt__reflections=past)
        annotate(collected, Context(settings), Progress())
    pool = read_pool(collected, settings)
    said = {row.state: row.text for row in read_reflections(collected, pool)}
    for label in read_labels(collected, pool):
        assert label.state in {entry.id for entry in pool if (entry.episode, entry.step) == (label.episode, label.step)}
    told = {(entry.episode, entry.step): said.get(entry.id) for entry in pool}
    shown = 0
    for entry in pool:
        before = [told[entry.episode, step] for step in range(entry.step)]
        written = [text for text in before if text is not None]
        assert entry.state.reflections == tuple(written[-past:])
        shown += bool(written)
    assert shown > 20
    assert sum("Your earlier notes, oldest first:\n- Note" in text for text in prompts(server)) > 20


def test_a_server_that_stays_away_ends_the_command_and_it_continues(collected: RunFolder) -> None:
    before = (collected / "config.yaml").read_text()
    numbers = iter(range(100_000))
    with FakeServer(lambda text, tried: None if next(numbers) < 25 else "503", lambda request: NOTE) as server:
        ended = annotated(collected, server, "--teacher.retries", "2")
    assert ended.code == 3
    assert ended.err.count("error:") == 1
    assert "run the same command again" in ended.err
    assert (collected / "config.yaml").read_text() == before
    billed = server.billed
    assert 0 < billed.total() <= 25
    with FakeServer(reply=lambda request: NOTE, port=server.port) as back:
        assert annotated(collected, back, "--teacher.retries", "2").code == 0
    assert not set(billed) & set(back.billed)


def test_killed_in_the_middle_it_pays_for_nothing_twice(collected: RunFolder) -> None:
    with FakeServer(reply=lambda request: NOTE) as server:
        options = ("--teacher", "openai", "--teacher.model", "m", "--teacher.base_url", server.base_url)
        command_line = ("annotate", str(collected.path), *options, "--teacher.concurrency", "1")
        for number in (10, 20):
            kill = Kill("reflect_rl.memo:Memo.put", number, after=True)
            assert end_to_end.reflect_rl(*command_line, kill=kill).code == -9
        ended = end_to_end.reflect_rl(*command_line)
        assert ended.code == 0, ended.err
        assert set(server.billed.values()) == {1}
    manifest = json.loads((collected / "manifests/annotate.json").read_text())
    assert manifest["counts"]["teacher_prompt_tokens"] == server.tokens[0]


def test_the_budget_ends_the_command_before_it_is_exceeded(collected: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("m: {input: 1, output: 2}\n")
    with FakeServer(reply=lambda request: NOTE) as server:
        prices = ("--teacher.prices", str(tmp_path / "prices.yaml"))
        ended = annotated(collected, server, *prices, "--teacher.budget_usd", "0.01")
        spent = (server.tokens[0] + 2 * server.tokens[1]) / 1e6
        assert ended.code == 3
        assert "budget of 0.01 USD is used up" in ended.err
        assert 0.005 < spent <= 0.01
        dry = annotated(collected, server, *prices, "--dry-run")
        assert ": about 0." in dry.out
        assert annotated(collected, server, *prices, "--teacher.budget_usd", "1").code == 0
        assert set(server.billed.values()) == {1}


def test_no_key_is_ever_written_or_told(collected: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    told = []
    with FakeServer(key="sk-another-key-12345", reply=lambda request: NOTE) as server:  # it quotes the wrong key
        told.append(annotated(collected, server))
        assert told[0].code == 3
        assert "refused the key in OPENAI_API_KEY" in told[0].err
    with FakeServer(lambda text, tried: "500" if tried == 0 else None, lambda request: NOTE, key=KEY) as server:
        told.append(annotated(collected, server))
        assert told[1].code == 0
    files = [path.read_bytes() for path in collected.path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for text in (*files, *(part.encode() for ended in told for part in (ended.out, ended.err)), caplog.text.encode()):
        assert KEY.encode() not in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reflector.kind": "scripted"}, "needs a style"),
        ({"annotate.teacher": "way", "annotate.actions_by": "teacher"}, "needs annotate.teacher: openai"),
        ({"annotate.distinct": True, "prompt.reflections": 2}, "whole episodes"),
        ({"teacher.reflect": "Look at {everything}"}, r"unknown; it can show \{task\}"),
        ({"teacher.reflect": "@/nowhere/prompt.txt"}, "teacher.reflect: @/nowhere/prompt.txt names a file"),
    ],
)
def test_what_cannot_be_asked_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_settings({}, TINY | {"annotate.teacher": "openai"} | changed)


def test_a_users_own_prompts_are_asked(collected: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Say something about {observation}\n\nAfter {mistake}.\n")
    with FakeServer(reply=lambda request: NOTE) as server:
        assert annotated(collected, server, "--teacher.reflect", f"@{tmp_path / 'mine.txt'}").code == 0
    assert all(text.startswith("Say something about ") for text in prompts(server))
    assert {"After" in text for text in prompts(server)} == {True, False}
    assert "Say something about {observation}" in (collected / "config.yaml").read_text()


@pytest.mark.parametrize("world", ["generic", "taxi", "alfworld", "autoexplore"])
def test_the_prompts_that_ship_name_what_is_known(world: str) -> None:
    more = ["question.txt"] if world == "autoexplore" else []
    assert sorted(path.name for path in (PROMPTS / world).iterdir()) == ["act.txt", *more, "reflect.txt"]
    for kind, needed in (("reflect", ("mistake", "expert", "words", "notes")), ("act", ())):
        text = shipped_prompt(world, kind)
        found = set(filled(text, {name: f"<{name}>" for name in PLACEHOLDERS}).split("<")[1:])
        assert "{" not in "".join(found)
        for name in ("task", "history", "observation", "actions", *needed):
            assert f"{{{name}}}" in text
    assert shipped_prompt("no/such:World", "act") == shipped_prompt("generic", "act")


ACTIONS = ("go to shelf 1", "go to shelf 10", "look", "look at bowl 1", "south", "north")


def entry(expert: int, mistake: str | None = None) -> PoolState:
    return PoolState("x", State("a room", ACTIONS), 0, 1, expert, (expert,), mistake)


@pytest.mark.parametrize(
    ("note", "expert", "leaks"),
    [
        ("Go to the shelf 10 now.", 1, True),
        ("Shelf 10 has not been searched.", 1, False),
        ("Go to shelf 1 or go to shelf 10.", 1, False),
        ("Look at bowl 1!", 3, True),
        ("Look at bowl 1!", 2, False),
        ("The target lies two rows south.", 4, False),
        ("You should head further south.", 4, True),
        ("Going north was wrong: go south.", 4, True),
        ("A hint says that it is south.", 4, True),
        ("The expert knows.", 0, True),
    ],
)
def test_a_note_gives_the_hint_away_if_it_tells_that_action_alone(note: str, expert: int, leaks: bool) -> None:
    assert gives_away(note, entry(expert, "north")) == leaks


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("look", 2),
        ("**Go to the shelf 10.**", 1),
        ("I look at the bowl 1", 3),
        ("- south", 4),
        ("south or north", None),
        ("wait", None),
    ],
)
def test_an_action_is_read_if_it_is_the_only_one_named(text: str, choice: int | None) -> None:
    if choice is None:
        with pytest.raises(Unusable, match="names"):
            choice_in(entry(0), text)
    else:
        assert choice_in(entry(0), text) == choice


@given(st.lists(st.text("ab 1", min_size=1).filter(str.strip), min_size=1, max_size=5, unique=True), st.data())
def test_the_very_text_of_an_action_is_always_read(actions: list[str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(actions) - 1))
    state = PoolState("x", State("a room", tuple(actions)), 0, 0, None)
    assert choice_in(state, actions[index]) == index
    assert named_actions("", actions) == set()
