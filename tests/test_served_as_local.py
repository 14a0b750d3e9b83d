"""A run's reflector behind a real server writes what it writes locally, and the run decides the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from reflect_rl.evaluation.evaluate import evaluate
from reflect_rl.lm.pretrained import save_model
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_reflector
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.rl import rl
from reflect_rl.training.sft import sft_policy, sft_reflector
from served_model import Served, serving

pytestmark = pytest.mark.xdist_group("smollm")
Tiny = Callable[..., Settings]
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def behind(served: Served, **more: Any) -> dict[str, Any]:
    return {"reflector.server.model": served.model, "reflector.server.base_url": served.base_url, **more}


def test_the_reflector_of_a_run_writes_and_plays_the_same(pooled: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = TEMPLATE
    save_model(tiny_models.llama(width=32, spread=0.2), tokenizer, tmp_path / "instruct")
    tokenizer.chat_template = None
    local = {
        "reflector.model.source": str(tmp_path / "instruct"),
        "reflector_sft.steps": 40,
        "reflector.max_new_tokens": 8,
        "prompt.max_tokens": 170,
        "policy_sft.steps": 6,
        "rl.iterations": 1,
    }
    settings = tiny(local)
    for stage in (sft_reflector, sft_policy, rl, evaluate):
        stage(pooled, Context(settings), Progress())
    own = load_reflector(pooled, Context(settings)).reflect(list(tiny_models.states()))
    assert len(set(own)) > 2
    with serving(pooled / "reflector") as served:
        other = RunFolder(shutil.copytree(pooled.path, tmp_path / "other"))
        (other / "reflections.sqlite").unlink()
        asked = Context(tiny(local | behind(served, **{"reflector.kind": "served"})))
        assert load_reflector(other, asked).reflect(list(tiny_models.states())) == own
        evaluate(other, asked, Progress())
    assert other.read_json("results.json")["panels"] == pooled.read_json("results.json")["panels"]
    assert (other / "evaluation.jsonl").read_bytes() == (pooled / "evaluation.jsonl").read_bytes()


def test_an_instruct_model_says_the_same_behind_a_server(smollm: Served, tiny: Tiny, tmp_path: Path) -> None:
    prompted = {
        "reflector.kind": "prompted",
        "policy_sft.text": "own",
        "reflector.model.source": smollm.model,
        "reflector.max_new_tokens": 8,
        "prompt.reflect": "Say in one short sentence where to go.",
    }
    states = tiny_models.states()[:2]
    said = [
        load_reflector(RunFolder(tmp_path / name), Context(tiny(prompted | more))).reflect(states)
        for name, more in (("local", {}), ("served", behind(smollm)))
    ]
    assert said[0] == said[1]
    assert all(said[0])
