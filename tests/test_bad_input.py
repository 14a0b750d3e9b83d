"""What goes wrong at the user's or the machine's side is one clear message and exit code 2, and nothing is lost."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from end_to_end import Ended, Kill, differences, leftovers, options, reference, reflect_rl, run_small
from reflect_rl import Agent
from reflect_rl.config import ModelSettings
from reflect_rl.errors import RunFolderError
from reflect_rl.players.models import save_model, scratch_model, train_tokenizer

STAGES = ("collect", "annotate", "sft", "rl", "evaluate", "report")
IN_RL = Kill("reflect_rl.training.rl:update", 2)


def refused(ended: Ended, *parts: str) -> str:
    """The one message, which has all of these parts in it."""
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    assert ended.out == ""
    _, found, message = f"\n{ended.err}".partition("\nerror: ")
    assert found, ended.err
    assert "\nerror: " not in message
    for part in parts:
        assert part in message
    return message


def files(folder: Path) -> dict[str, bytes]:
    """Every file, but for the lock and the memo, which is only a cache."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and not path.name.startswith("reflections.sqlite")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference(tmp_path_factory)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, for this test alone."""
    return shutil.copytree(whole, tmp_path / "run")


# Settings


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ("rl: {iteratons: 3}", ["my.yaml", "unknown setting 'rl.iteratons'", "Did you mean 'rl.iterations'?"]),
        ("sede: 3", ["unknown setting 'sede'", "Did you mean 'seed'?"]),
        ("1: 2", ["my.yaml"]),
        ("rl: 5", ["rl is 5"]),
        ("rl:", ["rl is None"]),
        ("seed: yes", ["seed is True", "integer"]),
        ("rl: {lr: fast}", ["rl.lr is 'fast'", "number"]),
        ("rl: {lr: .inf}", ["rl.lr is inf", "finite"]),
        ("collect: {perturb: 1.0}", ["collect.perturb is 1.0", "less than 1"]),
        ("rl: {episodes: 0}", ["rl.episodes is 0", "greater than or equal to 1"]),
        ("rl: {algorithm: dqn}", ["rl.algorithm is 'dqn'", "'ppo' or 'reinforce'"]),
        ("policy: {model: {source: gpt2, bits: 4}}", ["bits: 4", "set lora_rank"]),
        ("policy: {model: {lora_rank: 4}}", ["policy.model", "need a pretrained model"]),
        ("policy: {model: {width: 30}}", ["width 30 is not a multiple of heads 4"]),
        ("annotate: {reflections: 0}", ["reflector.kind: local", "annotate.reflections above 0"]),
        ("policy: {head: pointer, hedge: true}", ["hedge needs head: labels"]),
        ("rl: {algorithm: reinforce, epochs: 2}", ["reinforce is on-policy", "epochs: 1"]),
        ("reflector: {kind: none}\nguard: true", ["guard", "reflector.kind: none"]),
        ("reflector: {kind: scripted}\npolicy_sft: {text: own}", ["needs reflector.kind: local"]),
        ("- seed\n- rl", ["my.yaml should hold settings", "list"]),
        ("just a text", ["my.yaml should hold settings", "str"]),
        ("rl: {lr: 1", ["my.yaml is not a readable YAML file", "line 1"]),
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
        ("--until lunch", ["no stage 'lunch'", "collect, annotate"]),
    ],
)
def test_an_option_that_cannot_work_leaves_the_run_as_it_was(given: str, parts: list[str], run: Path) -> None:
    before = files(run)
    refused(reflect_rl("run", "taxi", "--out", str(run), *options(), *given.split()), *parts)
    if "until" not in given:
        refused(reflect_rl("evaluate", str(run), *given.split()), *parts)
    assert files(run) == before


# Folders


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
    refused(run_small(tmp_path / "thesis/chapter.tex"), "chapter.tex cannot be used as a run folder")
    refused(run_small(tmp_path / "thesis/chapter.tex/run"), "cannot be used as a run folder")
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


def test_play_and_compare_refuse_names_they_do_not_know(tmp_path: Path) -> None:
    refused(reflect_rl("play", "taxi", "--task", "taxi-r9"), "no task 'taxi-r9'", "There are: taxi-r")
    refused(reflect_rl("play", "taxy"), "no world 'taxy'", "Did you mean 'taxi'?")
    out = ("--out", str(tmp_path / "compare"))
    refused(reflect_rl("compare", "taxi", "--regimes", "rich", *out), "no regime 'rich'", "scarce-actions")
    refused(reflect_rl("compare", "taxi", "--arms", "sft,dqn", *out), "no arm 'dqn'", "reflect-rl")
    refused(reflect_rl("compare", "taxi", "--seeds", "-1", *out), "seed")
    refused(reflect_rl("compare", "nothing", *out), "no recipe 'nothing'")
    assert list(tmp_path.iterdir()) == []


# Files of a run


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


# Models

LETTERS = [f" {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]


def tiny_model(folder: Path, texts: list[str], vocabulary: int = 2000) -> Path:
    tokenizer = train_tokenizer(texts, vocabulary)
    part = ModelSettings(width=8, layers=1, heads=1)
    save_model(scratch_model(part, len(tokenizer), 1024, 0, 1), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model folders, each unusable in one way, and one that is sound."""
    from transformers import ViTConfig

    folder = tmp_path_factory.mktemp("models")
    sound = tiny_model(folder / "sound", LETTERS)
    tiny_model(folder / "no-labels", ["x"], vocabulary=258)  # bytes only: " A" is two tokens
    (folder / "empty").mkdir()
    pickled = shutil.copytree(sound, folder / "pickled")
    weights = torch.nn.Linear(2, 2).state_dict()
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    (shutil.copytree(sound, folder / "no-tokenizer") / "tokenizer.json").unlink()
    ViTConfig().save_pretrained(shutil.copytree(sound, folder / "vision"))
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (shutil.copytree(sound, folder / f"damaged-{name}") / name).write_bytes(b"{\x00")
    wider = json.loads((sound / "config.json").read_text()) | {"n_embd": 24}
    (shutil.copytree(sound, folder / "other-shape") / "config.json").write_text(json.dumps(wider))
    return folder


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("missing", ["There is no model folder", "missing"]),
        ("empty", ["could not be loaded"]),
        ("pickled", ["could not be loaded", "safetensors"]),
        ("no-tokenizer", ["could not be loaded"]),
        ("vision", ["could not be loaded", "causal language model"]),
        ("damaged-model.safetensors", ["could not be loaded"]),
        ("damaged-tokenizer.json", ["could not be loaded"]),
        ("damaged-config.json", ["could not be loaded"]),
        ("other-shape", ["could not be loaded"]),
        ("no-labels", ["no single-token labels", "policy.head: pointer"]),
    ],
)
def test_a_model_that_will_not_do_is_refused(name: str, parts: list[str], models: Path, run: Path) -> None:
    before = files(run)
    refused(reflect_rl("sft", str(run), f"--policy.model.source={models / name}"), name, *parts)
    after = files(run)
    assert {path for path in before if after.get(path) != before[path]} == {"config.yaml"}  # the setting itself
    assert leftovers(run) == ["checkpoints/sft_policy.key"]


def test_a_hub_model_out_of_reach_is_refused(run: Path) -> None:
    """In a process that has loaded nothing yet: the switch is read once."""
    command = [sys.executable, "-m", "reflect_rl", "sft", str(run), "--policy.model.source=somebody/something"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    refused(Ended(ended.returncode, ended.stdout, ended.stderr), "'somebody/something' could not be loaded")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_needs_a_gpu_is_refused_without_one(run: Path) -> None:
    before = files(run)
    refused(reflect_rl("evaluate", str(run), "--compute.device=cuda"), "cuda is not available", "cpu")
    refused(run_small(run, {"compute.device": "cuda"}), "cuda is not available")
    assert files(run) == before
    refused(reflect_rl("bench", "taxi", "--device", "cuda"), "cuda")
    bits = ("--policy.model.source=gpt2", "--policy.model.bits=4", "--policy.model.lora_rank=4")
    refused(reflect_rl("sft", str(run), *bits), "bits: 4 needs an NVIDIA GPU")
    assert (run / "policy-sft/model.safetensors").read_bytes() == before["policy-sft/model.safetensors"]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    name = next((name for name in ("wandb", "trackio") if find_spec(name) is None), None)
    if name is None:
        pytest.skip("every tracker is installed")
    refused(run_small(tmp_path / "run", {"track": name}), f"track: {name} needs its library", "pip install")
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_over_the_budget_is_refused(run: Path) -> None:
    before = files(run)
    refused(reflect_rl("sft", str(run), "--prompt.max_tokens=20"), "over the budget of 20", "prompt.max_tokens")
    after = files(run)
    assert {path for path in before if after.get(path) != before[path]} == {"config.yaml"}


# Worlds

OWN = {"env.options": {}, "annotate.teacher": "way", "env.horizon": 8}


def run_world(out: Path, world: str, overrides: dict[str, Any] | None = None, until: str = "annotate") -> Ended:
    return run_small(out, OWN | {"env.name": world} | (overrides or {}), None, "--until", until)


@pytest.mark.parametrize(
    ("world", "parts"),
    [
        ("ExpertOutOfRange", ["expert() gave 99, not an index from 0 to"]),
        ("ExpertSaysAName", ["expert() gave 'left', not an index"]),
        ("ExpertRaises", ["expert() raised KeyError: 'way'", "broken_worlds.py, line"]),
        ("ObservationIsNoText", ["reset(", "observation [0, 1], not text"]),
        ("ResetGivesTextAlone", ["reset(", "not (observation, info)"]),
        ("NoActions", ['no info["actions"]', "non-empty tuple of strings"]),
        ("ActionsAreAList", ["info[\"actions\"] as ['left', 'right']"]),
        ("NoStop", ['info["stop"] None', "StopReason"]),
        ("NoSuccess", ['info["success"] None']),
        ("StepGivesFour", ["step(", "not (observation, reward, terminated, truncated, info)"]),
        ("StepRaises", ["raised ZeroDivisionError: no fuel", "broken_worlds.py, line"]),
        ("RewardIsNotANumber", ["reward nan, not a finite number"]),
        ("NoTasks", ["tasks('train') gave ()"]),
        ("NoTestTasks", ["tasks('test') gave ()"]),
        ("FactsAreNoJson", ["describe() gave", "no JSON"]),
        ("NeverEnds", ["went on after its horizon of 8 steps"]),
        ("TeacherSaysNothing", ["teach(", "gave None, not text"]),
    ],
)
def test_a_world_that_breaks_its_contract_is_named_with_what_it_did(
    world: str, parts: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    message = refused(run_world(run, f"broken_worlds:{world}"), *parts)
    assert "NeverEnds" in world or f"`reflect-rl check broken_worlds:{world}`" in message
    assert (run / "config.yaml").is_file()
    assert not list((run / "manifests").glob("annotate.json"))


@pytest.mark.parametrize(
    ("world", "parts"),
    [
        ("taxy", ["no world 'taxy'", "Did you mean 'taxi'?"]),
        ("nothing_here:World", ["no module 'nothing_here'", "nothing_here.py"]),
        ("corridor:Coridor", ["no class 'Coridor'", "Did you mean 'Corridor'?"]),
        ("corridor:CELLS", ["is not a TextEnv"]),
        ("corridor:", ["module:Class"]),
    ],
)
def test_a_world_that_is_not_there_is_refused(world: str, parts: list[str], tmp_path: Path) -> None:
    refused(run_world(tmp_path / "run", world), *parts)
    refused(reflect_rl("check", world), *parts)


def test_options_and_teachers_that_a_world_does_not_know_are_refused(tmp_path: Path) -> None:
    ended = run_world(tmp_path / "run", "corridor:Corridor", {"env.options": {"slipp": 0.1}})
    refused(ended, "no option 'slipp'", "Did you mean 'slip'?")
    ended = run_world(tmp_path / "other", "corridor:Corridor", {"annotate.teacher": "poem"})
    refused(ended, "no scripted teacher 'poem'", "way")


def test_check_ends_with_1_and_says_what_to_mend() -> None:
    ended = reflect_rl("check", "broken_worlds:ExpertOutOfRange")
    assert (ended.code, ended.err) == (1, "")
    assert "expert() gave 99" in ended.out
    assert "expert() must give an index" in ended.out
    ended = reflect_rl("check", "broken_worlds:StepRaises")
    assert (ended.code, ended.err) == (1, "")
    assert "ZeroDivisionError: no fuel" in ended.out


def test_more_actions_than_labels_are_refused(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    world = {"annotate.teacher": "next", "reflector.kind": "none", "policy.model.source": str(models / "sound")}
    ended = run_world(run, "broken_worlds:ManyActions", world, until="sft_policy")
    refused(ended, "60 actions", "52 single-token labels", "policy.head: pointer")
    assert (run / "manifests/annotate.json").is_file()
    pointer = {"policy.head": "pointer", "policy.hedge": False}
    ended = run_world(run, "broken_worlds:ManyActions", world | pointer, until="sft_policy")
    assert ended.code == 0, ended.err


# The disk


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of its own, whose size can be changed."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def used(disk: Path) -> int:
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_file_that_may_not_grow_loses_nothing(whole: Path, run: Path) -> None:
    """The same without a file system of its own: the process may write 40 kB a file, a model's weights are more."""
    assert (run / "policy/model.safetensors").stat().st_size > 40_000
    before = files(run)
    refused(reflect_rl("rl", str(run), "--force", RLIMIT_FSIZE=40_000), "could not be written")
    assert files(run).items() >= before.items()
    assert run_small(run).code == 0
    assert differences(run, whole) == []
