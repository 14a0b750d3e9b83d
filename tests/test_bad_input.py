"""Settings and folders that cannot work: one clear message, exit code 2, and nothing is touched."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from end_to_end import files, options, reflect_rl, refused, run_small
from reflect_rl import Agent
from reflect_rl.errors import RunFolderError

STAGES = ("collect", "annotate", "sft", "rl", "evaluate", "report")


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ("rl: {iteratons: 3}", ["my.yaml", "unknown setting 'rl.iteratons'", "Did you mean 'rl.iterations'?"]),
        ("sede: 3", ["unknown setting 'sede'", "Did you mean 'seed'?"]),
        ("1: 2", ["my.yaml"]),
        ("rl: 5", ["rl is 5"]),
        ("rl:", ["rl is None"]),
        ("seed: yes", ["seed is 'yes'", "integer"]),
        ("seed: true", ["seed is True", "integer"]),
        ("rl: {lr: fast}", ["rl.lr is 'fast'", "number"]),
        ("rl: {lr: .inf}", ["rl.lr is inf", "finite"]),
        ("collect: {perturb: 1.0}", ["collect.perturb is 1.0", "less than 1"]),
        ("rl: {episodes: 0}", ["rl.episodes is 0", "greater than or equal to 1"]),
        ("rl: {algorithm: dqn}", ["rl.algorithm is 'dqn'", "'ppo' or 'reinforce'"]),
        ("policy: {model: {source: gpt2, bits: 4}}", ["bits: 4", "set lora_rank"]),
        ("policy: {model: {lora_rank: 4}}", ["policy.model", "need a pretrained model"]),
        ("policy: {model: {width: 30}}", ["width 30 is not a multiple of heads 4"]),
        ("annotate: {reflections: 0}", ["reflector.kind: local", "annotate.reflections above 0"]),
        ("policy: {head: pointer, gated_mixture: true}", ["gated_mixture needs head: labels"]),
        ("rl: {algorithm: reinforce, epochs: 2}", ["reinforce is on-policy", "epochs: 1"]),
        ("reflector: {kind: none}\nguard: true", ["guard", "reflector.kind: none"]),
        ("- seed\n- rl", ["my.yaml should hold settings", "list"]),
        ("just a text", ["my.yaml should hold settings", "str"]),
        ("rl: {lr: 1", ["my.yaml is not a readable YAML file", "line 1"]),
        ("rl:\n  lr: 1e-3\n  lr: 1e-4", ["my.yaml is not a readable YAML file", "'lr' is given twice", "line 3"]),
        ("\x00\x01", ["my.yaml is not a readable YAML file"]),
        ("!!python/object/apply:os.mkdir [hacked]", ["my.yaml is not a readable YAML file", "python"]),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(recipe: str, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(recipe)
    refused(reflect_rl("run", "my.yaml", cwd=tmp_path), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(reflect_rl("run", "nothing.yaml", cwd=tmp_path), "no recipe 'nothing.yaml'", "one of", "taxi")
    refused(reflect_rl("run", ".", cwd=tmp_path), "no recipe '.'")
    (tmp_path / "latin.yaml").write_bytes("# für\nseed: 0".encode("latin-1"))
    refused(reflect_rl("run", "latin.yaml", cwd=tmp_path), "latin.yaml is not a readable YAML file")


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("--rl.iteratons 3", ["unknown setting 'rl.iteratons'", "Did you mean 'rl.iterations'?"]),
        ("--rl.lr", ["rl.lr is True"]),
        ("--seed x", ["seed is 'x'"]),
        ("--seed.x 3", ["--seed.x cannot be set", "'seed' is a value, not a section"]),
        ("--compute.device tpu", ["compute.device is 'tpu'", "'cuda'"]),
        ("--until lunch", ["no stage 'lunch'", "collect, select, annotate"]),
    ],
)
def test_an_option_that_cannot_work_leaves_the_run_as_it_was(given: str, parts: list[str], run: Path) -> None:
    before = files(run)
    refused(reflect_rl("run", "taxi", "--out", str(run), *options(), *given.split()), *parts)
    if "until" not in given:
        refused(reflect_rl("evaluate", str(run), *given.split()), *parts)
    assert files(run) == before


@pytest.mark.parametrize("given", ["--rl.iterations 40", "--policy.model.width 64", "--guard", "--annotate.actions 5"])
def test_an_evaluation_takes_no_settings_of_training(given: str, run: Path) -> None:
    before = files(run)
    said = f"{given.split()[0]} is a setting of training, and evaluate plays the agent as it was trained"
    refused(reflect_rl("evaluate", str(run), *given.split()), said)
    refused(reflect_rl("evaluate", str(run), "--out", str(run.with_name("copy")), *given.split()), said)
    assert files(run) == before
    assert not run.with_name("copy").exists()


def test_episodes_of_ones_own_do_not_lie_in_the_run_folder(run: Path) -> None:
    before = files(run)
    ended = reflect_rl("run", "taxi", "--out", str(run), "--collect.file", str(run / "episodes.jsonl"))
    refused(ended, "lies in the run folder itself")
    assert files(run) == before


@pytest.mark.parametrize("command", STAGES)
def test_a_stage_of_a_folder_that_is_no_run_is_refused(command: str, tmp_path: Path) -> None:
    refused(reflect_rl(command, "missing", cwd=tmp_path), "missing is not a run folder", "reflect-rl run")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    refused(reflect_rl(command, "thesis", cwd=tmp_path), "thesis is not a run folder")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["thesis", "thesis/chapter.tex"]


def test_a_run_into_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    refused(run_small(tmp_path / "thesis"), "is no run folder", "chapter.tex", "--out")
    refused(run_small(tmp_path / "thesis/chapter.tex"), "chapter.tex is not a folder")
    refused(run_small(tmp_path / "thesis/chapter.tex/run"), "chapter.tex/run cannot be used: Not a directory")
    assert (tmp_path / "thesis/chapter.tex").read_bytes() == b""


@pytest.mark.parametrize("content", ["seed: [", "- 1", "sede: 3"])
def test_a_damaged_config_is_refused(content: str, run: Path) -> None:
    (run / "config.yaml").write_text(content)
    before = files(run)
    refused(reflect_rl("evaluate", str(run)), "config.yaml")
    refused(run_small(run), "config.yaml")
    assert files(run) == before


def test_a_stage_before_its_time_says_what_it_needs(tmp_path: Path) -> None:
    assert run_small(tmp_path / "run", None, None, "--until", "collect").code == 0
    before = files(tmp_path / "run")
    refused(reflect_rl("rl", str(tmp_path / "run")), "rl needs", "policy-sft, which does not exist")
    assert files(tmp_path / "run") == before


def test_a_folder_in_use_is_refused(run: Path) -> None:
    before = files(run)
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        for ended in (run_small(run), reflect_rl("rl", str(run), "--force")):
            refused(ended, "is in use by another process (4711)", "--out")
    assert files(run) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(run: Path) -> None:
    run.chmod(0o555)
    try:
        refused(reflect_rl("rl", str(run), "--force"), "ermission")
    finally:
        run.chmod(0o755)


def test_an_agent_is_loaded_from_a_finished_run_only(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunFolderError, match="holds no trained agent"):
            Agent.load(folder)
        refused(reflect_rl("play", "taxi", "--agent", str(folder)), "holds no trained agent", "reflect-rl run")
    assert list(tmp_path.iterdir()) == []


def test_an_agent_is_not_watched_in_another_world(run: Path) -> None:
    refused(reflect_rl("play", "alfworld", "--agent", str(run)), "was trained in taxi, not in alfworld", "play taxi")


def test_nothing_finished_is_nothing_to_gather(tmp_path: Path) -> None:
    out = tmp_path / "mistyped"
    ended = reflect_rl("compare", "taxi", "--arms", "guard", "--seeds", "0", "--gather-only", "--out", str(out))
    refused(ended, "Nothing is finished in", "--out")
    assert not out.exists()


def test_play_and_compare_refuse_names_they_do_not_know(tmp_path: Path) -> None:
    refused(reflect_rl("play", "taxi", "--task", "taxi-r9"), "no task 'taxi-r9'", "There are: taxi-r")
    refused(reflect_rl("play", "taxy"), "no world 'taxy'", "Did you mean 'taxi'?")
    out = ("--out", str(tmp_path / "compare"))
    refused(reflect_rl("compare", "taxi", "--regimes", "rich", *out), "no regime 'rich'", "scarce-actions")
    refused(reflect_rl("compare", "taxi", "--arms", "sft,dqn", *out), "no arm 'dqn'", "reflect-rl")
    refused(reflect_rl("compare", "taxi", "--seeds", "-1", *out), "seed")
    refused(reflect_rl("compare", "nothing", *out), "no recipe 'nothing'")
    assert list(tmp_path.iterdir()) == []
