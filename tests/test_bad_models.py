"""Models, devices and libraries that will not do: one clear message, exit code 2, and nothing made before is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from end_to_end import Ended, files, leftovers, reflect_rl, refused, run_small
from reflect_rl.lm.pretrained import save_model
from reflect_rl.lm.scratch import scratch_model, train_tokenizer
from reflect_rl.settings import ModelSettings

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
    assert [path for path in before if after.get(path) != before[path]] == []  # nor is the refused setting kept
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
    assert [path for path in before if after.get(path) != before[path]] == []


def test_more_actions_than_labels_are_refused(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    world = {
        "env.name": "broken_worlds:ManyActions",
        "annotate.teacher": "next",
        "reflector.kind": "none",
        "policy.model.source": str(models / "sound"),
    }
    ended = run_small(run, world, None, "--until", "sft_policy")
    refused(ended, "60 actions", "52 single-token labels", "policy.head: pointer")
    assert (run / "manifests/annotate.json").is_file()
    pointer = {"policy.head": "pointer", "policy.gated_mixture": False}
    ended = run_small(run, world | pointer, None, "--until", "sft_policy")
    assert ended.code == 0, ended.err
