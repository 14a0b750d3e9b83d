"""Files of rollouts: whole lines, each episode once, pages and data sets made of them, whatever their size."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Heard
from end_to_end import Kill, differences, options, reflect_rl, refused, run_small
from reflect_rl.core_yaml import parse_yaml
from reflect_rl.errors import OutputError, RunFolderError
from reflect_rl.evaluation.evaluate import evaluate
from reflect_rl.evaluation.export_rollouts import EPISODE, STEP, export_dataset
from reflect_rl.evaluation.report_rollouts import report_rollouts, rollouts_page
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.rollouts import RolloutFile, each_episode, episode_heads, read_episode, rollouts_path
from reflect_rl.settings import Settings
from reflect_rl.training.rl import rl
from report_page import Opened

ATTACK = '</script><script>window.attacked = true</script>, "steps": [{"id": "x"'


def episode(number: int, text: str = "You see a door.", steps: int = 2) -> dict[str, Any]:
    step = {"observation": text, "actions": ["go", "stay"], "choice": number % 2, "reflection": None, "reward": 0.5}
    return {
        "id": f"made-{number}",
        "source": "agent",
        "agent": "made up",
        "world": "doors",
        "options": {},
        "panel": "test",
        "mode": "played",
        "task": f"door {number}",
        "number": number,
        "length": steps,
        "stop": "success" if number % 2 else "horizon",
        "success": bool(number % 2),
        "return": 0.5 * steps,
        "steps": [step] * steps,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollouts.jsonl"


def ids(path: Path) -> list[str]:
    return [head["id"] for _, head in episode_heads(path)]


# The file


def test_each_episode_is_written_once_and_the_file_is_continued(path: Path) -> None:
    with RolloutFile(path) as file:
        file.add([episode(0), episode(1), episode(0)])
    with RolloutFile(path) as file:
        file.add([episode(1), episode(2)])
    assert list(each_episode(path)) == [episode(0), episode(1), episode(2)]
    assert [read_episode(path, at)["id"] for at, _ in episode_heads(path)] == ["made-0", "made-1", "made-2"]


@given(cut=st.integers(0, 2000), texts=st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_half_a_line_is_passed_over_and_written_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rollouts.jsonl"
    made = [episode(number, text.encode("utf-8", "replace").decode()) for number, text in enumerate(texts)]
    with RolloutFile(path) as file:
        file.add(made)
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    assert [one["id"] for one in each_episode(path)] == [f"made-{n}" for n in range(len(ids(path)))]
    with RolloutFile(path) as file:
        file.add(made)
    assert path.read_bytes() == whole


def test_a_first_line_that_was_cut_off_is_continued_by_the_same_command(path: Path) -> None:
    path.write_bytes(b'{"id": "made-0", "task": "cut')
    with RolloutFile(rollouts_path(path)) as file:
        file.add([episode(0)])
    assert ids(path) == ["made-0"]


def test_texts_cannot_hide_where_the_steps_begin(path: Path) -> None:
    tricky = episode(0, ATTACK) | {"task": ATTACK, "options": {"of": "the world", "steps": [1, 2]}}
    tricky["steps"] = tricky.pop("steps")
    with RolloutFile(path) as file:
        file.add([tricky])
    ((_, head),) = episode_heads(path)
    assert head == {key: value for key, value in tricky.items() if key != "steps"}


def test_two_processes_cannot_write_the_same_file(path: Path) -> None:
    with RolloutFile(path), pytest.raises(RunFolderError, match="in use by another process"):
        RolloutFile(path)


def test_other_files_are_refused_and_left_alone(path: Path) -> None:
    path.write_text('{"task": "mine"}')
    with pytest.raises(OutputError, match="was not written by this command"):
        rollouts_path(path)
    with pytest.raises(RunFolderError, match=r"holds no rollouts \(line 1\)"):
        RolloutFile(path)
    with pytest.raises(RunFolderError, match=r"damaged, or no file of rollouts, at byte 0 \('steps' is missing\)"):
        list(each_episode(path))
    assert path.read_text() == '{"task": "mine"}'
    with pytest.raises(OutputError, match="is a pipe"):
        rollouts_path("/dev/stdout")
    with pytest.raises(RunFolderError, match="cannot be read"):
        list(each_episode(path.with_name("missing.jsonl")))


# What stages write


def test_rl_and_evaluation_write_all_their_episodes_and_decide_as_without(
    warmed: RunFolder, tiny: Callable[..., Settings], path: Path, tmp_path: Path
) -> None:
    plain = RunFolder(shutil.copytree(warmed.path, tmp_path / "plain"))
    settings = tiny({"rl.iterations": 2, "rl.validate_every": 2, "rl.curriculum": "mix"})
    for run, file in ((plain, None), (warmed, path)):
        for stage in (rl, evaluate):
            stage(run, Context(settings, file), Progress())
    assert differences(plain.path, warmed.path) in ([], ["checkpoints/rl/state.json"])  # which holds times
    rows = list(each_episode(path))
    places = Counter((row["source"], row["mode"], row.get("iteration"), row.get("panel")) for row in rows)
    assert places == {
        ("rl", "training", 0, None): 16,
        ("rl", "training", 1, None): 16,
        ("rl", "validation", 1, None): 6,
        **{("evaluate", "greedy", None, name): n for name, n in (("all", 30), ("test", 6), ("valid", 6))},
        **{("evaluate", "sampled", None, name): n for name, n in (("all", 60), ("test", 12), ("valid", 12))},
    }
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["stage"] for row in rows} == {None, "near"}
    assert {key for row in rows for key in row} - {"steps"} <= set(EPISODE)
    for row in rows:
        assert row["world"] == "corridor:Corridor"
        assert row["task_text"] == "Walk to the item and take it."
        assert row["length"] == len(row["steps"]) > 0
        assert row["return"] == pytest.approx(sum(step["reward"] for step in row["steps"]))
        for step in row["steps"]:
            assert set(step) <= set(STEP)
            assert 0 <= step["choice"] < len(step["actions"])
            assert step["log_prob"] <= 0
            assert step["reflection"]


def test_a_stage_that_is_evaluated_again_writes_nothing_new(
    warmed: RunFolder, tiny: Callable[..., Settings], path: Path
) -> None:
    shutil.copytree(warmed / "policy-sft", warmed / "policy")
    evaluate(warmed, Context(tiny(), path), Progress())
    first = path.read_bytes()
    evaluate(warmed, Context(tiny(), path), Progress())
    assert path.read_bytes() == first
    evaluate(warmed, Context(tiny({"seed": 1}), path), Progress())
    assert len(ids(path)) == 2 * first.count(b"\n")


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "a"}',
        '{"id": "a", "steps": [1]}',
        '{"id": "a", "steps": [{"reward": NaN}]}',
        '{"id": "a", "options": {"slip": 1e999}, "steps": []}',
        '{"id": "a", "return":"x","steps":[]}',
        '{"id": "a", "success": "yes", "steps": []}',
        '{"id": "a", "length": [1], "steps": []}',
        '{"id": "a", "trial": "x", "steps": []}',
        f'{{"id": "a", "return": {10**400}, "steps": []}}',
        r'{"id": "a", "task": "\ud800", "steps": []}',
        '{"id": "a\udcff", "steps": []}',
    ],
)
def test_a_damaged_line_is_one_message_wherever_it_is_read(line: str, path: Path, tmp_path: Path) -> None:
    good = json.dumps(episode(0))
    path.write_bytes(f"{good}\n{line}\n".encode(errors="surrogateescape"))
    damaged = f"rollouts.jsonl is damaged, or no file of rollouts, at byte {len(good) + 1} "
    with pytest.raises(RunFolderError, match=damaged):
        report_rollouts(path, tmp_path / "page.html", Progress())
    with pytest.raises(RunFolderError, match=damaged):
        export_dataset(path, tmp_path / "data", Progress())
    if "\udcff" in line:
        with pytest.raises(RunFolderError, match=r"holds no rollouts \(line 2\)"):
            RolloutFile(path)


def test_fields_may_be_null(path: Path, tmp_path: Path) -> None:
    path.write_text('{"id": "a", "success": null, "return": null, "length": null, "trial": null, "steps": []}\n')
    assert report_rollouts(path, tmp_path / "page.html", Progress()) == {"episodes": 1, "shown": 1}
    export_dataset(path, tmp_path / "data", Progress())


@pytest.mark.parametrize(
    "kill",
    [
        Kill("reflect_rl.training.rl:SuccessReplay.add", 2),
        Kill("reflect_rl.evaluation.evaluate:measured", 3),
        Kill("reflect_rl.training.recording:episode_row", 40),
    ],
    ids=["in RL", "in the evaluation", "while writing"],
)
def test_a_killed_run_that_continues_writes_each_episode_once(whole: Path, tmp_path: Path, kill: Kill) -> None:
    more = ("--rollouts", str(tmp_path / "rollouts.jsonl"))
    ended = run_small(tmp_path / "run", None, kill, *more)
    assert ended.code == -9, ended.err
    assert all(json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines())
    ended = run_small(tmp_path / "run", None, None, *more)
    assert ended.code == 0, ended.err
    assert differences(whole, tmp_path / "run") == []
    found = Counter(ids(tmp_path / "rollouts.jsonl"))
    assert set(found.values()) == {1}
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((whole / "results.json").read_text())
    panels = sum(figures["episodes"] for modes in results["panels"].values() for figures in modes.values())
    validated = sum(row["valid_success"] is not None for row in metrics)
    valid = results["panels"]["valid"]["greedy"]["episodes"]
    assert len(found) == sum(row["episodes"] for row in metrics) + validated * valid + panels


def test_the_option_is_checked_before_anything_is_done(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for command in (("run", "taxi", "--out", "new", *options()), ("rl", str(run)), ("evaluate", str(run))):
        ended = reflect_rl(*command, "--rollouts", str(tmp_path / "notes.txt"), cwd=tmp_path)
        refused(ended, "--rollouts", "was not written by this command")
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


# The page


@pytest.mark.browser
def test_the_page_of_a_large_file_shows_what_fits_and_says_so(browser: Any, path: Path) -> None:
    with RolloutFile(path) as file:
        file.add(episode(number, f"{ATTACK} {'word ' * 400}", steps=3) for number in range(1500))
    page = path.with_suffix(".html")
    counts = report_rollouts(path, page, Progress())
    assert counts["episodes"] == 1500
    assert 20 < counts["shown"] < 1500
    assert page.stat().st_size < 1_000_000
    opened = Opened(browser, page)
    assert opened.errors == []
    assert opened.page.evaluate("window.attacked") is None
    assert f"{counts['shown']} of 1,500 episodes" in opened.text("#episodes .lead")
    assert opened.page.locator(".episodes button").count() == counts["shown"]
    shown = [int(text.split()[1]) for text in opened.page.locator(".episodes .task").all_inner_texts()]
    assert shown == sorted(shown)
    assert shown[0] == 0
    assert shown[-1] > 1300
    assert opened.page.locator("#counts tbody tr").all_inner_texts()[0].split("\t")[:4] == [
        *("made up", "agent test played", "1,500", "50.0 %"),
    ]
    opened.page.close()


def test_rows_that_are_left_out_of_the_table_are_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflect_rl.evaluation.report_rollouts.MOST_GROUPS", 2)
    with RolloutFile(path) as file:
        file.add({**episode(number), "agent": f"agent {number}"} for number in range(3))
    report_rollouts(path, path.with_suffix(".html"), Progress())
    page = path.with_suffix(".html").read_text()
    assert '"groups_total":3' in page.replace(": ", ":")


@pytest.mark.browser
def test_invalid_answers_are_shown_where_they_were_given(browser: Any, path: Path) -> None:
    answered = episode(0)
    answered["steps"] = [answered["steps"][0] | {"said": "Let me think.", "invalid": True, "choice": 0}]
    with RolloutFile(path) as file:
        file.add([answered])
    report_rollouts(path, path.with_suffix(".html"), Progress())
    opened = Opened(browser, path.with_suffix(".html"))
    assert opened.text(".said") == "Let me think."
    assert "names no admissible action" in opened.text(".mind .note")
    opened.page.close()


@pytest.mark.parametrize(
    ("file", "page"), [("a.jsonl", "a.html"), ("a.v1", "a.v1.html"), ("a.v2", "a.v2.html"), ("a", "a.html")]
)
def test_each_file_of_rollouts_has_a_page_of_its_own(tmp_path: Path, file: str, page: str) -> None:
    assert rollouts_page(tmp_path / file) == tmp_path / page


def test_report_and_export_on_the_command_line(path: Path, tmp_path: Path) -> None:
    with RolloutFile(path) as file:
        file.add(map(episode, range(3)))
    ended = reflect_rl("report", "rollouts.jsonl", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "3 of 3 episodes are shown" in ended.out
    assert reflect_rl("report", "rollouts.jsonl", cwd=tmp_path).code == 0  # an own page is replaced
    path.with_suffix(".html").write_text("mine")
    refused(reflect_rl("report", "rollouts.jsonl", cwd=tmp_path), "rollouts.html", "was not written by this command")
    refused(reflect_rl("report", "rollouts.jsonl", "--out", "x.html", cwd=tmp_path), "--out", "report of a run")
    path.with_name("empty.jsonl").touch()
    for wrong, said in (
        ("missing.jsonl", "cannot be read"),
        ("rollouts.html", "damaged"),
        ("empty.jsonl", "no episodes"),
    ):
        refused(reflect_rl("export-rollouts", wrong, "--to", "data", cwd=tmp_path), wrong, said)
    assert not (tmp_path / "data").exists()
    ended = reflect_rl("export-rollouts", "rollouts.jsonl", "--to", "data", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out == "data\n"


# The data set


def test_json_lines_have_all_columns_in_every_row(
    path: Path, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflect_rl.evaluation.export_rollouts._has_parquet", lambda: False)
    with RolloutFile(path) as file:
        file.add(map(episode, range(5)))
    to = export_dataset(path, tmp_path / "data", heard)
    assert any("pyarrow" in text or "parquet" in text for text in heard.warned)
    rows = [json.loads(line) for line in (to / "data" / "train.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"made-{number}" for number in range(5)]
    assert {tuple(row) for row in rows} == {(*EPISODE, "steps")}
    assert {tuple(step) for row in rows for step in row["steps"]} == {tuple(STEP)}
    text = (to / "README.md").read_text()
    head = re.match(r"---\n(.*?)---\n", text, flags=re.DOTALL)
    assert head
    (config,) = parse_yaml(head[1])["configs"]
    assert (to / config["data_files"][0]["path"]).is_file()
    assert "5 episodes" in text
    assert "| doors | made up | agent test played | 5 |" in text


def test_what_was_edited_in_a_data_set_is_kept_beside_a_new_export(path: Path, tmp_path: Path, heard: Heard) -> None:
    with RolloutFile(path) as file:
        file.add([episode(0)])
    to = export_dataset(path, tmp_path / "data", Progress())
    (to / "data/test.jsonl").write_text("mine")
    card = (to / "README.md").read_text()
    (to / "README.md").write_text(f"{card}\nLicence: mine")
    export_dataset(path, to, heard)
    assert (to / "data.edited/test.jsonl").read_text() == "mine"
    assert (to / "README.md.edited").read_text().endswith("Licence: mine")
    assert (to / "README.md").read_text() == card
    kept = [text.rpartition("kept as ")[2] for text in heard.warned if "kept as" in text]
    assert sorted(kept) == ["README.md.edited.", "data.edited."]


def test_an_export_replaces_an_earlier_one_and_nothing_else(path: Path, tmp_path: Path) -> None:
    with RolloutFile(path) as file:
        file.add([episode(0)])
    to = export_dataset(path, tmp_path / "data", Progress())
    with RolloutFile(path) as file:
        file.add([episode(1)])
    export_dataset(path, to, Progress())
    assert "2 episodes" in (to / "README.md").read_text()
    assert sorted(path.name for path in to.iterdir() if path.name[0] != ".") == ["README.md", "data"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no data set of rollouts"):
        export_dataset(path, tmp_path / "mine", Progress())
    path.write_bytes(path.read_bytes() + b'{"id": "x", "steps": 5}\n')
    with pytest.raises(RunFolderError, match="damaged"):
        export_dataset(path, to, Progress())
    assert "2 episodes" in (to / "README.md").read_text()


def test_an_export_does_not_replace_what_it_reads(path: Path, tmp_path: Path) -> None:
    with RolloutFile(path) as file:
        file.add([episode(0)])
    to = export_dataset(path, tmp_path / "data", Progress())
    own = to / "data" / "mine.jsonl"
    own.write_bytes(path.read_bytes())
    with pytest.raises(OutputError, match=r"overlaps .*mine\.jsonl, which this command reads"):
        export_dataset(own, to, Progress())
    assert own.read_bytes() == path.read_bytes()


def test_parquet_holds_the_same_rows(path: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with RolloutFile(path) as file:
        file.add(map(episode, range(5)))
    to = export_dataset(path, tmp_path / "data", Progress())
    rows = parquet.read_table(to / "data" / "train.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"made-{number}" for number in range(5)]
    assert rows[1]["steps"][0]["actions"] == ["go", "stay"]
    assert rows[1]["success"] is True
    assert rows[1]["usd"] is None
    assert rows[1]["options"] == "{}"
    with RolloutFile(path) as file:
        file.add([episode(9) | {"success": "yes"}])
    with pytest.raises(RunFolderError, match="a field has a wrong type"):
        export_dataset(path, to, Progress())
