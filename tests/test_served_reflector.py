"""Reflectors that are not trained here: behind a model server, and instruct models as they are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from conftest import Heard
from corridor import Corridor
from fake_server import FakeServer
from reflect_rl.errors import ServerError, SettingsError
from reflect_rl.evaluation.evaluate import evaluate
from reflect_rl.lm.pretrained import save_model
from reflect_rl.pipeline.export import export_agent
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.players.agent import Agent
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_reflector, message_prompts, reflector_prompts
from reflect_rl.players.show import shown_prompts
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.rl import rl
from reflect_rl.training.sft import sft_policy, sft_reflector

Tiny = Callable[..., Settings]
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
SHORT = {"policy_sft.steps": 4, "rl.iterations": 2, "rl.validate_every": 1, "rl.checkpoint_every": 1}


def taught(request: dict[str, Any]) -> str:
    """What the corridor's teacher would say, read from the picture in the message."""
    text = request["messages"][-1]["content"]
    found = re.search(r"You are at (\d).* item is at (\d)", text)
    return f" Note {len(text)}.\n" if found is None else f"{found[1]} {found[2]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeServer(reply=taught) as running:
        yield running


def served(tiny: Tiny, server: FakeServer, **more: Any) -> Settings:
    place = {"reflector.server.base_url": server.base_url, "reflector.server.max_retry_wait": 0.01}
    return tiny({"reflector.kind": "served", "reflector.model.source": "m", **place, **SHORT, **more})


def prompted(tiny: Tiny, tmp_path: Path, **more: Any) -> Settings:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = TEMPLATE
    save_model(tiny_models.llama(width=64), tokenizer, tmp_path / "instruct")
    tokenizer.chat_template = None
    given = {
        "reflector.kind": "prompted",
        "policy_sft.text": "own",
        "reflector.model.source": str(tmp_path / "instruct"),
    }
    return tiny({**given, **SHORT, **more})


def test_a_wave_is_asked_together_and_each_prompt_once(server: FakeServer, tiny: Tiny, tmp_path: Path) -> None:
    server.delay = 0.05
    context, states = Context(served(tiny, server)), list(tiny_models.states())
    texts = load_reflector(RunFolder(tmp_path), context).reflect([*states, *states])
    prompts = [message_prompts(context).reflector_prompt(state).text for state in states]
    assert texts == [f"Note {len(prompt)}." for prompt in prompts] * 2
    assert server.calls == dict.fromkeys(prompts, 1)
    assert server.most_at_once == 16
    again = load_reflector(RunFolder(tmp_path), context)  # as in another process
    assert again.reflect(states) == texts[: len(states)]
    assert server.calls == dict.fromkeys(prompts, 1)


def test_the_message_is_what_a_local_reflector_reads_between_the_frames_of_its_template(tiny: Tiny) -> None:
    model, tokenizer = tiny_models.llama(), tiny_models.tokenizer()
    tokenizer.chat_template = TEMPLATE
    context = Context(tiny({"prompt.format": "chat", "prompt.max_tokens": 2000, "reflector.max_new_tokens": 1}))
    model.config.max_position_embeddings = 2000
    local = reflector_prompts(context, model, tokenizer)
    tokenizer.chat_template = None
    assert local.frames is not None
    for state in tiny_models.states():
        message = message_prompts(context).reflector_prompt(state).text
        assert local.reflector_prompt(state).text == local.frames.opening + message + local.frames.write


def test_a_prompt_that_the_server_refuses_gets_an_empty_reflection(
    server: FakeServer, tiny: Tiny, tmp_path: Path, heard: Heard
) -> None:
    states = list(tiny_models.states())
    context = Context(served(tiny, server))
    refused = message_prompts(context).reflector_prompt(states[0]).text
    server.fault = lambda text, tried: "filter" if text == refused else None
    texts = load_reflector(RunFolder(tmp_path), context, heard).reflect(states)
    assert texts[0] == ""
    assert all(texts[1:])
    (said,) = heard.warned
    assert said.startswith(f"1 of {len(states)} reflections are empty: the server gives none (refused by the")


def test_empty_reflections_of_a_model_that_only_thinks_are_told(
    server: FakeServer, tiny: Tiny, tmp_path: Path, heard: Heard
) -> None:
    states, context = list(tiny_models.states()), Context(served(tiny, server))
    plain = server.completed

    def cut(request: dict[str, Any]) -> dict[str, Any]:
        found = plain(request)
        found["choices"][0] |= {"finish_reason": "length", "message": {"content": "<think>Well, the item"}}
        return found

    server.completed = cut
    texts = load_reflector(RunFolder(tmp_path), context, heard).reflect(states)
    assert not any(texts)
    (said,) = heard.warned
    assert said.startswith(f"{len(states)} of {len(states)} reflections are empty: the answer was cut after ")
    assert "reflector.max_new_tokens" in said


def trained(run: RunFolder, settings: Settings) -> dict[str, Any]:
    for stage in (sft_reflector, sft_policy, rl, evaluate):
        stage(run, Context(settings), Progress())
    return made(run)


def made(run: RunFolder) -> dict[str, Any]:
    """All weights, and the results."""
    files = [path for path in run.path.rglob("*.safetensors") if "checkpoints" not in path.parts]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files} | run.read_json("results.json")[
        "panels"
    ]


def test_a_run_goes_on_where_its_server_died(server: FakeServer, tiny: Tiny, pooled: RunFolder, tmp_path: Path) -> None:
    whole = RunFolder(shutil.copytree(pooled.path, tmp_path / "whole"))
    settings = served(tiny, server, **{"reflector.server.retries": 1})
    wanted = trained(whole, settings)
    calls = server.calls.copy()
    assert set(calls.values()) == {1}
    server.calls.clear()
    for stage in (sft_reflector, sft_policy):
        stage(pooled, Context(settings), Progress())
    allowed = set(list(calls)[: server.calls.total() + (len(calls) - server.calls.total()) // 2])
    server.fault = lambda text, tried: None if text in allowed else "503"
    with pytest.raises(ServerError, match=r"did not answer.* run the same command again") as died:
        rl(pooled, Context(settings), Progress())
    assert died.value.exit_code == 3
    server.fault = lambda text, tried: None
    for stage in (rl, evaluate):
        stage(pooled, Context(settings), Progress())
    assert made(pooled) == wanted
    assert server.billed == dict.fromkeys(server.billed, 2)  # once for each folder


def test_a_served_reflector_is_compared_with_its_teacher(
    server: FakeServer, tiny: Tiny, pooled: RunFolder, heard: Heard
) -> None:
    figures = sft_reflector(pooled, Context(served(tiny, server)), heard)
    assert figures["kind"] == "served"
    assert figures["agreement"] == 0
    assert figures["held_out"] > 0
    assert "agrees with the teacher on 0%" in heard.warned[-1]


def test_an_instruct_model_is_asked_as_it_is(tiny: Tiny, tmp_path: Path, heard: Heard) -> None:
    settings = prompted(tiny, tmp_path, **{"prompt.reflect": "Say where to go."})
    run = run_pipeline(settings, tmp_path / "run", Progress(), until="evaluate")
    results = run.read_json("results.json")
    assert results["labels"]["reflections"] == 0
    assert results["reflector"] == "prompted"
    assert not (run / "reflector").exists()
    (reflector, _) = shown_prompts(Context(settings), Progress())
    assert "Say where to go." in reflector.text
    assert reflector.text.startswith("[user] ")
    exported = Agent.load(export_agent(run.path, tmp_path / "agent", heard))
    assert "names a folder of this machine as the reflector's model" in heard.warned[-1]
    state = tiny_models.states()[0]
    decision = exported.act(state.observation, state.actions)
    assert decision.reflection
    assert decision == Agent.load(run.path).act(state.observation, state.actions)


def test_a_model_that_is_asked_as_it_is_needs_no_teacher(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Corridor, "teach", None)
    more = {"prompt.reflections": 1, "select.strategy": "random", "annotate.reflections": 9}
    run = run_pipeline(prompted(tiny, tmp_path, **more), tmp_path / "run", Progress(), until="sft_policy")
    assert run.read_jsonl("reflections.jsonl", dict) == []
    assert not (run / "selection.jsonl").exists()


def test_an_instruct_model_behind_a_server_is_asked_there(server: FakeServer, tiny: Tiny, tmp_path: Path) -> None:
    settings = prompted(tiny, tmp_path, **{"reflector.server.model": "m", "reflector.server.base_url": server.base_url})
    context, states = Context(settings), tiny_models.states()[:3]
    assert all(load_reflector(RunFolder(tmp_path), context).reflect(states))
    assert server.billed.total() == 3
    (reflector, _) = shown_prompts(context, Progress())
    assert reflector.text.endswith("Reflect briefly: what matters now?")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reflector.kind": "served"}, "needs a model that is there; name one in reflector.server.model"),
        ({"reflector.kind": "prompted", "policy_sft.text": "own"}, "needs a model that is there"),
        ({"reflector.kind": "prompted", "reflector.server.model": "m"}, "set policy_sft.text: own"),
        ({"reflector.kind": "served", "reflector.server": {"model": "m", "temperature": 0.5}}, "decoding: sample"),
    ],
)
def test_settings_that_name_no_model_are_refused(tiny: Tiny, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        tiny(given)
