"""AutoExplore's questions: what is taken from docstrings, what is dropped, how tasks are split, and the command."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reflect_rl.__main__ import run_command
from reflect_rl.envs.autoexplore.build import check_apart, find_tasks, findings_table, split_tasks, with_rivals
from reflect_rl.envs.autoexplore.questions import (
    PARAGRAPH,
    docstrings,
    first_sentence,
    is_question,
    leaks,
    may_be_target,
)
from reflect_rl.envs.autoexplore.sources import RepositoryError, installed, repository_tree, tree_of
from reflect_rl.envs.autoexplore.tasks import Task, read_tasks, ready_tasks
from reflect_rl.envs.autoexplore.words import train_words, words
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.progress import Progress


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return a cookie.  And more.", "Return a cookie."),
        ("\n    Sends, e.g. by mail,\n    a letter.\n\n    Args: none", "Sends, e.g. by mail, a letter."),
        ("Wraps a :class:`~shop.Cart` in ``paper``, *twice*", "Wraps a shop.Cart in paper, twice"),
        ("See [the docs](http://x.org) of `Cart`_!", "See the docs of Cart!"),
    ],
)
def test_first_sentence(docstring: str, expected: str) -> None:
    assert first_sentence(docstring) == expected


@pytest.mark.parametrize("text", ["[", "[a](", ":a", "*", "`", "(", ":a`<", "_"])
def test_no_docstring_takes_long(text: str) -> None:
    """Some patterns take the square of what they read: 60,000 brackets took 20 seconds."""
    started = time.process_time()
    assert len(first_sentence(text * 100_000)) <= PARAGRAPH
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Collects what customers of the market want to buy.", True),
        ("Buys.", False),
        ("cart(items, price) -> the sum of all prices in a cart", False),
        ("Deprecated since the release in which carts went to the market.", False),
        ("Lorem ipsum dolor sit amet consectetur adipiscing elit.", False),
        ("Add the item to the cart if x <= y and the market is open.", False),
        ("Sammelt in the Körbe of the market, what people buy.", False),
    ],
)
def test_a_question_is_an_english_sentence(sentence: str, expected: bool) -> None:
    assert is_question(sentence) is expected


@pytest.mark.parametrize(
    ("question", "target", "symbol", "expected"),
    [
        ("Parses what servers send.", "net/parser.py", "", True),
        ("Parses what servers send.", "net/urlparse.py", "", True),
        ("Description of a thing.", "lib/descriptor.py", "", True),
        ("Caches of a server.", "lib/cache/disk.py", "", True),
        ("Show progress as a bar.", "ui.py", "progressbar", True),
        ("Show progress as a bar.", "ui.py", "ProgressBar.update", True),
        ("Show progress as a line.", "ui.py", "TerminalProgress", False),
        ("Fetch what servers send.", "net/adapter.py", "HTTPAdapter.get", False),
    ],
)
def test_leaks(question: str, target: str, symbol: str, expected: bool) -> None:
    assert leaks(question, target, symbol) is expected


@example(word="aaae", path="z/my{}.py")  # its stem has three letters, which are too few for a part of a name
@given(st.text(alphabet="abcdefgh", min_size=4), st.sampled_from(["{}.py", "a1/{}_x.py", "z/my{}.py", "{}/q.py"]))
def test_a_word_of_the_path_always_leaks(word: str, path: str) -> None:
    if words(word):
        assert leaks(f"It is the {word} of it all.", path.format(word), "")


@given(st.text())
def test_docstrings_of_any_text(source: str) -> None:
    assert all(isinstance(each.sentence, str) for each in docstrings(source))


def test_what_is_public() -> None:
    source = "'M.'\nclass A:\n 'A.'\n def _b(self):\n  'B.'\n def c(self):\n  'C.'\n  def d():\n   'D.'"
    assert [(each.symbol, each.public) for each in docstrings(source)] == [
        ("", True),
        ("A", True),
        ("A._b", False),
        ("A.c", True),
        ("A.c.d", False),
    ]
    assert may_be_target("shop/__init__.py")
    for path in ("shop/_cart.py", "shop/__main__.py", "tests/cart.py", "shop/test_cart.py", "cart.md", "new\nline.py"):
        assert not may_be_target(path)


QUESTIONS = {
    "shop": {
        "cart.py": ["Collects what customers of the market will buy."],
        "till.py": ["Takes money from people in a queue and gives them a receipt.", "Buys."],
    },
    "bank": {
        "vault/safe.py": [
            f"Keeps the {what} of the rich behind a door of steel." for what in ("gold", "silk", "wine", "art")
        ],
        "loan.py": ["Lends a sum to farmers until the harvest is in."],
        "copies.py": ["Lends a sum to farmers until the harvest is in."],
    },
    "mail": {"office/stamp.py": ["Glues a paper square with the head of the queen onto an envelope."]},
}


def make_trees(root: Path, *, backwards: bool = False) -> list[str]:
    for name, files in QUESTIONS.items():
        for path, sentences in sorted(files.items(), reverse=backwards):
            file = root / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            bodies = (f'def f{n}():\n    """{each}"""\n    return "{each}"\n' for n, each in enumerate(sentences))
            file.write_text("\n".join(bodies))
    return [str(root / name) for name in QUESTIONS]


def test_build(tmp_path: Path) -> None:
    findings = find_tasks(make_trees(tmp_path), most=10, seed=0, progress=Progress())
    tasks = split_tasks(findings, "repository", 0)
    assert {task.name for task in tasks} > {"mail/office/stamp.py:f0", "shop/till.py:f0"}
    assert not any(task.target in ("loan.py", "copies.py") for task in tasks), "two files answer"
    assert max(Counter((task.repository, task.target) for task in tasks).values()) == 3
    assert len({task.repository for task in tasks}) == len({(task.repository, task.split) for task in tasks}) == 3
    assert [row[0] for row in findings_table(findings, tasks)] == ["repository", "bank", "mail", "shop"]
    for each in findings:
        assert each.found == sum(each.dropped.values()) + len(each.tasks)
    for task in tasks:
        assert tree_of(task).find(task.target)
    assert all(rival.share < 1 and rival.path != task.target for task, rival in with_rivals(tasks, Progress()))
    gone = next(task for task in tasks if task.repository.endswith("mail"))
    (tmp_path / "mail" / gone.target).unlink()
    tree_of.cache_clear()
    repository_tree.cache_clear()
    with pytest.raises(RepositoryError, match=f"{gone.target} of .* is not there since the task"):
        list(with_rivals(tasks, Progress()))


def test_the_file_system_decides_nothing(tmp_path: Path) -> None:
    written = []
    for place, backwards in ((tmp_path / "a", False), (tmp_path / "b", True)):
        paths = make_trees(place, backwards=backwards)
        assert (
            run_command(["autoexplore", "build", *sorted(paths, reverse=backwards), "-o", str(place / "t.jsonl")]) == 0
        )
        written.append((place / "t.jsonl").read_bytes())
    assert written[0] == written[1]
    os.rename(tmp_path / "a", tmp_path / "moved")
    assert all(Path(task.repository).is_dir() for task in read_tasks(tmp_path / "moved" / "t.jsonl"))


def test_most_draws_by_seed(tmp_path: Path) -> None:
    paths = make_trees(tmp_path)
    drawn = [find_tasks(paths, most=1, seed=seed, progress=Progress()) for seed in (0, 0, 1, 2, 3)]
    names = [[task.name for each in findings for task in each.tasks] for findings in drawn]
    assert len(names[0]) == 3
    assert names[0] == names[1]
    assert any(other != names[0] for other in names[2:])


def test_fewer_than_three_repositories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop, bank, _ = make_trees(tmp_path)
    out = tmp_path / "tasks.jsonl"
    assert run_command(["autoexplore", "build", shop, bank, "-o", str(out)]) == 2
    assert "need a repository each, and there are 2" in capsys.readouterr().err
    assert not out.exists()
    assert run_command(["autoexplore", "build", shop, bank, "--split-by", "file", "-o", str(out)]) == 0
    tasks = read_tasks(out)
    assert {task.split for task in tasks} == {"train", "valid", "test"}
    assert len({(task.repository, task.target) for task in tasks}) == 3


def test_repositories_without_questions_do_not_count(tmp_path: Path) -> None:
    shop, bank, _ = make_trees(tmp_path)
    (tmp_path / "void").mkdir()
    findings = find_tasks([shop, bank, str(tmp_path / "void")], most=9, seed=0, progress=Progress())
    with pytest.raises(EnvironmentContractError, match="Only 2 repositories have questions"):
        split_tasks(findings, "repository", 0)


def test_a_build_in_vain_tells_what_was_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "cart.py").write_text('"""Adds the items of a customer to the cart."""\n')
    out = tmp_path / "tasks.jsonl"
    assert run_command(["autoexplore", "build", str(tmp_path / "one"), "--split-by", "file", "-o", str(out)]) == 2
    told = capsys.readouterr()
    heading, row = told.out.splitlines()
    assert row[heading.index("leak")] == "1"
    assert "Only 0 files" in told.err


def test_repositories_are_apart(tmp_path: Path) -> None:
    paths = [make_trees(tmp_path / place)[0] for place in ("a", "b")]
    with pytest.raises(EnvironmentContractError, match="Two repositories are named shop"):
        check_apart(paths, "file")
    with pytest.raises(EnvironmentContractError, match="shop lies in "):
        check_apart([str(tmp_path / "a"), paths[0]], "file")
    one = installed("PyYAML")
    check_apart([paths[0], paths[0], one, installed("packaging")], "file")
    package = repository_tree(one).root  # .../yaml
    for folder in (package, package.parent):
        with pytest.raises(EnvironmentContractError, match=f"{one} lies in {folder}. Name one"):
            check_apart([one, str(folder)], "file")


def test_no_file_is_too_odd_to_be_a_rival(tmp_path: Path) -> None:
    """A form feed or a long line is no reason to overlook the docstrings of a file."""
    sentence = "Glues a paper square with the head of the queen onto an envelope."
    trace = "PAPER = 'paper square of the queen'\n"
    (tmp_path / "one.py").write_text(f'def f():\n    """{sentence}"""\n\n\n{trace}')
    for odd in ("\x0c\n", f"LONG = '{'x' * 500}'\n"):
        (tmp_path / "two.py").write_text(f'{odd}def g():\n    """{sentence}"""\n')
        repository_tree.cache_clear()
        (found,) = find_tasks([str(tmp_path)], most=10, seed=0, progress=Progress())
        assert (found.found, found.dropped["ambiguous"], found.tasks) == (2, 2, [])


def test_tasks_go_into_a_pipe_alone(tmp_path: Path) -> None:
    paths, other = make_trees(tmp_path / "trees"), tmp_path / "other"
    other.mkdir()
    command = [sys.executable, "-m", "reflect_rl", "autoexplore", "build", *paths, "-o", "/dev/stdout"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (other / "t.jsonl").write_text(done.stdout)
    assert {task.repository for task in read_tasks(other / "t.jsonl")} == set(paths)
    assert "repository" in done.stderr


def test_build_replaces_only_task_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, out = make_trees(tmp_path / "trees"), tmp_path / "mine.jsonl"
    out.write_text('{"precious": 1}\n')
    assert run_command(["autoexplore", "build", *paths, "-o", str(out)]) == 2
    assert out.read_text() == '{"precious": 1}\n'
    assert run_command(["autoexplore", "build", *paths, "-o", f"{paths[0]}/tasks.jsonl"]) == 2
    assert run_command(["autoexplore", "build", "no-such-thing", "-o", str(tmp_path / "new.jsonl")]) == 2
    assert "neither a folder nor an installed distribution" in capsys.readouterr().err
    out.unlink()
    for _ in range(2):
        assert run_command(["autoexplore", "build", *paths, "-o", str(out)]) == 0
    capsys.readouterr()
    assert run_command(["autoexplore", "tasks", "--tasks", str(out), "--split", "train", "--sample", "1"]) == 0
    assert "rival" in capsys.readouterr().out


def test_hostile_files_are_no_obstacle(tmp_path: Path) -> None:
    *_, mail = make_trees(tmp_path)
    stamp = Path(mail, "office", "stamp.py").read_text()
    Path(mail, "broken.py").write_text("def (:")
    Path(mail, "deep.py").write_text("(" * 5000)
    Path(mail, "zero.py").write_bytes(b"\0\xff")
    Path(mail, "loop").symlink_to(mail)
    Path(os.fsencode(mail).decode(errors="surrogateescape"), "caf\udce9.py").write_text(stamp.replace("queen", "king"))
    (findings,) = find_tasks([mail], most=9, seed=0, progress=Progress())
    assert findings.files == 5
    assert [task.target for task in findings.tasks] in ([], ["office/stamp.py"])


def by_split(split: str) -> list[Task]:
    return [task for task in ready_tasks() if task.split == split]


def test_ready_tasks_keep_what_the_filters_promise() -> None:
    tasks = ready_tasks()
    assert all(by_split(split) for split in ("train", "valid", "test"))
    assert len({task.repository for task in tasks}) == len({(task.repository, task.split) for task in tasks})
    assert len({tuple(sorted(words(task.question))) for task in tasks}) == len(tasks)
    assert max(Counter((task.repository, task.target) for task in tasks).values()) <= 3
    for task in tasks:
        assert is_question(task.question)
        assert may_be_target(task.target)
        assert not leaks(task.question, task.target, task.symbol)


def test_ready_tasks_fit_the_pinned_packages() -> None:
    """The set is read from the versions in constraints.txt."""
    pinned = {line.strip().lower().replace("_", "-") for line in (Path(__file__).parents[1] / "constraints.txt").open()}
    repositories = {task.repository for task in ready_tasks()}
    assert {name.replace("_", "-") for name in repositories} <= pinned
    assert len(repositories) >= 20


def test_ready_targets_are_the_files_that_are_installed() -> None:
    repositories = sorted({task.repository for task in by_split("test")})[:3]
    for task in ready_tasks():
        if task.repository in repositories:
            assert tree_of(task) is repository_tree(task.repository)


def test_table_of_rarity() -> None:
    table = train_words()
    assert 1000 < len(table.counts) < 10_000
    assert table.idf("return") < table.idf("redirect") < table.idf("no such word")


def test_ready_file_holds_no_sources() -> None:
    from reflect_rl.envs.autoexplore import tasks

    lines = (Path(tasks.__file__).parent / "ready.jsonl").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) < 600
    assert {key for line in lines for key in json.loads(line)} == set(tasks.FIELDS)


def test_the_judged_tasks_are_those_that_ship() -> None:
    """docs/autoexplore-judged.csv: two draws of 100 test tasks, the second one before a last filter took out two."""
    rows = list(csv.DictReader((Path(__file__).parents[1] / "docs" / "autoexplore-judged.csv").open(encoding="utf-8")))
    judged = [row for row in rows if row["draw"] == "2"]
    assert len(rows) == 2 * len(judged) == 200
    gone = {row["task"] for row in judged} - {task.name for task in by_split("test")}
    assert gone == {"docutils/writers/latex2e/__init__.py:CharMaps", "rich/filesize.py:pick_unit_and_suffix"}
    assert all((row["clean"] == "no") == bool(row["why not"]) for row in rows)
