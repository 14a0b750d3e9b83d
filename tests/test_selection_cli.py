"""`reflect-rl select`: formats, what is written, and one clear message for each mistake."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reflect_rl.__main__ import run_command
from reflect_rl.errors import SelectionError
from reflect_rl.pools.file import PoolFile
from reflect_rl.pools.select import make_strategy, parse_budget
from reflect_rl.pools.tfidf import tfidf
from reflect_rl.progress import Progress
from reflect_rl.selection import STRATEGIES, KCenter, Random, UncertainThenDiverse

SIZE = 40


def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "id": f"p{number}",
            "prompt": " ".join(f"word{number % 4}x{word}" for word in rng.integers(0, 9, 8)),
            "task": f"t{number % 3}",
            "quality": round(float(rng.random()), 3),
            "entropies": rng.random(1 + number % 4).round(3).tolist(),
            "emb": rng.standard_normal(4).round(3).tolist(),
        }
        for number in range(SIZE)
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one pool in three formats, its embeddings, and labelled items."""
    monkeypatch.chdir(tmp_path)
    pool = rows()
    Path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool), encoding="utf-8")
    with open("pool.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(pool[0]))
        writer.writeheader()
        writer.writerows({key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()} for row in pool)
    np.save("emb.npy", np.array([row["emb"] for row in pool], np.float32))
    Path("labelled.jsonl").write_text('{"id": "p3"}\n{"id": "p4"}\n', encoding="utf-8")
    return tmp_path


def select(*arguments: str) -> int:
    return run_command(["select", *arguments])


def picked(path: str = "picks.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


KEPT = '{"id": "p1", "rank": 1, "gain": 1.0, "strategy": "random", "score": null}\n'
ARGUMENTS = {
    "random": [],
    "facility-location": ["--embeddings", "emb.npy"],
    "k-center": ["--embeddings", "emb"],
    "mean-entropy": [],
    "max-token-uncertainty": [],
    "mean-margin": ["--tokens-column", "entropies"],
    "min-margin": ["--tokens-column", "entropies"],
    "least-confidence": ["--tokens-column", "logprobs"],
    "equal-budget": ["--quota-column", "task", "--within", "k-center", "--embeddings", "emb"],
    "inverse-confidence": ["--quota-column", "task", "--score-column", "quality"],
    "quality-facility-location": ["--score-column", "quality", "--embeddings", "emb.npy", "--quality", "0.2"],
    "uncertain-then-diverse": ["--score-column", "quality", "--embeddings", "emb.npy", "--keep", "2"],
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_can_be_given(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "least-confidence":
        Path("pool.jsonl").write_text(
            "".join(json.dumps({**row, "logprobs": [-x for x in row["entropies"]]}) + "\n" for row in rows())
        )
    assert select("pool.jsonl", "--id-column", "id", "--budget", "10%", "--strategy", name, *ARGUMENTS[name]) == 0
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["rank"] for row in written] == [1, 2, 3, 4]
    assert {row["strategy"] for row in written} == {name}
    assert {row["id"] for row in written} <= {f"p{number}" for number in range(SIZE)}
    assert all(set(row) == {"id", "rank", "gain", "strategy", "score"} for row in written)


def test_every_format_gives_the_same_picks(folder: Path) -> None:
    for path in ("pool.jsonl", "pool.csv"):
        for embeddings in ("emb", "emb.npy"):
            out = f"{path}.{embeddings}.jsonl"
            assert select(path, "--id-column", "id", "--budget", "7", "--embeddings", embeddings, "-o", out) == 0
    assert len({Path(path).read_text() for path in folder.glob("pool.*.emb*.jsonl")}) == 1


def test_parquet_too_or_a_word_on_what_to_install(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        Path("pool.parquet").write_bytes(b"PAR1")
        assert select("pool.parquet", "--budget", "1", "--strategy", "random") == 2
        assert 'pip install "reflect-rl[parquet]"' in capsys.readouterr().err
        return
    parquet.write_table(arrow.Table.from_pylist(rows()), "pool.parquet")
    for path in ("pool.jsonl", "pool.parquet"):
        assert (
            select(path, "--id-column", "id", "--budget", "7", "--embeddings", "emb", "-o", f"{path}.picks.jsonl") == 0
        )
    assert Path("pool.parquet.picks.jsonl").read_text() == Path("pool.jsonl.picks.jsonl").read_text()
    Path("pool.parquet").write_bytes(b"not at all")
    assert select("pool.parquet", "--budget", "1", "--strategy", "random") == 2
    assert "not a sound Parquet file" in capsys.readouterr().err


def test_labelled_items_are_not_picked_again(folder: Path) -> None:
    given = [
        "--id-column",
        "id",
        "--budget",
        "38",
        "--strategy",
        "k-center",
        "--embeddings",
        "emb",
        "-o",
        "picks.jsonl",
    ]
    assert select("pool.jsonl", *given, "--already", "labelled.jsonl") == 0
    assert {row["id"] for row in picked()} == {f"p{number}" for number in range(SIZE)} - {"p3", "p4"}
    Path("labelled.txt").write_text("p3\np4\n")
    before = picked()
    assert select("pool.jsonl", *given, "--already", "labelled.txt") == 0
    assert picked() == before


def test_ids_without_an_id_column_are_row_numbers_and_this_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--budget", "1", "--strategy", "random", "-o", "picks.jsonl"]
    assert select("pool.jsonl", *given, "--already", "labelled.jsonl") == 2
    assert "Without --id-column the pool's ids are row numbers" in capsys.readouterr().err
    Path("rows.txt").write_text("3\n4\n")
    assert select("pool.jsonl", *given, "--already", "rows.txt") == 0
    assert "taken as row numbers of pool.jsonl, which has a column 'id'" in capsys.readouterr().err


def test_without_embeddings_texts_are_told_apart_by_their_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert select("pool.jsonl", "--text-column", "prompt", "--budget", "4", "-o", "picks.jsonl") == 0
    assert sorted(row["id"] % 4 for row in picked()) == [0, 1, 2, 3]  # texts have one of four vocabularies
    assert "TF-IDF of 'prompt'" in capsys.readouterr().err


def test_a_dry_run_says_the_cost_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert select("pool.jsonl", "--text-column", "prompt", "--budget", "10%", "-o", "picks.jsonl", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "4 of 40 items by facility-location: about 0.0 s" in said
    assert "MiB" in said
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pool.jsonl", "--budget", "41"], "the budget is 41, but only 40 items can be picked"),
        (["pool.jsonl", "--budget", "39", "--already", "labelled.jsonl", "--id-column", "id"], "only 38 items"),
        (["pool.jsonl", "--budget", "2", "--already", "most.txt"], "but only 1 item can be picked. Ask for at most 1."),
        (["pool.jsonl", "--budget", "1", "--already", "all.txt"], "the budget is 1, but no item is left to pick"),
        (["pool.jsonl", "--budget", "ten"], "such as 2000, or a share, such as 10%"),
        (["pool.jsonl", "--budget", "101%"], "more than the whole pool"),
        (
            ["pool.jsonl", "--budget", "1", "--id-column", "ident"],
            "line 1: there is no column 'ident'. Columns: id, prompt",
        ),
        (["pool.csv", "--budget", "1", "--id-column", "ident"], "line 2: there is no column 'ident'"),
        (["pool.jsonl", "--budget", "1", "--id-column", "task"], "the id 't0' was there before"),
        (["pool.jsonl", "--budget", "1", "--text-column", "emb"], "'emb' should be a text"),
        (["pool.jsonl", "--budget", "1", "--score-column", "task"], "'task' should be a finite number, not 't0'"),
        (["pool.jsonl", "--budget", "1", "--strategy", "best"], "there is no strategy 'best'. There are: random"),
        (["pool.jsonl", "--budget", "1", "--strategy", "random", "--keep", "2"], "random has no setting keep"),
        (["pool.jsonl", "--budget", "1", "--strategy", "random", "--within", "random"], "no strategy within it"),
        (["pool.jsonl", "--budget", "1", "--strategy", "equal-budget"], "needs groups"),
        (["pool.jsonl", "--budget", "1", "--strategy", "equal-budget"], "--quota-column gives groups"),
        (["pool.jsonl", "--budget", "1", "--strategy", "uncertain-then-diverse"], "--score-column gives scores"),
        (["pool.jsonl", "--budget", "1", "--n-neighbors", "few"], "--n-neighbors few"),
        (["pool.jsonl", "--budget", "1", "--embeddings", "short.npy"], "39 embeddings, the pool 40 items"),
        (["pool.jsonl", "--budget", "1", "--embeddings", "none.npy"], "none.npy cannot be read"),
        (["pool.jsonl", "--budget", "1", "--embeddings", "text.npy"], "not an array that numpy.save wrote"),
        (
            ["pool.jsonl", "--budget", "1", "--embeddings", "nan.npy"],
            "embedding of item 5 has a value that is not finite",
        ),
        (
            ["pool.jsonl", "--budget", "1", "--embeddings", "entropies"],
            "pool.jsonl, line 2: 'entropies' has 2 numbers, those before have 1",
        ),
        (["nan.jsonl", "--budget", "1", "--embeddings", "emb"], "line 2: 'emb' has a value that is not finite"),
        (["cut.jsonl", "--budget", "1"], "line 2 is not JSON"),
        (["list.jsonl", "--budget", "1"], "line 1 should be a JSON object"),
        (["cut.csv", "--budget", "1"], "more or fewer fields"),
        (["latin.jsonl", "--budget", "1"], "not UTF-8"),
        (["empty.jsonl", "--budget", "1"], "has no items"),
        (["pool.json", "--budget", "1"], "the format is known by the file's extension"),
        (["none.jsonl", "--budget", "1"], "cannot be read: No such file"),
        (
            ["pool.jsonl", "--budget", "1", "--id-column", "id", "--already", "other.jsonl"],
            "the id 'q1', which the pool",
        ),
        (["pool.jsonl", "--budget", "1", "--id-column", "id", "--already", "cut.csv"], "no column 'id'"),
        (
            ["pool.jsonl", "--budget", "1", "--id-column", "id", "--already", "no-id.jsonl"],
            "no-id.jsonl, line 1: the id None should be a text or a whole number",
        ),
    ],
)
def test_a_mistake_is_one_clear_message(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("short.npy", np.ones((SIZE - 1, 3)))
    nans = np.ones((SIZE, 3))
    nans[5, 1] = np.nan
    np.save("nan.npy", nans)
    for name, text in {
        "text.npy": "no array",
        "nan.jsonl": '{"emb": [1, 2]}\n{"emb": [NaN, 2]}\n',
        "cut.jsonl": '{"a": 1}\n{"a": ',
        "list.jsonl": "[1]\n",
        "cut.csv": "a,b\n1,2\n1\n",
        "empty.jsonl": "\n",
        "pool.json": "[]",
        "most.txt": "\n".join(map(str, range(1, SIZE))),
        "all.txt": "\n".join(map(str, range(SIZE))),
        "other.jsonl": '{"id": "q1"}\n',
        "no-id.jsonl": '{"id": null}\n',
    }.items():
        Path(name).write_text(text, encoding="utf-8")
    Path("latin.jsonl").write_bytes(b'{"a": 1}\n{"text": "caf\xe9"}\n')
    Path("picks.jsonl").write_text(KEPT)
    assert select(*arguments, "-o", "picks.jsonl") == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert said.count("error:") == 1
    assert Path("picks.jsonl").read_text() == KEPT


def test_a_share_is_rounded_and_at_least_one() -> None:
    assert [parse_budget(text, 1000) for text in ("200", "10%", "0.25 %", "0.01%", "100%")] == [
        200,
        100,
        3,
        1,
        1000,
    ]
    for text in ("-3", "0", "0%", "0.00 %"):
        with pytest.raises(SelectionError):
            parse_budget(text, 10)


def test_strategies_within_strategies_get_their_settings() -> None:
    strategy = make_strategy("uncertain-then-diverse", {"within": "k-center", "metric": "euclidean", "keep": 3.0})
    assert isinstance(strategy, UncertainThenDiverse)
    assert isinstance(strategy.diverse, KCenter)
    assert (strategy.diverse.metric, strategy.keep) == ("euclidean", 3.0)
    equal = make_strategy("equal-budget", {"seed": 4, "keep": None})
    assert isinstance(equal.within, Random)  # type: ignore[attr-defined]
    assert equal.within.seed == 4  # type: ignore[attr-defined]


def test_a_pool_is_read_a_row_at_a_time(folder: Path) -> None:
    with open("pool.jsonl", "ab") as file:
        file.write(b"broken")
    reader = PoolFile(Path("pool.jsonl")).rows(["id"])
    assert next(reader)[1]["id"] == "p0"
    with pytest.raises(SelectionError, match="line 41"):
        list(reader)


def test_tf_idf_keeps_what_texts_share() -> None:
    texts = [
        "the cat sat on the mat",
        "the cat sat on a mat",
        "stocks fell in early trade",
        "",
        "THE CAT SAT ON THE MAT!",
    ]
    embeddings_ND = tfidf(lambda: texts, len(texts), Progress())
    similar_NN = embeddings_ND @ embeddings_ND.T
    assert similar_NN[0, 4] == pytest.approx(1, abs=1e-5)
    assert 0.3 < similar_NN[0, 1] < 0.99
    assert abs(similar_NN[0, 2]) < 0.2
    assert not embeddings_ND[3].any()


def test_help_is_there_at_once() -> None:
    import subprocess

    code = "import sys, reflect_rl.cli.app; sys.exit(any(m in sys.modules for m in ('numpy', 'torch', 'pyarrow')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
