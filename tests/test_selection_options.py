"""`reflect-rl select`: an option without effect is refused, since it may be a slip; nothing is read or written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reflect_rl.__main__ import run_command


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"p{n}", "text": f"w{n}", "g": n % 2, "q": (1 + n) / 9, "emb": [n, 1.0], "entropies": [n]}
        for n in range(8)
    ]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def select(*arguments: str) -> int:
    return run_command(["select", "pool.jsonl", "--budget", "4", *arguments])


UNCERTAIN = ("--strategy", "uncertain-then-diverse", "--embeddings", "emb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quotas", "proportional"], "name their column by --quota-column"),
        (["--quality", "0.9"], "name their column by --score-column"),
        (["--strategy", "random", "--embeddings", "nope.npy"], "random uses no embeddings: leave out --embeddings"),
        (["--strategy", "mean-entropy", "--embeddings", "emb"], "mean-entropy uses no embeddings"),
        (["--tokens-column", "entropies"], "facility-location does not rank by tokens: leave out --tokens-column"),
        (["--text-column", "txt", "--strategy", "random"], "there is no column 'txt'"),
        (["--text-column", "txt", "--embeddings", "emb"], "there is no column 'txt'"),
        (["--text-column", "", "--strategy", "random"], "there is no column ''"),
        (["--quota-column", ""], "there is no column ''"),
        (["--score-column", ""], "there is no column ''"),
        (["--embeddings", ""], "there is no column ''"),
        (["--strategy", "mean-entropy", "--tokens-column", ""], "there is no column ''"),
        (["--strategy", "mean-entropy", "--tokens-column", "none", "--dry-run"], "there is no column 'none'"),
        (["--strategy", "mean-entropy", "--target-column", ""], "--target-column needs --model"),
        (["--model", ""], "one is empty"),
        (["--embed-model", ""], "one is empty"),
        (["--device", "cuda"], "--device needs --model or --embed-model"),
        (["--bits", "16"], "--bits needs a causal language model"),
        (["--bits", "16", "--embed-model", "sentence-transformers:x"], "--bits needs a causal language model"),
        (["--strategy", "equal-budget", "--quota-column", "g", "--within", ""], "there is no strategy ''"),
        (["--strategy", "equal-budget", "--quota-column", "g", "--quotas", "proportional"], "has no setting quotas"),
        (
            ["--strategy", "inverse-confidence", "--quota-column", "g", "--score-column", "q", "--quotas", "equal"],
            "inverse-confidence has no setting quotas",
        ),
        ([*UNCERTAIN, "--score-column", "q", "--quality", "0.9"], "uncertain-then-diverse has no setting quality"),
        ([*UNCERTAIN, "--score-column", "q", "--within", "mean-entropy"], "mean-entropy needs scores of its own"),
        (
            [*UNCERTAIN, "--score-column", "q", "--within", "quality-facility-location"],
            "quality-facility-location needs scores of its own",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_an_option_without_effect_is_refused(
    arguments: list[str], message: str, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert select(*arguments, "-o", "picks.jsonl") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("error:") == 1
    assert list(pool.parent.iterdir()) == [pool]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--quotas", "proportional", "--quota-column", "g"],
        ["--quality", "0.9", "--score-column", "q"],
        ["--text-column", "text", "--strategy", "random"],
        ["--text-column", "id", "--embeddings", "emb"],
        [*UNCERTAIN, "--score-column", "q", "--quotas", "proportional", "--quota-column", "g"],
        "--strategy equal-budget --quota-column g --within facility-location --score-column q --quality 0.9".split(),
        "--strategy equal-budget --quota-column g --within mean-entropy --tokens-column entropies".split(),
    ],
    ids=" ".join,
)
def test_an_option_with_effect_is_taken(arguments: list[str], pool: Path) -> None:
    assert select(*arguments, "-o", "picks.jsonl") == 0


@pytest.mark.parametrize("out", ["picks.csv", "picks.TXT", "picks.json", "picks.jsonl.gz"])
def test_picks_are_not_named_as_what_they_are_not(out: str, pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select("-o", out) == 2
    assert f"--out {out} would hold JSON lines: give it a name that ends in .jsonl" in capsys.readouterr().err
    assert list(pool.parent.iterdir()) == [pool]


@pytest.mark.parametrize("out", ["picks.ndjson", "PICKS.JSONL"])
def test_picks_can_be_given_as_labelled_items(out: str, pool: Path) -> None:
    assert select("--id-column", "id", "-o", out) == 0
    assert select("--id-column", "id", "-o", "more.jsonl", "--already", out) == 0
    both = [json.loads(line)["id"] for path in (out, "more.jsonl") for line in Path(path).read_text().splitlines()]
    assert sorted(both) == [f"p{n}" for n in range(8)]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("strategy", "needs"),
    [
        (["min-margin"], "min-margin needs the margins"),
        (["least-confidence"], "least-confidence needs the logprobs"),
        (["equal-budget", "--within", "mean-margin", "--quota-column", "g"], "equal-budget needs the margins"),
    ],
)
def test_a_strategy_without_tokens_asks_for_them(
    strategy: list[str], needs: str, more: list[str], pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert select("--strategy", *strategy, *more) == 2
    said = capsys.readouterr().err
    assert f"{needs} of each item's tokens: --model computes them, --tokens-column names a column" in said
