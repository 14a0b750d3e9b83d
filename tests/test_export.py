"""Exported agents: the same decisions in a fresh process, merged models in plain transformers, and the hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import reflect_rl as rr
import tiny_models
from conftest import TINY, Heard
from corridor import Corridor
from end_to_end import Kill, files, reflect_rl, refused
from reflect_rl.lm.pretrained import save_model
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_policy, policy_prompts
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt

TESTS = Path(__file__).parent
FEW = {
    "policy_sft.steps": 4,
    "reflector_sft.steps": 4,
    "reflector.max_new_tokens": 4,
    "rl.iterations": 1,
    "evaluate.sampled_episodes": 1,
}
DECIDE = """
import json, sys
import reflect_rl as rr
from corridor import Corridor

agent = rr.Agent.load(sys.argv[1])
env, decided = Corridor(), []
for task in env.tasks("test"):
    observation, info = env.reset(seed=0, options={"task": task})
    agent.reset()
    decision = agent.act(observation, info["actions"])
    decided.append([decision.choice, decision.reflection, decision.probabilities])
print(json.dumps(decided))
"""


def decisions(agent: rr.Agent) -> list[Any]:
    env, decided = Corridor(), []
    for task in env.tasks("test"):
        observation, info = env.reset(seed=0, options={"task": task})
        agent.reset()
        decision = agent.act(observation, info["actions"])
        decided.append([decision.choice, decision.reflection, list(decision.probabilities)])
    return decided


def decisions_elsewhere(name: str | Path, cwd: Path, **environment: str) -> list[Any]:
    """The same in a fresh process, in another folder."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", DECIDE, str(name)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_same(found: list[Any], wanted: list[Any], within: float = 1e-5) -> None:
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one[2] == pytest.approx(other[2], abs=within)


def card_head(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head)


def trained_on(folder: Path, **model: Any) -> rr.Run:
    """A small run whose players are trained from a tiny random Llama in `folder`."""
    save_model(tiny_models.llama(), tiny_models.tokenizer(), folder / "base")
    part = {"source": str(folder / "base"), "lora_rank": 4, **model}
    players = {f"{who}.model.{key}": value for who in ("policy", "reflector") for key, value in part.items()}
    scratch = ("width", "layers", "heads")
    tiny = {key: value for key, value in TINY.items() if key.rpartition(".")[2] not in scratch}
    return rr.run({}, folder / "run", overrides=tiny | FEW | players, progress=False)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> rr.Run:
    pytest.importorskip("peft")
    return trained_on(tmp_path_factory.mktemp("adapted"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> rr.Run:
    return rr.run({}, tmp_path_factory.mktemp("scratch") / "run", overrides=TINY | FEW, progress=False)


def prompts(policy: Policy, run: rr.Run) -> list[Prompt]:
    builder = policy_prompts(policy, Context(run.settings))
    return [builder.policy_prompt(state, "Go left.") for state in tiny_models.states()]


def test_an_exported_agent_decides_the_same_in_a_fresh_process(scratch: rr.Run, tmp_path: Path) -> None:
    before = files(scratch.path)
    folder = scratch.export(tmp_path / "agent")
    assert files(scratch.path) == before
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
        *("config.yaml", "policy", "reflector", "results.json", "README.md")
    }
    exported = files(folder)
    assert_same(decisions_elsewhere(folder, tmp_path), decisions(scratch.agent()))
    assert files(folder) == exported
    assert not list(folder.glob("*sqlite*"))
    assert not any(str(scratch.path.parent).encode() in content for content in exported.values())


def test_adapters_need_their_base_and_a_warning_says_so(adapted: rr.Run, tmp_path: Path) -> None:
    heard = Heard()
    folder = adapted.export(tmp_path / "agent", progress=heard)
    assert any("--merge" in text and str(adapted.path.parent / "base") in text for text in heard.warned)
    assert_same(decisions_elsewhere(folder, tmp_path), decisions(adapted.agent()))
    machine = str(adapted.path.parent).encode()
    assert {name for name, content in files(folder).items() if machine in content} == {
        "policy/adapter_config.json",
        "reflector/adapter_config.json",
    }
    assert "base_model" not in card_head(folder)


def test_a_merged_agent_needs_no_base(adapted: rr.Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(adapted.path, moved)
    wanted = decisions(adapted.agent())
    heard = Heard()
    folder = adapted.export(tmp_path / "agent", merge=True, progress=heard)
    assert heard.warned == []
    assert not list(folder.rglob("adapter_*"))
    assert not any(str(adapted.path.parent).encode() in content for content in files(folder).values())
    base = adapted.path.parent / "base"
    away = base.rename(base.with_name("away"))
    try:
        assert_same(decisions_elsewhere(folder, tmp_path), wanted)
    finally:
        away.rename(base)


def test_a_merged_policy_has_the_same_label_logits_in_plain_transformers(adapted: rr.Run, tmp_path: Path) -> None:
    folder = adapted.export(tmp_path / "agent", merge=True) / "policy"
    policy = load_policy(adapted.path / "policy", adapted.settings)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    labels = list(json.loads((folder / "reflect_rl.json").read_text())["labels"].values())
    shown = prompts(policy, adapted)
    log_probs = policy.log_probs(shown)
    for row, prompt in zip(log_probs, shown, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt.text, add_special_tokens=False)])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1, labels[: prompt.actions]]
        torch.testing.assert_close(row[: prompt.actions], logits.log_softmax(-1), rtol=0, atol=1e-5)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("bits", "within"), [(4, 2e-2), (8, 2e-2), (16, 2e-2)])
def test_adapters_on_a_coarse_base_are_merged_into_what_they_were_trained_on(
    bits: int, within: float, tmp_path: Path
) -> None:
    run = trained_on(tmp_path, bits=bits)
    heard = Heard()
    folder = run.export(tmp_path / "agent", merge=True, progress=heard)
    policy, merged = (load_policy(path / "policy", rr.Run(path).settings) for path in (run.path, folder))
    assert {weight.dtype for weight in merged.model.parameters()} == {torch.float32}
    shown = prompts(policy, run)
    difference = (policy.log_probs(shown).exp() - merged.log_probs(shown).exp()).abs().max()
    print(bits, difference)
    assert 0 < difference < within
    assert "not measured" in (folder / "README.md").read_text().lower()
