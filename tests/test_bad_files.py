"""Damaged files and a full disk: one clear message, exit code 2, and the run goes on once that is mended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from end_to_end import Kill, differences, files, leftovers, reflect_rl, refused, resize, run_small, used

IN_RL = Kill("reflect_rl.training.rl:update", 2)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("episodes.jsonl", "annotate"),
        ("episodes.jsonl", "sft"),
        ("reflections.jsonl", "sft"),
        ("action_labels.jsonl", "evaluate"),
        ("reflector.json", "evaluate"),
        ("results.json", "report"),
        ("metrics.jsonl", "report"),
    ],
)
def test_a_truncated_file_is_named_and_nothing_else_changes(name: str, command: str, run: Path) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:-7])
    before = files(run)
    refused(reflect_rl(command, str(run)), f"{name} is damaged")
    assert files(run).items() >= before.items()


def test_a_run_mends_a_truncated_file(whole: Path, run: Path) -> None:
    cut = (run / "episodes.jsonl").read_bytes()[:-7]
    (run / "episodes.jsonl").write_bytes(cut)
    ended = run_small(run)
    assert ended.code == 0, ended.err
    assert "episodes.jsonl was changed by hand; it is kept as episodes.jsonl.edited" in ended.err
    assert (run / "episodes.jsonl.edited").read_bytes() == cut
    assert differences(run, whole) == ["episodes.jsonl.edited"]


def test_a_damaged_checkpoint_is_named_and_can_be_deleted(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_small(run, kill=IN_RL).code == -9
    checkpoint = run / "checkpoints/rl"
    for path in sorted(checkpoint.iterdir()):
        sound = path.read_bytes()
        for damaged in (sound[:-9], b"", b"\xff" * len(sound)):
            path.write_bytes(damaged)
            refused(run_small(run), f"checkpoint {checkpoint} is damaged", "Delete it")
            assert path.read_bytes() == damaged
        path.write_bytes(sound)
    shutil.rmtree(checkpoint)
    assert run_small(run).code == 0
    assert differences(run, whole) == []


def test_a_damaged_memo_is_named_and_can_be_deleted(whole: Path, run: Path) -> None:
    for path in run.glob("reflections.sqlite*"):
        path.write_bytes(b"no database" * 1000)
    before = files(run)
    refused(reflect_rl("rl", str(run), "--force"), "memo", "reflections.sqlite cannot be used", "delete it")
    assert files(run).items() >= before.items()
    for path in run.glob("reflections.sqlite*"):
        path.unlink()
    assert run_small(run).code == 0
    assert differences(run, whole) == []


@pytest.mark.parametrize(
    "name", ["model.safetensors", "heads.safetensors", "reflect_rl.json", "tokenizer.json", "config.json"]
)
def test_a_damaged_model_is_named(name: str, run: Path) -> None:
    (run / "policy" / name).write_bytes((run / "policy" / name).read_bytes()[: 1 << 5])
    before = files(run)
    refused(reflect_rl("evaluate", str(run)), str(run / "policy"))
    assert files(run).items() >= before.items()


@pytest.mark.parametrize("until", ["collect", "rl"])
def test_a_disk_that_fills_up_loses_nothing(whole: Path, disk: Path, until: str) -> None:
    run = disk / "run"
    if until == "rl":
        assert run_small(run, None, None, "--until", "sft_policy").code == 0
    resize(disk, used(disk) + 64 * 1024)
    before = files(run) if run.exists() else {}
    refused(run_small(run), "full" if until == "rl" else "episodes.jsonl could not be written: No space left")
    assert files(run).items() >= before.items()
    resize(disk, 64 << 20)
    ended = run_small(run)
    assert ended.code == 0, ended.err
    assert leftovers(run) == []
    assert differences(run, whole) == []


def test_a_file_that_may_not_grow_loses_nothing(whole: Path, run: Path) -> None:
    """The same without a file system of its own: the process may write 40 kB a file, a model's weights are more."""
    assert (run / "policy/model.safetensors").stat().st_size > 40_000
    before = files(run)
    refused(reflect_rl("rl", str(run), "--force", RLIMIT_FSIZE=40_000), "could not be written")
    assert files(run).items() >= before.items()
    assert run_small(run).code == 0
    assert differences(run, whole) == []
