"""The study of label efficiency: its pool is read without running anything, and an interrupted study continues."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from reflect_rl.bench.label_pool import Pair, fingerprint, package, read_pairs
from reflect_rl.bench.labels import KNOWN, POOL, bench_labels, labels_table, summary
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream
from report_page import Opened

VERBS, THINGS = ("open", "close", "count", "sort", "move"), ("file", "window", "list", "socket", "page", "word")


def test_pairs_are_read_from_sources_that_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "x.py").write_text('def tried():\n    """Of a test, which is left out."""\n')
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "runs.py").write_text(
        'raise SystemExit\ndef open_file():\n    """Open a\n    file.\n\n    More."""\n'
        'def __call__(self):\n    """Not a name to guess."""\ndef short():\n    """Short."""\n'
    )
    assert read_pairs(tmp_path) == [Pair("open a file.", "open file", "runs")]
    assert package("there_is_no_such_package") == []


def test_an_equal_text_is_there_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(f'def {name}():\n    """The very same words."""\n')
    assert read_pairs(tmp_path) == [Pair("the very same words.", "a", "a")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, random = RunFolder(tmp_path_factory.mktemp("study")), stream(0, "pairs")
    pairs = [
        Pair(f"{verb} the {thing} {n}.", f"{verb}_{thing}", verb) for verb in VERBS for thing in THINGS for n in (1, 2)
    ]
    order = random.permutation(len(pairs))
    run.write_jsonl(KNOWN, (asdict(pairs[i]) for i in order[:10]))
    run.write_jsonl(POOL, (asdict(pairs[i]) for i in order[10:]))
    bench_labels(run.path, Progress(), seeds=[0], strategies=("random", "mean-entropy", "equal-budget", "k-center"))
    return run.path


def test_every_strategy_is_measured_at_every_share(study: Path) -> None:
    figures = json.loads((study / "labels.json").read_text())
    assert figures["pool"] == fingerprint([Pair(**json.loads(row)) for row in (study / POOL).read_text().splitlines()])
    assert figures["strategies"].keys() == {"random", "mean-entropy", "equal-budget", "k-center"}
    assert [row["labels"] for row in figures["strategies"]["k-center"].values()] == [8, 12, 18]
    assert all(row["loss"]["mean"] > 0 for rows in figures["strategies"].values() for row in rows.values())
    assert len(labels_table(figures)) == 1 + 7 + 3 * 3


def test_an_interrupted_study_ends_as_one_that_was_not(study: Path) -> None:
    before = (study / "labels.json").read_bytes()
    for name in ("labels.json", "seed-0/results/k-center-0.3.json", "seed-0/results/random-0.9.json"):
        (study / name).unlink()
    kept = (study / "seed-0/results/mean-entropy-0.2.json").stat().st_mtime_ns
    bench_labels(study, Progress(), seeds=[0], strategies=("random", "mean-entropy", "equal-budget", "k-center"))
    assert (study / "labels.json").read_bytes() == before
    assert (study / "seed-0/results/mean-entropy-0.2.json").stat().st_mtime_ns == kept


@pytest.mark.browser
def test_its_page_draws_every_strategy_beside_random(study: Path, browser: Any) -> None:
    opened = Opened(browser, study / "report.html")
    others = ["mean-entropy", "equal-budget", "k-center"]
    for figure in ("loss", "exact"):
        assert opened.page.locator(f"#{figure} .chart .name").all_inner_texts() == others
        assert opened.page.locator(f"#{figure} path.line.accent").count() == len(others)
    assert opened.page.locator("#table tbody tr").count() == 7 + 3 * 3
    assert opened.errors == []
    assert opened.overflow() == 0
    assert all(url.startswith("file:") for url in opened.requests)


def test_labels_are_compared_with_what_random_needs_for_the_same_loss() -> None:
    chance = {0.1: 4.0, 0.2: 3.0, 0.3: 2.5, 0.4: 2.0, 0.45: 1.9, 0.6: 1.5, 0.9: 1.0}
    found = {("random", share): [{"loss": loss, "exact": 0.0, "labels": 100 * share}] for share, loss in chance.items()}
    found |= {
        ("better", share): [{"loss": loss, "exact": 0.1, "labels": 1}]
        for share, loss in ((0.2, 2.0), (0.3, 2.5), (0.45, 0.5))
    }
    rows = summary(found, ["random", "better"])["better"]
    assert rows["0.2"]["labels for random's loss"]["mean"] == pytest.approx(0.5)
    assert rows["0.2"]["reaches random at twice the budget"]
    assert rows["0.3"]["labels for random's loss"]["mean"] == pytest.approx(1.0)
    assert not rows["0.3"]["reaches random at twice the budget"]
    assert rows["0.45"]["labels for random's loss"]["mean"] == pytest.approx(0.5), "beyond the curve: its last share"
