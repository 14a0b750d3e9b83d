"""Token scores and embeddings from a model: against a plain loop, in any company, killed and continued."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel

from reflect_rl.__main__ import run_command
from reflect_rl.errors import ModelError
from reflect_rl.lm.hidden import hidden_states
from reflect_rl.lm.models import base_model
from reflect_rl.lm.pretrained import save_model
from reflect_rl.lm.reading import PlainReader, make_reader, takes_padding
from reflect_rl.lm.scoring import TokenScores, generated_scores, given_scores
from reflect_rl.lm.text import encode_all
from reflect_rl.pools.embeddings import kept_embeddings
from reflect_rl.progress import Progress
from reflect_rl.runs.locks import take_lock
from tiny_models import CONTEXT, gpt2, lookup, of_kind, tokenizer

TEXTS = ["Item 3 away.", "Go left. Item 3 away. Go right. " * 4, "x", "Go take. Go right.", "Item 3 away."]
TARGETS = [" Go left.", " Go right. Go take.", "y", " Item 0 away. " * 5, " Go left."]
QUANTITIES = ("entropies", "margins", "logprobs")
ROUNDING = 1e-4
"""By how much company may change a number (float32); measured: some 2e-6."""

KINDS = ["gpt2", "lookup", "llama", "qwen2"]


def plain_scores(model: PreTrainedModel, text: str, target: str | None = None, most: int = 6) -> dict[str, list[Any]]:
    """One text, everything read anew for each token, probabilities in float64."""
    read = tokenizer().encode(text, add_special_tokens=False)
    wanted = tokenizer().encode(target, add_special_tokens=False) if target is not None else None
    found: dict[str, list[Any]] = {name: [] for name in ("ids", *QUANTITIES)}
    for step in range(len(wanted) if wanted is not None else most):
        with torch.no_grad():
            probs = model(input_ids=torch.tensor([read])).logits[0, -1].double().softmax(-1)
        token = wanted[step] if wanted is not None else int(probs.argmax())
        first, second = probs.sort(descending=True).values[:2].tolist()
        found["ids"].append(token)
        found["entropies"].append(float(-(probs * probs.log()).sum()))
        found["margins"].append(first - second)
        found["logprobs"].append(float(probs[token].log()))
        read.append(token)
        if wanted is None and token == tokenizer().eos_token_id:
            break
    return found


def check(scores: TokenScores, plain: dict[str, list[Any]]) -> None:
    assert scores.text == tokenizer().decode(plain["ids"], skip_special_tokens=True)
    for name in QUANTITIES:
        assert getattr(scores, name).dtype == np.float32
        np.testing.assert_allclose(getattr(scores, name), plain[name], atol=ROUNDING)


def same(one: TokenScores, other: TokenScores) -> bool:
    return one.text == other.text and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in QUANTITIES)


# The numbers


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_a_plain_loop(kind: str) -> None:
    model = of_kind(kind)
    for row, scores in generated_scores(model, tokenizer(), TEXTS, new_tokens=6):
        check(scores, plain_scores(model, TEXTS[row]))
    for row, scores in given_scores(model, tokenizer(), TEXTS, TARGETS):
        check(scores, plain_scores(model, TEXTS[row], TARGETS[row]))


def eager(model: PreTrainedModel, token: int) -> PreTrainedModel:
    """A model that says `token` more often."""
    with torch.no_grad():
        model.get_output_embeddings().weight[token] *= 6  # type: ignore[union-attr, index]
    return model


@pytest.mark.parametrize("kind", ["gpt2", "lookup"])
def test_nothing_comes_after_the_end_token_which_counts(kind: str) -> None:
    model = eager(of_kind(kind), tokenizer().eos_token_id)
    texts = [f"Go left. Item {number} away." for number in range(40)]
    found = dict(generated_scores(model, tokenizer(), texts, new_tokens=8))
    lengths = {len(scores.entropies) for scores in found.values()}
    assert min(lengths) < 8
    assert len(lengths) > 1
    for row, scores in found.items():
        check(scores, plain_scores(model, texts[row], most=8))


@pytest.mark.parametrize("kind", ["gpt2", "lookup"])
def test_a_text_ends_where_the_models_turn_does(kind: str) -> None:
    model, texts = of_kind(kind), [f"Go left. Item {number} away." for number in range(10)]
    plain = [plain_scores(model, text, most=8) for text in texts]
    end = plain[0]["ids"][3]
    for row, scores in generated_scores(model, tokenizer(), texts, new_tokens=8, turn_end=end):
        ids = plain[row]["ids"]
        length = ids.index(end) + 1 if end in ids else len(ids)
        np.testing.assert_allclose(scores.logprobs, plain[row]["logprobs"][:length], atol=ROUNDING)
        assert length <= 4 or row


@pytest.mark.parametrize("kind", KINDS)
def test_company_changes_nothing_but_the_rounding(kind: str) -> None:
    model = of_kind(kind)
    together = dict(generated_scores(model, tokenizer(), TEXTS, new_tokens=6))
    for row, text in enumerate(TEXTS):
        alone = dict(generated_scores(model, tokenizer(), [text], new_tokens=6))[0]
        assert alone.text == together[row].text
        for name in QUANTITIES:
            np.testing.assert_allclose(getattr(together[row], name), getattr(alone, name), atol=ROUNDING)
        single = dict(generated_scores(model, tokenizer(), TEXTS, new_tokens=6, token_budget=1))[row]
        assert same(single, alone)  # a batch of its own: to the bit
    assert same(together[0], together[4])  # equal texts, to the bit


def test_what_is_done_is_left_out_and_the_rest_is_the_same_to_the_bit() -> None:
    texts = [f"Item {number % 9} away. " * (1 + number % 4) for number in range(50)]
    given: dict[str, Any] = {"new_tokens": 4, "token_budget": 200}
    whole = dict(generated_scores(gpt2(), tokenizer(), texts, **given))
    done_N = np.arange(50) % 3 > 0
    rest = dict(generated_scores(gpt2(), tokenizer(), texts, done_N=done_N, **given))
    assert sorted(rest) == [row for row in range(50) if row % 3 == 0]
    assert all(same(scores, whole[row]) for row, scores in rest.items())


def test_long_targets_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        model = of_kind(kind)
        whole = dict(given_scores(model, tokenizer(), TEXTS, TARGETS))
        for cells in (1, 3 * len(TEXTS) * len(tokenizer())):
            with monkeypatch.context() as patch:
                patch.setattr("reflect_rl.lm.scoring.CELLS", cells)
                pieces = dict(given_scores(model, tokenizer(), TEXTS, TARGETS))
            for row in whole:
                np.testing.assert_allclose(pieces[row].logprobs, whole[row].logprobs, atol=ROUNDING)


def test_an_architecture_without_masks_or_cache_reads_texts_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gpt2()
    expected = dict(generated_scores(model, tokenizer(), TEXTS, new_tokens=5))
    monkeypatch.setattr("reflect_rl.lm.reading._arguments", lambda _: {"input_ids"})
    assert not takes_padding(model)
    assert isinstance(make_reader(model, torch.zeros(1), 9), PlainReader)
    for row, scores in generated_scores(model, tokenizer(), TEXTS, new_tokens=5):
        np.testing.assert_allclose(scores.entropies, expected[row].entropies, atol=ROUNDING)


class Told(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_text_too_long_loses_its_beginning_which_is_told() -> None:
    told, long = Told(), "Go left. " * CONTEXT
    scores = dict(generated_scores(gpt2(), tokenizer(), ["Go", long, long + "."], new_tokens=5, progress=told))
    kept = tokenizer().decode(tokenizer().encode(long, add_special_tokens=False)[-(CONTEXT - 5) :])
    check(scores[1], plain_scores(gpt2(), kept, most=5))
    assert len(told.warnings) == 1
    assert "the beginning is left out" in told.warnings[0]


def test_bad_input_to_the_library_is_named() -> None:
    model = gpt2()
    with pytest.raises(ModelError, match="text of item 1 is empty"):
        list(generated_scores(model, tokenizer(), ["a", ""]))
    with pytest.raises(ModelError, match="target of item 0 is empty"):
        list(given_scores(model, tokenizer(), ["a"], [""]))
    with pytest.raises(ModelError, match="leave it no room"):
        list(generated_scores(model, tokenizer(), ["a"], new_tokens=CONTEXT))
    opening = deepcopy(tokenizer())  # a token before every text takes room, too
    opening.add_special_tokens({"bos_token": "Go"})
    opening.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[attr-defined]
        single="Go $A", special_tokens=[("Go", opening.bos_token_id)]
    )
    with pytest.raises(ModelError, match="leave it no room"):
        list(generated_scores(model, opening, ["left " * 90], new_tokens=CONTEXT - 1))
    with pytest.raises(ModelError, match="1 or more"):
        list(generated_scores(model, tokenizer(), ["a"], new_tokens=0))
    with pytest.raises(ModelError, match="no layer 3: the model has 0 to 2"):
        hidden_states(model, tokenizer(), ["a"], layer=3)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        list(generated_scores(model, tokenizer(), ["a"]))
    with pytest.raises(ModelError, match="not finite"):
        hidden_states(model, tokenizer(), ["a"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_hidden_states_are_pooled_over_a_texts_own_tokens(kind: str, layer: int) -> None:
    model = of_kind(kind)
    found = {name: hidden_states(model, tokenizer(), TEXTS, layer=layer, pooling=name) for name in ("mean", "last")}
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer().encode(text, add_special_tokens=False)])
        with torch.no_grad():
            out: Any = base_model(model).base_model(input_ids=ids, output_hidden_states=True)
        x_LD = out.hidden_states[layer][0]
        np.testing.assert_allclose(found["mean"][row], x_LD.mean(0), atol=ROUNDING)
        np.testing.assert_allclose(found["last"][row], x_LD[-1], atol=ROUNDING)


# The command


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(gpt2(), tokenizer(), folder / "gpt2")
    save_model(gpt2(seed=1), tokenizer(), folder / "other")
    save_model(lookup(), tokenizer(), folder / "lookup")
    return folder


def write_pool(path: str, size: int = 30) -> None:
    rows = [
        {
            "prompt": f"Item {number % 7} away. " * (1 + number % 5) + "Go left." * (number % 3),
            "answer": f"Go right {number}",
            "task": number % 2,
            "entropies": [1.0],
            "emb": [1.0, float(number)],
        }
        for number in range(size)
    ]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(models)
    write_pool("pool.jsonl")
    return tmp_path


def select(*arguments: str, out: str = "picks.jsonl") -> int:
    usual = {"--text-column": "prompt", "--budget": "5", "-o": out}
    rest = [part for name, value in usual.items() if name not in arguments for part in (name, value)]
    return run_command(["select", "pool.jsonl", *arguments, *rest])


def picked(path: str = "picks.jsonl") -> list[int]:
    return [json.loads(line)["id"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def scores_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("pool.jsonl.scores-*.jsonl"))


ENTROPY = ("--strategy", "mean-entropy", "--model", "models/gpt2", "--new-tokens", "6")


def test_items_are_ranked_by_what_the_model_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [json.loads(line)["prompt"] for line in Path("pool.jsonl").read_text().splitlines()]
    means = [np.mean(plain_scores(gpt2(), text)["entropies"]) for text in texts]
    assert select(*ENTROPY) == 0
    assert sorted(np.round([means[row] for row in picked()], 4)) == sorted(np.round(sorted(means)[-5:], 4))
    assert "scores go to" in capsys.readouterr().err
    (kept,) = scores_files(folder)
    before, chosen = kept.read_bytes(), Path("picks.jsonl").read_bytes()
    assert select(*ENTROPY) == 0
    assert "30 of 30 items are in" in capsys.readouterr().err
    assert (kept.read_bytes(), Path("picks.jsonl").read_bytes()) == (before, chosen)
    for strategy in ("least-confidence", "mean-margin", "min-margin", "max-token-uncertainty"):
        assert select(*ENTROPY[2:], "--strategy", strategy) == 0
    assert scores_files(folder) == [kept]  # one file for all of them


def test_whole_scores_are_read_without_writing(folder: Path) -> None:
    """The folder may be read-only, and others may read them at the same time."""
    assert select(*ENTROPY) == 0
    (kept,) = scores_files(folder)
    before = kept.stat().st_mtime_ns
    with kept.open("ab") as file:
        take_lock(file, kept, print)
        assert select(*ENTROPY) == 0
    assert kept.stat().st_mtime_ns == before


def test_the_name_of_a_pool_is_no_pattern(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a**.jsonl", "pool[1].jsonl"):
        shutil.copy("pool.jsonl", name)
        for tokens in ("2", "3"):
            given = (*ENTROPY[:-1], tokens, "--text-column", "prompt", "--budget", "5")
            assert run_command(["select", name, *given]) == 0
        assert "not used: scores of other models, settings or pools, files: 1" in capsys.readouterr().err


@pytest.mark.parametrize("use", [ENTROPY, ("--embed-model", "models/gpt2")])
def test_a_file_that_cannot_grow_is_one_message_that_names_it(
    use: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        assert select(*use) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: pool.jsonl.")
    assert "could not be written: File too large." in said
    assert select(*use) == 0


@pytest.mark.parametrize("cut", ["line", "half a line", "batch", "only the beginning"])
def test_a_killed_process_continues_to_the_same_bytes(
    cut: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert select(*ENTROPY) == 0
    (kept,) = scores_files(folder)
    whole, chosen = kept.read_bytes(), Path("picks.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    left = {"line": 12, "half a line": 12, "batch": 2, "only the beginning": 0}[cut]
    half = b"" if cut in ("line", "batch") else lines[left][:15]
    kept.write_bytes(b"".join(lines[:left]) + half)
    capsys.readouterr()
    assert select(*ENTROPY) == 0
    assert ("the last line was cut off" in capsys.readouterr().err) == bool(half)
    assert (kept.read_bytes(), Path("picks.jsonl").read_bytes()) == (whole, chosen)


def test_killed_for_real(folder: Path) -> None:
    rows = [{"prompt": f"Item {number} away. " * (1 + number % 3)} for number in range(600)]
    Path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ("--strategy", "min-margin", "--model", "models/gpt2", "--new-tokens", "20")
    command = [sys.executable, "-m", "reflect_rl", "select", "pool.jsonl", "--text-column", "prompt", "--budget", "9"]
    running = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        given_up = time.monotonic() + 300
        while not (found := scores_files(folder)) or found[0].stat().st_size < 2000:
            assert time.monotonic() < given_up
            assert running.poll() is None
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    left = found[0].read_bytes()
    assert left.count(b"\n") < 600
    assert select(*arguments) == 0
    continued = found[0].read_bytes()
    found[0].unlink()
    picks = Path("picks.jsonl").read_bytes()
    assert select(*arguments) == 0
    assert (found[0].read_bytes(), Path("picks.jsonl").read_bytes()) == (continued, picks)
    assert continued.startswith(left[: left.rfind(b"\n") + 1])


def test_another_model_pool_or_setting_has_scores_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select(*ENTROPY) == 0
    assert select(*ENTROPY[:3], "models/other", "--new-tokens", "6") == 0
    assert "not used: scores of other models, settings or pools, files: 1" in capsys.readouterr().err
    assert select(*ENTROPY[:-1], "5") == 0
    assert select(*ENTROPY[:4], "--target-column", "answer") == 0
    assert len(scores_files(folder)) == 4
    shutil.copytree("models/gpt2", "moved")
    assert select(*ENTROPY[:3], "moved", "--new-tokens", "6") == 0
    assert len(scores_files(folder)) == 4  # the same model elsewhere is the same model
    write_pool("pool.jsonl", 29)
    assert select(*ENTROPY) == 0
    assert len(scores_files(folder)) == 5


def test_a_damaged_scores_file_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select(*ENTROPY) == 0
    (kept,) = scores_files(folder)
    lines = kept.read_bytes().splitlines(keepends=True)
    other = json.dumps({"fingerprint": "another"}).encode() + b"\n"
    sound = json.loads(lines[4])
    odd = (
        ["a"],
        {**sound, "item": 1.5},
        {**sound, "item": True},
        {**sound, "margins": "text"},
        {**sound, "margins": 1},
    )
    odd += tuple({**sound, "entropies": [value] * len(sound["entropies"])} for value in ("x", [1], {}, 10**400))
    for number, line, reason in (
        *((5, json.dumps(each).encode() + b"\n", "damaged at line 5") for each in odd),
        (5, b"[" * 100_000 + b"\n", "damaged at line 5"),
        (5, b"{]\n", "damaged at line 5"),
        (6, b'{"item": 99}\n', "damaged at line 6"),
        (1, other, "of another model, pool or setting"),
    ):
        kept.write_bytes(b"".join([*lines[: number - 1], line, *lines[number:]]))
        before = kept.read_bytes()
        assert select(*ENTROPY) == 2
        said = capsys.readouterr().err
        assert reason in said
        assert "Delete the file" in said
        assert kept.read_bytes() == before


@pytest.mark.parametrize("model", ["gpt2", "lookup"])
def test_given_texts_are_scored(model: str, folder: Path) -> None:
    path = f"models/{model}"
    assert select("--strategy", "least-confidence", "--model", path, "--target-column", "answer") == 0
    rows = [json.loads(line) for line in Path("pool.jsonl").read_text().splitlines()]
    plain = [-sum(plain_scores(of_kind(model), row["prompt"], row["answer"])["logprobs"]) for row in rows]
    assert picked() == np.argsort(plain)[::-1][:5].tolist()


def test_embeddings_are_kept_and_used_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select("--embed-model", "models/gpt2") == 0
    (kept,) = folder.glob("pool.jsonl.embeddings-*.npy")
    texts = [json.loads(line)["prompt"] for line in Path("pool.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(np.load(kept), hidden_states(gpt2(), tokenizer(), texts))
    assert "embeddings: kept in" in capsys.readouterr().err
    note = json.loads(kept.with_suffix(".json").read_text())
    assert (note["by"], note["layer"], note["pooling"], note["items"]) == ("models/gpt2", -1, "mean", 30)
    picks = Path("picks.jsonl").read_bytes()
    assert select("--model", "models/gpt2") == 0
    said = capsys.readouterr().err
    assert "no --embed-model: hidden states of models/gpt2, layer -1, pooling mean" in said
    assert "is used again" in said
    assert Path("picks.jsonl").read_bytes() == picks
    kept.with_suffix(".json").write_text("{}")
    assert select("--embed-model", "models/gpt2") == 0
    assert "computed again" in capsys.readouterr().err
    assert select("--embed-model", "models/gpt2", "--layer", "1", "--pooling", "last") == 0
    assert len(list(folder.glob("pool.jsonl.embeddings-*.npy"))) == 2
    assert not list(folder.glob("*.part"))


def test_embeddings_continue_where_they_were_killed(tmp_path: Path) -> None:
    X_ND = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    asked: list[int] = []

    def states(done_N: np.ndarray, stop: int = 99) -> Any:
        for row in np.flatnonzero(~done_N)[:stop]:
            asked.append(int(row))
            yield row, X_ND[row]
        if stop < 99:
            raise KeyboardInterrupt

    path, about = tmp_path / "x.npy", {"fingerprint": "f"}
    with pytest.raises(KeyboardInterrupt):
        kept_embeddings(path, about, X_ND.shape, lambda done_N: states(done_N, 4), Progress())
    assert not path.exists()
    np.testing.assert_array_equal(kept_embeddings(path, about, X_ND.shape, states, Progress()), X_ND)
    assert asked == list(range(10))
    part = tmp_path / "x.npy.part"
    cut = path.read_bytes().replace(b"}", b" ", 1)  # a header without its end
    for damage in (b"", b"\x93NUMPY", path.read_bytes()[:140], b"anything", cut):
        path.unlink()
        part.write_bytes(damage)
        np.testing.assert_array_equal(kept_embeddings(path, about, X_ND.shape, states, Progress()), X_ND)
        path.write_bytes(damage)
        np.testing.assert_array_equal(kept_embeddings(path, about, X_ND.shape, states, Progress()), X_ND)


def test_strategies_that_weigh_items_ask_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert select("--strategy", "uncertain-then-diverse", "--keep", "2", *ENTROPY[2:]) == 0
    assert "uncertain by the mean entropy" in capsys.readouterr().err
    chosen = picked()
    assert select(*ENTROPY, "--budget", "10") == 0
    assert set(chosen) <= set(picked())
    assert select("--strategy", "inverse-confidence", "--quota-column", "task", *ENTROPY[2:]) == 0
    assert "geometric mean" in capsys.readouterr().err


def test_a_dry_run_counts_the_calls_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert select(*ENTROPY, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "30 different prompts x 6 tokens in 1 batches, at most 6 forward passes; about" in said
    assert select(*ENTROPY[2:4], "--dry-run") == 0
    assert "30 texts read once for embeddings of 16 numbers (time not estimated)" in capsys.readouterr().out
    assert sorted(folder.iterdir()) == before
    assert select(*ENTROPY) == 0
    assert select(*ENTROPY, "--dry-run") == 0
    assert "no model calls: all scores are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*ENTROPY[:3], "./nowhere"], "There is no model folder ./nowhere"),
        ([*ENTROPY[:3], "models"], "could not be loaded"),
        ([*ENTROPY, "--tokens-column", "entropies"], "leave one out"),
        ([*ENTROPY, "--text-column", "missing"], "there is no column 'missing'"),
        ([*ENTROPY[:4], "--target-column", "missing"], "there is no column 'missing'"),
        ([*ENTROPY, "--target-column", "answer"], "give one"),
        ([*ENTROPY[:2], "--target-column", "answer"], "--target-column needs --model"),
        ([*ENTROPY[:4], "--new-tokens", "0"], "should be 1 or more"),
        ([*ENTROPY[:4], "--new-tokens", "500"], "leave it no room"),
        ([*ENTROPY, "--layer", "1"], "leave out --layer"),
        (["--strategy", "random", "--model", "models/gpt2"], "no use for --model"),
        (["--strategy", "random", "--embed-model", "models/gpt2"], "leave out --embed-model"),
        (["--embeddings", "emb", "--embed-model", "models/gpt2"], "leave one out"),
        (["--embed-model", "models/gpt2", "--layer", "9"], "There is no layer 9"),
        (["--layer", "1"], "need --embed-model or --model"),
        (["--embed-model", "sentence-transformers:x", "--layer", "1"], "a pooling of its own"),
        (["--model", "sentence-transformers:x"], "give it to --embed-model"),
    ],
)
def test_a_mistake_is_one_clear_message(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert select(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("arguments", [ENTROPY, ("--embed-model", "models/gpt2")])
def test_after_an_error_what_the_model_has_computed_is_kept(
    arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    monkeypatch.setattr("reflect_rl.lm.batches.WINDOW", 10)
    texts = [f"Item {number % 7} away." for number in range(25)]

    def write(odd: int) -> None:
        rows = [{"prompt": text if place != odd else "\x00"} for place, text in enumerate(texts)]
        Path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def encoded(tokenizer: Any, given: list[str]) -> list[list[int]]:
        return [[] if text == "\x00" else ids for text, ids in zip(given, encode_all(tokenizer, given), strict=True)]

    monkeypatch.setattr("reflect_rl.lm.batches.encode_all", encoded)
    write(odd=3)
    assert select(*arguments) == 2
    assert "The text of item 3 is empty" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
    write(odd=23)
    for said in ("", "20 of 25"):
        assert select(*arguments) == 2
        err = capsys.readouterr().err
        assert "The text of item 23 is empty" in err
        assert said in err
        assert len([path for path in folder.iterdir() if path not in before]) == 1


def test_an_empty_text_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pool.jsonl").write_text('{"prompt": "a"}\n{"prompt": ""}\n' * 3, encoding="utf-8")
    for arguments in (ENTROPY, ("--embed-model", "models/gpt2")):
        assert select(*arguments) == 2
        assert "pool.jsonl, line 2: 'prompt' is empty" in capsys.readouterr().err


def test_sentence_transformers_or_a_word_on_what_to_install(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "sentence-transformers:./nowhere"
    assert select("--embed-model", name) == 2
    said = capsys.readouterr().err
    assert "pip install 'reflect-rl[sentence-transformers]'" in said or "There is no model folder ./nowhere" in said


def test_without_a_model_torch_stays_out(folder: Path) -> None:
    code = (
        "import sys; from reflect_rl.__main__ import run_command; "
        "code = run_command(['select', 'pool.jsonl', '--embeddings', 'emb', '--budget', '3', '-o', 'p.jsonl']); "
        "sys.exit(code or any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=60).returncode == 0
