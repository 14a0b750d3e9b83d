"""SFT: what is trained on, what is kept aside, and that a resumed warm-up equals an uninterrupted one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import tiny_models
from conftest import Heard
from reflect_rl.data.annotate import annotate
from reflect_rl.data.pool import Label, id_builder, read_pool
from reflect_rl.errors import PromptError, SettingsError
from reflect_rl.lm.pretrained import save_model
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_policy, load_reflector, local_reflector, policy_prompts
from reflect_rl.players.prompt import state_id
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.progress import Bar, Progress
from reflect_rl.records import Reflection, State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ModelSettings, Settings
from reflect_rl.settings.training import SftSettings
from reflect_rl.training import fit as fit_module
from reflect_rl.training import sft
from reflect_rl.training.fit import _indices, fit
from reflect_rl.training.sft import sft_policy, sft_reflector, split_held_out
from reflect_rl.training.sft_losses import ChoiceRow, TextRow, choice_loss, weights_of
from reflect_rl.training.warm_start import start_model

Tiny = Callable[..., Settings]


class KilledError(Exception):
    """Stands for a process that dies."""


class Killer(Progress):
    """Dies after so many units of a bar."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Bar]:
        yield self

    def update(self, n: int = 1) -> None:
        self.left -= n
        if self.left < 0:
            raise KilledError

    def note(self, **values: Any) -> None:
        pass


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@given(st.lists(st.sampled_from("abcdefghij"), max_size=40), st.sampled_from([0.0, 0.1, 0.3, 0.5]))
def test_a_held_out_state_is_in_no_training_example(states: list[str], share: float) -> None:
    labels = [Reflection(state, f"text of {state}", "t") for state in states]
    train, held = split_held_out(labels, share)
    distinct = len(set(states))
    assert not {label.state for label in train} & {label.state for label in held}
    assert {label.state for label in train} | {label.state for label in held} == set(states)
    assert len(held) == int(share * distinct)
    assert train == [label for label in labels if label.state not in {h.state for h in held}]


def test_the_reflector_never_reads_a_held_out_state_and_is_judged_on_them_alone(
    pooled: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    settings = tiny({"reflector_sft.steps": 1, "annotate.holdout": 0.3})
    rows, row, ids = [], sft._reflection_row, id_builder(settings)

    def seen(reflector: LocalReflector, state: State, text: str) -> TextRow:
        rows.append(state_id(ids.reflector_prompt(state), state.actions))
        return row(reflector, state, text)

    monkeypatch.setattr(sft, "_reflection_row", seen)
    figures = sft_reflector(pooled, Context(settings), heard)
    bought = pooled.read_jsonl("reflections.jsonl", Reflection.from_json)
    train, held = split_held_out(bought, 0.3)
    assert set(rows) == {label.state for label in train}
    assert figures["held_out"] == len(held) > 10
    assert heard.warned
    assert "a weak reflector can do harm" in heard.warned[-1]
    shown = pooled.read_json("reflector.json")
    places = {entry.id: entry.state.observation for entry in read_pool(pooled, settings)}
    assert {e["prompt"] for e in shown["examples"]} <= {places[label.state] for label in held}


def test_texts_that_will_be_cut_are_announced(pooled: RunFolder, tiny: Tiny, heard: Heard) -> None:
    sft_reflector(pooled, Context(tiny({"reflector_sft.steps": 1, "reflector.max_new_tokens": 2})), heard)
    (said,) = [text for text in heard.warned if "max_new_tokens" in text]
    labels = len({(r.state, r.text) for r in pooled.read_jsonl("reflections.jsonl", Reflection.from_json)})
    cut, of = map(int, re.findall(r"\d+", said)[:2])
    assert cut == of < labels
    sft_reflector(pooled, Context(tiny({"reflector_sft.steps": 1, "reflector.max_new_tokens": 60})), heard)
    assert sum("max_new_tokens" in text for text in heard.warned) == 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_reflector_learns_what_the_teacher_says(pooled: RunFolder, tiny: Tiny, heard: Heard, optimizer: str) -> None:
    part = {"reflector_sft.steps": 400, "reflector_sft.optimizer": optimizer}
    settings = tiny({**part, "reflector.model.width": 32, "reflector.warn_below": 0.6})
    figures = sft_reflector(pooled, Context(settings), heard)
    assert figures["agreement"] >= 0.6
    assert "agrees with the teacher" in heard.said[-1]
    model = AutoModelForCausalLM.from_pretrained(pooled / "reflector", use_safetensors=True)
    assert sum(weight.numel() for weight in model.parameters()) == figures["parameters"]


def test_no_holdout_is_announced(pooled: RunFolder, tiny: Tiny, heard: Heard) -> None:
    figures = sft_reflector(pooled, Context(tiny({"reflector_sft.steps": 1, "annotate.holdout": 0.0})), heard)
    assert figures["agreement"] is None
    assert "not measured" in heard.warned[-1]


def test_the_policy_learns_the_experts_choice_of_the_labelled_states(warmed: RunFolder, tiny: Tiny) -> None:
    settings = tiny({"policy_sft.steps": 80, "policy_sft.lr": 8e-3})
    sft_policy(warmed, Context(settings), Progress())
    policy = load_policy(warmed / "policy-sft", settings)
    prompts = policy_prompts(policy, Context(settings))
    at = {(entry.episode, entry.step): entry for entry in read_pool(warmed, settings)}
    teacher = {r.state: r.text for r in warmed.read_jsonl("reflections.jsonl", Reflection.from_json)}
    labels = warmed.read_jsonl("action_labels.jsonl", Label.from_json)
    labels = [label for label in labels if label.state in teacher]
    states = [at[label.episode, label.step] for label in labels]
    rows_BN = policy.log_probs([prompts.policy_prompt(entry.state, teacher[entry.id]) for entry in states])
    hits = [int(row.argmax()) == label.action for row, label in zip(rows_BN, labels, strict=True)]
    assert sum(hits) / len(hits) > 0.9


@pytest.mark.parametrize("mode", ["teacher", "own", "mix"])
def test_the_policy_reads_the_texts_that_the_settings_name(warmed: RunFolder, tiny: Tiny, mode: str) -> None:
    settings = tiny({"policy_sft.text": mode})
    states = list({entry.id: entry for entry in read_pool(warmed, settings)}.values())
    bought = warmed.read_jsonl("reflections.jsonl", Reflection.from_json)
    teacher = {r.state: r.text for r in bought}
    states = [entry for entry in states if entry.id in teacher]
    read = sft._reflections_to_read(warmed, Context(settings), states, bought, Progress())
    own = load_reflector(warmed, Context(settings)).reflect([entry.state for entry in states])
    hers = sum(text == teacher[entry.id] for text, entry in zip(read, states, strict=True))
    his = sum(text == said for text, said in zip(read, own, strict=True))
    both = sum(said == teacher[entry.id] for said, entry in zip(own, states, strict=True))
    assert both < len(states) / 2
    if mode == "mix":
        assert len(states) == hers + his - both
        assert both < hers < len(states)
        assert both < his
    else:
        assert len(states) == (hers if mode == "teacher" else his)


@pytest.mark.parametrize("kind", ["none", "scripted"])
def test_a_reflector_that_is_no_model_has_no_texts_of_its_own(pooled: RunFolder, tiny: Tiny, kind: str) -> None:
    """A recipe that names them still serves for the arm without a trained reflector."""

    def made(text: str) -> dict[str, bytes]:
        settings = tiny({"reflector.kind": kind, "policy_sft.text": text, "policy_sft.steps": 3})
        sft_policy(pooled, Context(settings), Progress())
        return files(pooled / "policy-sft")

    assert made("own") == made("teacher")


def test_states_without_a_teachers_text_are_announced(warmed: RunFolder, tiny: Tiny, heard: Heard) -> None:
    settings = tiny()
    states = read_pool(warmed, settings)[:20]
    bought = [Reflection(states[0].id, "Only one.", "t")]
    read = sft._reflections_to_read(warmed, Context(settings), states, bought, heard)
    assert read[0] == "Only one."
    assert any("have no teacher's text" in warning for warning in heard.warned)


def test_a_scripted_reflector_needs_no_text_of_its_teacher(warmed: RunFolder, tiny: Tiny, heard: Heard) -> None:
    settings = tiny({"reflector.kind": "scripted"})
    states = read_pool(warmed, settings)[:20]
    read = sft._reflections_to_read(warmed, Context(settings), states, [], heard)
    assert read == load_reflector(warmed, Context(settings)).reflect([entry.state for entry in states])
    others = [Reflection(entry.id, "Of a state that reads alike.", "t") for entry in states]
    assert sft._reflections_to_read(warmed, Context(settings), states, others, heard) == read
    assert not heard.warned


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("who", ["reflector", "policy"])
def test_a_resumed_warm_up_equals_an_uninterrupted_one(
    pooled: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, who: str, optimizer: str
) -> None:
    monkeypatch.setattr(fit_module, "SAVE_EVERY", 5)
    part = {f"{who}_sft.steps": 18, f"{who}_sft.optimizer": optimizer}
    settings = tiny({"reflector.kind": "local" if who == "reflector" else "none", **part})
    stage, output = (sft_reflector, "reflector") if who == "reflector" else (sft_policy, "policy-sft")
    whole = RunFolder(shutil.copytree(pooled.path, tmp_path / "whole"))
    wanted = stage(whole, Context(settings), Progress())
    for after in (7, 6):
        with pytest.raises(KilledError):
            stage(pooled, Context(settings), Killer(after))
    assert (pooled / f"checkpoints/sft-{who}/state.json").exists()
    torch.manual_seed(1)
    assert stage(pooled, Context(settings), Progress()) == wanted
    assert files(pooled / output) == files(whole / output)
    losses = (whole / f"sft-{who}.jsonl").read_bytes()
    assert (pooled / f"sft-{who}.jsonl").read_bytes() == losses
    rows = whole.read_jsonl(f"sft-{who}.jsonl", dict)
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert rows[-1]["loss"] == wanted["loss"] < rows[0]["loss"]


def test_slow_steps_are_saved_by_the_clock(pooled: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of a pretrained model take minutes."""
    settings = tiny({"reflector.kind": "none", "policy_sft.steps": 18})

    def done_when_killed(seconds: float) -> bool:
        shutil.rmtree(pooled / "checkpoints", ignore_errors=True)
        monkeypatch.setattr(fit_module, "SAVE_SECONDS", seconds)
        with pytest.raises(KilledError):
            sft_policy(pooled, Context(settings), Killer(7))
        return (pooled / "checkpoints/sft-policy/state.json").exists()

    assert not done_when_killed(3600)
    monkeypatch.setattr(fit_module, "SHARE", 0)
    assert done_when_killed(0)


def test_the_same_seed_gives_the_same_files_and_another_seed_others(pooled: RunFolder, tiny: Tiny) -> None:
    def made(seed: int) -> dict[str, bytes]:
        settings = tiny({"seed": seed, "reflector.kind": "none", "policy_sft.steps": 3})
        shutil.rmtree(pooled / "checkpoints", ignore_errors=True)
        sft_policy(pooled, Context(settings), Progress())
        return files(pooled / "policy-sft")

    assert made(0) == made(0) != made(1)


@given(batch=st.integers(1, 9), examples=st.integers(1, 7))
def test_every_epoch_shows_every_example_once(batch: int, examples: int) -> None:
    shown = [i for step in range(examples * 2) for i in _indices(0, "policy", step, batch, examples)]
    for epoch in range(len(shown) // examples):
        assert sorted(shown[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


def test_dropout_never_makes_two_functions_of_one_model(tmp_path: Path) -> None:
    """A model that was published with dropout trains the same whatever the global generator holds."""

    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        words = len(tiny_models.tokenizer())
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=words, n_embd=8, n_layer=1, n_head=1, n_positions=32, bos_token_id=1, eos_token_id=1)
        )
        assert model.config.resid_pdrop > 0
        ids = torch.arange(12).view(2, 6)
        torch.manual_seed(seed)
        part = SftSettings(steps=3, batch=2)
        run = RunFolder(tmp_path / str(seed))
        fit(
            lambda chosen, _: [model(ids[list(chosen)], labels=ids[list(chosen)]).loss],
            2,
            model,
            part,
            run,
            0,
            "x",
            Progress(),
        )
        return list(model.parameters())

    assert all(torch.equal(one, other) for one, other in zip(weights(1), weights(2), strict=True))


def test_with_adapters_the_base_of_both_players_stays_as_it_was(pooled: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    save_model(tiny_models.llama(), tiny_models.tokenizer(), tmp_path / "base")
    before = (tmp_path / "base/model.safetensors").read_bytes()
    adapted = {"source": str(tmp_path / "base"), "lora_rank": 2}
    settings = tiny(
        {
            "reflector.model": adapted,
            "policy.model": adapted,
            "reflector_sft.steps": 2,
            "reflector.max_new_tokens": 2,
            "policy_sft.steps": 2,
        }
    )
    sft_reflector(pooled, Context(settings), Progress())
    sft_policy(pooled, Context(settings), Progress())
    assert (tmp_path / "base/model.safetensors").read_bytes() == before
    for name in ("reflector", "policy-sft"):
        assert not (pooled / name / "model.safetensors").exists()
        weights = load_file(pooled / name / "adapter_model.safetensors")
        assert all("lora_" in key for key in weights)
        assert all(bool(weight.any()) for weight in weights.values()), "trained"


def test_a_new_pointer_on_a_pretrained_model_begins_with_scores_of_a_usual_size(
    pooled: RunFolder, tiny: Tiny, tmp_path: Path
) -> None:
    """Whatever the size of the model's hidden states: those of a trained final norm are large."""
    losses = []
    for gain in (1, 8):
        model = tiny_models.llama()
        model.get_decoder().norm.weight.data.mul_(gain)
        save_model(model, tiny_models.tokenizer(), tmp_path / str(gain))
        part = {"source": str(tmp_path / str(gain)), "lora_rank": 0}
        settings = tiny(
            {"policy.model": part, "policy.head": "pointer", "reflector.kind": "none"}
            | {"policy_sft.steps": 1, "policy_sft.lr": 1e-12}
        )
        annotate(pooled, Context(settings), Progress())
        sft_policy(pooled, Context(settings), Progress())
        losses += pooled.read_jsonl("sft-policy.jsonl", lambda row: row["loss"])
        policy = load_policy(pooled / "policy-sft", settings)
        pool = read_pool(pooled, settings)
        prompts = [policy_prompts(policy, Context(settings)).policy_prompt(entry.state, None) for entry in pool[:99]]
        rows = zip(policy.log_probs(prompts), prompts, strict=True)
        variances = [float(row[: prompt.actions].var(correction=0)) for row, prompt in rows]
        assert 0.5 < sum(variances) / len(variances) < 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_fresh_adapters_follow_the_seed_of_the_run(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    save_model(tiny_models.llama(), tiny_models.tokenizer(), tmp_path / "base")
    part = ModelSettings(source=str(tmp_path / "base"), lora_rank=2)

    def adapters(seed: int) -> list[torch.Tensor]:
        model, _ = start_model(part, Context(tiny({"seed": seed})), [], [], "policy")
        return [weight for name, weight in model.named_parameters() if "lora_A" in name]

    assert all(torch.equal(one, other) for one, other in zip(adapters(0), adapters(0), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(adapters(0), adapters(1), strict=True))


@pytest.mark.parametrize(("agreement", "trust"), [(None, 0.5), (0.0, 0.05), (0.3, 0.3), (1.0, 0.95)])
def test_a_hedge_trusts_a_reflector_as_far_as_it_agreed(tmp_path: Path, agreement: float | None, trust: float) -> None:
    run = RunFolder(tmp_path)
    run.write_json("reflector.json", {"agreement": agreement})
    assert sft._trust(run) == trust


def test_a_reflection_that_does_not_fit_behind_its_prompt_is_refused(pooled: RunFolder, tiny: Tiny) -> None:
    settings = tiny()
    model = tiny_models.of_kind("gpt2")
    reflector = local_reflector(pooled, Context(settings), model, tiny_models.tokenizer())
    place = read_pool(pooled, settings)[0]
    with pytest.raises(PromptError, match=r"more than the .* that the reflector reads"):
        sft._reflection_row(reflector, place.state, "left " * 400)


def test_training_on_no_label_is_refused(pooled: RunFolder, tiny: Tiny) -> None:
    pooled.write_jsonl("action_labels.jsonl", [])
    with pytest.raises(SettingsError, match=r"no label to train the policy on.*policy_sft\.steps: 0"):
        sft_policy(pooled, Context(tiny({"reflector.kind": "none"})), Progress())


def test_no_steps_is_no_training(pooled: RunFolder, tiny: Tiny) -> None:
    counts = sft_policy(pooled, Context(tiny({"reflector.kind": "none", "policy_sft.steps": 0})), Progress())
    assert counts["loss"] is None
    assert (pooled / "policy-sft/model.safetensors").exists()


def test_where_several_actions_are_right_the_probability_of_them_all_counts() -> None:
    made = tiny_models.policy("pointer")
    rows = [made.encode(prompt) for prompt in tiny_models.prompts(made)[:12]]
    log_probs_BN = made(rows, 3).log_probs_BN
    wanted = [(0, 1) if number % 2 else (1,) for number in range(len(rows))]
    by_hand = [-log_probs_BN[row, list(right)].exp().sum().log() for row, right in enumerate(wanted)]
    examples = [ChoiceRow(row, right) for row, right in zip(rows, wanted, strict=True)]
    loss = sum(choice_loss(made, examples, smoothing=0.0)(range(len(rows)), rows))
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    heavy = [example._replace(weight=1.8 if place == 3 else 1.0) for place, example in enumerate(examples)]
    more = sum(choice_loss(made, heavy, smoothing=0.0)(range(len(rows)), rows))
    torch.testing.assert_close(more, loss + 0.8 * by_hand[3] / len(rows))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1))
def test_labels_of_one_prompt_weigh_as_often_as_they_were_given(pairs: list[tuple[int, int]]) -> None:
    weights = dict(zip(dict.fromkeys(pairs), weights_of(pairs), strict=True))
    for prompt in {prompt for prompt, _ in pairs}:
        own = {label: weight for (asked, label), weight in weights.items() if asked == prompt}
        assert sum(own.values()) == pytest.approx(len(own))  # a repeat of the only label changes nothing
        given = [label for asked, label in pairs if asked == prompt]
        for label, weight in own.items():
            assert weight / len(own) == pytest.approx(given.count(label) / len(given))


def test_labels_that_differ_in_states_that_read_alike_are_learned_by_their_frequency(
    pooled: RunFolder, tiny: Tiny
) -> None:
    """A noisy person, or what a prompt does not show: nine of ten say one thing."""
    episode = {"task": "own", "stop": "success"}
    step = {"observation": "ab", "actions": ["left", "right"], "choice": 0, "reward": 0.0}
    run = RunFolder(pooled.path.parent / "noisy")
    run.write_jsonl("episodes.jsonl", [episode | {"steps": [step | {"expert": int(n % 10 == 0)}]} for n in range(100)])
    own = {"prompt.history": 0, "annotate.actions": 100, "reflector.kind": "none", "policy_sft.label_smoothing": 0.0}
    settings = tiny(own | {"policy_sft.steps": 200, "annotate.reflections": 0})
    annotate(run, Context(settings), Progress())
    sft_policy(run, Context(settings), Progress())
    context = Context(settings)
    policy = load_policy(run / "policy-sft", settings)
    prompts = policy_prompts(policy, context)
    prompt = prompts.policy_prompt(State("ab", ("left", "right")), None)
    assert policy([policy.encode(prompt)], 2).log_probs_BN[0].exp().tolist() == pytest.approx([0.9, 0.1], abs=0.03)
