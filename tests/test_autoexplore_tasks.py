"""AutoExplore's words and task files, and where the repositories of tasks lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflect_rl.envs.autoexplore import sources
from reflect_rl.envs.autoexplore.sources import (
    RepositoryError,
    available,
    digest,
    installed,
    repository_of,
    repository_tree,
    tree_of,
)
from reflect_rl.envs.autoexplore.tasks import Task, TaskFileError, read_tasks, write_tasks
from reflect_rl.envs.autoexplore.words import Bm25, Words, words
from reflect_rl.runs.outputs import output_file

DIGEST = "0" * 16
TASK = {
    "name": "shop/cart.py:Cart",
    "split": "train",
    "repository": "shop/",
    "target": "cart.py",
    "symbol": "Cart",
    "question": "Where do customers collect what they will buy?",
    "digest": DIGEST,
}


def task_file(path: Path, *changes: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(TASK | change) + "\n" for change in changes), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def fresh() -> None:
    for cached in (sources.tree_of, sources.repository_tree):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HTTPAdapter URLs", ["http", "adapter", "url"]),
        ("parse_cookieJars", ["pars", "cooki", "jar"]),
        ("The parsing of parsed caches", ["pars", "pars", "cach"]),
        ("cookies, queries: cookie, query", ["cooki", "queri", "cooki", "queri"]),
        ("sha256 of a string", ["sha", "256", "string"]),
        ("x, y", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text())
def test_words_of_any_text_are_lower_case_and_not_empty(text: str) -> None:
    assert all(word and word == word.lower() for word in words(text))


def test_bm25_prefers_rare_words_and_short_documents() -> None:
    model = Bm25([["a", "b"], ["a", "c"], ["a"], ["a", *["d"] * 50]])
    assert model.scores(["b"]).argmax() == 0
    assert np.flatnonzero(model.scores(["b", "nowhere"])).tolist() == [0]
    assert model.scores(["a"]).argmax() == 2
    assert Bm25([]).scores(["a"]).shape == (0,)


def test_a_word_that_is_not_in_the_table_is_the_rarest() -> None:
    table = Words(100, {"often": 90, "seldom": 2})
    assert table.idf("never") > table.idf("seldom") > table.idf("often") > 0


def test_task_file_is_read_back_and_moves_with_its_folders(tmp_path: Path) -> None:
    tasks = read_tasks(task_file(tmp_path / "tasks.jsonl", {}, {"name": "other", "repository": "requests==2.34.2"}))
    assert [task.repository for task in tasks] == [str(tmp_path / "shop"), "requests==2.34.2"]
    write_tasks(output_file(tmp_path / "again.jsonl", "-o"), tasks)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "tasks.jsonl").read_bytes()


def test_a_task_file_behind_a_link_finds_its_folders(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "deep")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "link" / "tasks.jsonl")
    task = Task(**{**TASK, "repository": str(tmp_path / "shop")})
    write_tasks(output_file(tmp_path / "link" / "tasks.jsonl", "-o"), [task])
    for path in ("link/tasks.jsonl", "link.jsonl", "data/deep/tasks.jsonl"):
        assert read_tasks(tmp_path / path) == (task,)


def test_an_unknown_home_is_one_message() -> None:
    with pytest.raises(TaskFileError, match=r"~nobody-here/tasks\.jsonl cannot be read"):
        read_tasks("~nobody-here/tasks.jsonl")
    with pytest.raises(RepositoryError, match="neither a folder nor"):
        repository_of("~nobody-here/shop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "split is 'dev'"),
        ({"repository": "shop"}, "folder with a final slash"),
        ({"target": "../secret.py"}, "below the repository's root"),
        ({"target": "/etc/passwd"}, "below the repository's root"),
        ({"target": ""}, "below the repository's root"),
        ({"question": "two\nlines"}, "one line"),
        ({"digest": "xyz"}, "16 hex digits"),
        ({"extra": "field"}, "nothing else"),
        ({"symbol": 3}, "is an object of the texts"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = task_file(tmp_path / "tasks.jsonl", {}, change | {"name": "second"})
    with pytest.raises(TaskFileError, match=f"line 2: .*{message}"):
        read_tasks(path)


def test_what_is_no_task_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match="cannot be read"):
        read_tasks(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(TaskFileError, match="holds no tasks"):
        read_tasks(tmp_path / "empty.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\x00")
    with pytest.raises(TaskFileError, match="line 1: this is not JSON"):
        read_tasks(tmp_path / "bytes.jsonl")
    with pytest.raises(TaskFileError, match="line 2: there is a task"):
        read_tasks(task_file(tmp_path / "twice.jsonl", {}, {}))


def fake_distribution(site: Path, name: str = "shop", version: str = "1.0+local") -> None:
    (site / "shop").mkdir(parents=True)
    (site / "shop" / "cart.py").write_text("class Cart: ...\n")
    (site / "shop" / "unlisted.py").write_text("")
    (site / "shop" / "_fast.so").write_bytes(b"\0")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("shop/cart.py,,\nshop/_fast.so,,\n../../bin/shop,,\n")


def test_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_distribution(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert installed("Shop") == installed("shop==1.0") == installed("shop==1.0+cpu") == "shop==1.0"
    tree = repository_tree("shop==1.0")
    assert [tree.path(node) for node in range(len(tree))] == ["", "cart.py"]
    with pytest.raises(RepositoryError, match=r"installed as 1.0\+local, not as 2.0"):
        installed("shop==2.0")
    with pytest.raises(RepositoryError, match="neither a folder nor an installed distribution"):
        installed("no-such-shop")


def test_absent_repositories_are_left_out_with_one_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "shop").mkdir()
    absent = {"repository": "no-such-shop==1.0", "split": "train"}
    path = task_file(
        tmp_path / "tasks.jsonl", {}, {"name": "b"} | absent, {"name": "c"} | absent, {"name": "d", "split": "test"}
    )
    tasks = read_tasks(path)
    assert [task.name for task in available(tasks, "train")] == [TASK["name"]]
    assert [task.name for task in available(tasks, "test")] == ["d"]
    assert {str(each.message) for each in recwarn} == {
        "2 of 4 tasks are left out: no-such-shop is not installed (no-such-shop==1.0 is needed). To have them "
        "all: pip install --no-deps 'no-such-shop==1.0'"
    }
    (tmp_path / "shop").rmdir()
    with pytest.raises(RepositoryError, match="no test tasks: no repository of one is there: there is no folder"):
        available(tasks, "test")
    with pytest.raises(RepositoryError, match="no valid tasks: the task file has none"):
        available(tasks, "valid")


def test_a_folder_that_is_made_later_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    with pytest.raises(RepositoryError, match="There is no folder"):
        repository_tree(str(folder))
    folder.mkdir()
    (folder / "cart.py").write_text("x = 1\n")
    assert repository_tree(str(folder)).find("cart.py") is not None


def test_a_changed_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "cart.py").write_bytes(b"class Cart: ...\n")
    (task,) = read_tasks(task_file(tmp_path / "tasks.jsonl", {"digest": digest(b"class Cart: ...\n")}))
    assert tree_of(task).find("cart.py") is not None
    (other,) = read_tasks(task_file(tmp_path / "tasks.jsonl", {}))
    with pytest.raises(RepositoryError, match="has changed since the task"):
        tree_of(other)
    with pytest.raises(RepositoryError, match="is not there"):
        tree_of(Task(**{**TASK, "repository": str(tmp_path / "shop"), "target": "gone.py"}))
