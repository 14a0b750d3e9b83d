"""Collect and annotate: where labels come from, how budgets are spent, and that both are repeatable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

import tiny_models
from conftest import Heard
from corridor import Corridor
from reflect_rl.data.annotate import annotate
from reflect_rl.data.choose_states import choose_states
from reflect_rl.data.collect import collect
from reflect_rl.data.pool import Label, distinct, read_pool
from reflect_rl.errors import EnvironmentContractError, RunFolderError, SettingsError, TeacherError
from reflect_rl.lm.batches import Encoder
from reflect_rl.lm.pretrained import load_pretrained, save_model
from reflect_rl.lm.scoring import Scorer, TokenScores
from reflect_rl.lm.text import encode_prompt
from reflect_rl.players.context import Context
from reflect_rl.players.load import reflector_prompts
from reflect_rl.progress import Progress
from reflect_rl.records import Episode, Reflection, Step, StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import hashes, reason_to_run, wanted
from reflect_rl.runs.trained import BY_NAME
from reflect_rl.settings import Settings

Tiny = Callable[..., Settings]


def episodes_of(path: Path, settings: Settings) -> list[Episode]:
    run = RunFolder(path)
    collect(run, Context(settings), Progress())
    return run.read_jsonl("episodes.jsonl", Episode.from_json)


def test_collecting_twice_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, tiny: Tiny) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        episodes_of(tmp_path / name, tiny({"seed": seed}))
    one, same, other = ((tmp_path / name / "episodes.jsonl").read_bytes() for name in ("one", "same", "other"))
    assert one == same != other


def test_more_episodes_begin_with_the_fewer(tmp_path: Path, tiny: Tiny) -> None:
    few = episodes_of(tmp_path / "few", tiny({"collect.episodes": 10}))
    assert episodes_of(tmp_path / "many", tiny({"collect.episodes": 30}))[:10] == few


def test_episodes_of_ones_own_take_the_place_of_played_ones(tmp_path: Path, tiny: Tiny) -> None:
    """Of a world without an expert, too: its file says what to learn from."""
    played = episodes_of(tmp_path / "played", tiny({"collect.episodes": 20}))
    file = tmp_path / "own.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "played/episodes.jsonl").read_bytes().replace(b"\n", b"\r\n\n"))
    mute = tiny({"env.name": "odd_worlds:NoExpert", "env.options": {}, "collect.file": str(file)})
    assert episodes_of(tmp_path / "own", mute) == played
    before = wanted(RunFolder(tmp_path / "own"), BY_NAME["collect"], mute).key
    file.write_text(file.read_text().partition("\n")[0])
    assert episodes_of(tmp_path / "own", mute) == played[:1]
    run, stage = RunFolder(tmp_path / "own"), BY_NAME["collect"]
    found = wanted(run, stage, mute)
    assert found.key != before
    file.unlink()  # the run has a copy
    done = replace(found, outputs=hashes(run, stage.outputs))
    assert reason_to_run(run, stage, done, wanted(run, stage, mute)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no file"),
        ('{"task": "x", "steps": [], "stop": "success"}', "No step of .*own.jsonl has an 'expert'"),
        ("", "holds no step"),
        ("{", "damaged at line 1 .* Mend the line, or leave it out"),
        (
            '{"task": "TEST", "steps": [], "stop": "success"}',
            "of .*own.jsonl plays the task .*, which is kept for test",
        ),
    ],
)
def test_episodes_that_cannot_be_learned_from_are_refused(
    text: str | None, said: str, tmp_path: Path, tiny: Tiny
) -> None:
    step = {"observation": "Item 3 away.", "actions": ["left", "right"], "choice": 0, "reward": 0}
    step |= {"expert": 0} if "test" in said else {}
    if text is not None:
        test = Corridor().tasks("test")[0]
        (tmp_path / "own.jsonl").write_text(text.replace("TEST", test).replace("[]", json.dumps([step])))
    with pytest.raises(RunFolderError, match=said):
        episodes_of(tmp_path / "run", tiny({"collect.file": str(tmp_path / "own.jsonl")}))


def test_only_train_tasks_are_collected_all_of_them_in_turn(tmp_path: Path, tiny: Tiny) -> None:
    tasks = [episode.task for episode in episodes_of(tmp_path, tiny({"collect.episodes": 36}))]
    assert sorted(tasks) == sorted(Corridor().tasks("train") * 2)
    assert tasks[:18] == tasks[18:]


def expert_of(step: Step) -> str:
    """What the expert does, from the picture alone."""
    if "x" in step.observation:
        return "take"
    return "right" if step.observation.index("i") > step.observation.index("P") else "left"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_the_label_is_the_experts_choice_also_where_the_step_was_perturbed(
    tmp_path: Path, tiny: Tiny, share: float
) -> None:
    played = episodes_of(tmp_path, tiny({"collect.perturb": share, "collect.episodes": 400}))
    steps = [step for episode in played for step in episode.steps]
    for step in steps:
        assert step.expert is not None
        assert step.actions[step.expert] == expert_of(step)
        assert step.perturbed or step.choice == step.expert
    assert sum(step.perturbed for step in steps) / len(steps) == pytest.approx(share, abs=0.05)
    if share:
        assert any(step.perturbed and step.choice != step.expert for step in steps)
        assert {episode.stop for episode in played} >= {StopReason.SUCCESS, StopReason.DANGEROUS}


@pytest.mark.parametrize(("head", "states"), [("labels", 2), ("pointer", 1)])
def test_actions_tell_states_apart_where_the_reflector_reads_them(
    tmp_path: Path, tiny: Tiny, head: str, states: int
) -> None:
    first = Episode("a", (Step("a hall", ("go north", "go east"), 0, 0.0, 0),), StopReason.SUCCESS)
    second = Episode("b", (Step("a hall", ("go west", "open door"), 1, 0.0, 1),), StopReason.SUCCESS)
    run = RunFolder(tmp_path)
    run.write_jsonl("episodes.jsonl", [first.to_json(), second.to_json()])
    pool = read_pool(run, tiny({"policy.head": head, "policy.gated_mixture": False}))
    assert len({entry.id for entry in pool}) == states


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("actions", "left", "'steps[0].actions' is 'left': it should be a valid list"),
        ("actions", [1, 2], "'steps[0].actions[0]' is 1: it should be a valid string"),
        ("observation", None, "'steps[0].observation' is None: it should be a valid string"),
        ("observation", ["a"], "'steps[0].observation' is ['a']: it should be a valid string"),
        ("choice", True, "'steps[0]' has choice True, which is no index into the 2 actions"),
        ("reward", "1", "'steps[0].reward' is '1': it should be a valid number"),
        ("reward", float("nan"), "'steps[0].reward' is nan: it should be a finite number"),
        ("perturbed", 1, "'steps[0].perturbed' is 1: it should be a valid boolean"),
        ("facts", [], "'steps[0].facts' is []: it should be a valid JSON object"),
        ("expret", 0, "the field 'steps[0].expret' is not known"),
        ("observation", ..., "the field 'steps[0].observation' is missing"),
    ],
)
def test_an_episode_of_ones_own_that_does_not_fit_is_refused_by_line_and_field(
    tmp_path: Path, tiny: Tiny, field: str, value: Any, told: str
) -> None:
    step = {"observation": "a hall", "actions": ["left", "right"], "choice": 0, "reward": 0}
    wrong = {key: one for key, one in {**step, field: value}.items() if one is not ...}
    rows = [{"task": "a", "stop": "success", "steps": [each]} for each in (step, wrong)]
    content = "\n\n".join(json.dumps(row) for row in rows)
    (tmp_path / "episodes.jsonl").write_text(content)
    with pytest.raises(RunFolderError) as refused:
        annotate(RunFolder(tmp_path), Context(tiny()), Progress())
    assert f"episodes.jsonl is damaged at line 3 ({told}" in str(refused.value)
    assert "elete" not in str(refused.value)
    assert (tmp_path / "episodes.jsonl").read_text() == content


@pytest.mark.parametrize(("key", "value"), [("choice", 2), ("expert", -1), ("experts", [0, 5]), ("choice", "left")])
def test_episodes_of_ones_own_whose_choices_are_no_actions_are_refused(
    tmp_path: Path, tiny: Tiny, key: str, value: Any
) -> None:
    step = Step("a hall", ("left", "right"), 0, 0.0, 0)
    wrong = Episode("a", (step,), StopReason.SUCCESS).to_json()
    wrong["steps"][0][key] = value
    run = RunFolder(tmp_path)
    run.write_jsonl("episodes.jsonl", [wrong])
    with pytest.raises(RunFolderError, match=r"episodes\.jsonl is damaged at line 1 .*is no index into the 2 actions"):
        read_pool(run, tiny())


def test_an_expert_that_is_none_of_its_own_experts_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    step = {"observation": "a hall", "actions": ["a", "b", "c"], "choice": 0, "reward": 0, "expert": 2}
    rows = [{"task": "a", "stop": "success", "steps": [step | {"experts": experts}]} for experts in ([2, 1], [0, 1])]
    run = RunFolder(tmp_path)
    run.write_jsonl("episodes.jsonl", rows)
    with pytest.raises(RunFolderError, match=r"damaged at line 2 .*the expert 2, which is not among its experts"):
        read_pool(run, tiny())
    with pytest.raises(ValueError, match="the action 2, which is not among its experts"):
        Label("state", 0, 0, 2, (0, 1))


def test_collecting_without_an_expert_is_refused_and_leaves_no_file(tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(EnvironmentContractError, match=r"Unguided\.expert\(\) gave nothing.*collect\.file"):
        collect(RunFolder(tmp_path), Context(tiny({"env.name": "corridor:Unguided"})), Progress())
    assert not (tmp_path / "episodes.jsonl").exists()


def labels_of(
    run: RunFolder, settings: Settings, heard: Progress | None = None
) -> tuple[list[Label], list[Reflection]]:
    annotate(run, Context(settings), heard or Progress())
    return (
        run.read_jsonl("action_labels.jsonl", Label.from_json),
        run.read_jsonl("reflections.jsonl", Reflection.from_json),
    )


def test_a_label_says_what_expert_and_teacher_say_of_that_very_state(pooled: RunFolder, tiny: Tiny) -> None:
    settings = tiny()
    actions, reflections = labels_of(pooled, settings)
    places = {(entry.episode, entry.step): entry for entry in read_pool(pooled, settings)}
    by_id = {entry.id: entry for entry in places.values()}
    for label in actions:
        entry = places[label.episode, label.step]
        assert (entry.id, entry.expert) == (label.state, label.action)
    for reflection in reflections:
        assert reflection.text == Corridor.teach(by_id[reflection.state].state.facts, "way")
        assert reflection.teacher == "scripted:way"


@pytest.mark.parametrize("distinct", [False, True])
def test_budgets_are_kept_and_the_smaller_is_part_of_the_larger(
    pooled: RunFolder, tiny: Tiny, heard: Heard, distinct: bool
) -> None:
    def bought(actions: int, reflections: int) -> tuple[list[Label], list[Reflection]]:
        budget = {"annotate.actions": actions, "annotate.reflections": reflections, "annotate.distinct": distinct}
        return labels_of(pooled, tiny(budget), heard)

    small, large = bought(10, 25), bought(30, 30)
    assert [len(part) for part in (*small, *large)] == [10, 25, 30, 30]
    assert large[0][:10] == small[0]
    assert large[1][:25] == small[1]
    assert [label.state for label in large[0]] == [reflection.state for reflection in large[1]]
    assert not heard.warned
    states = [label.state for label in large[0]]
    assert (len(set(states)) == len(states)) == distinct


def test_a_budget_over_the_pool_is_announced(pooled: RunFolder, tiny: Tiny, heard: Heard) -> None:
    settings = tiny({"annotate.actions": 9999, "annotate.reflections": 8888, "annotate.distinct": True})
    pool = {entry.id for entry in read_pool(pooled, settings)}
    actions, reflections = labels_of(pooled, settings, heard)
    assert {label.state for label in actions} == {r.state for r in reflections} == pool
    assert len(actions) == len(reflections) == len(pool)
    assert [w for w in heard.warned if "9999 action labels" in w]
    assert [w for w in heard.warned if "8888 reflection labels" in w]


def test_without_a_reflector_no_reflection_is_bought(pooled: RunFolder, tiny: Tiny) -> None:
    actions, reflections = labels_of(pooled, tiny({"reflector.kind": "none"}))
    assert (len(actions), len(reflections)) == (60, 0)


def test_annotating_twice_gives_the_same_bytes(pooled: RunFolder, tiny: Tiny) -> None:
    def made(seed: int) -> list[bytes]:
        labels_of(pooled, tiny({"seed": seed}))
        return [(pooled / name).read_bytes() for name in ("action_labels.jsonl", "reflections.jsonl")]

    assert made(0) == made(0) != made(1)


def test_steps_without_an_experts_choice_are_no_action_labels(pooled: RunFolder, tiny: Tiny) -> None:
    rows = [json.loads(line) for line in (pooled / "episodes.jsonl").read_text().splitlines()]
    for row in rows[1:]:
        for step in row["steps"]:
            step |= {"expert": None, "experts": []}
    pooled.write_jsonl("episodes.jsonl", rows)
    actions, reflections = labels_of(pooled, tiny())
    assert len(actions) == len(rows[0]["steps"])
    assert len(reflections) == 150


def test_the_best_actions_alone_are_an_experts_choice(pooled: RunFolder, tiny: Tiny) -> None:
    rows = [json.loads(line) for line in (pooled / "episodes.jsonl").read_text().splitlines()]
    for row in rows:
        for step in row["steps"]:
            assert step["experts"] == [step.pop("expert")]
    pooled.write_jsonl("own.jsonl", rows)
    settings = tiny({"collect.file": str(pooled / "own.jsonl")})
    run = RunFolder(pooled.path.parent / "own")
    collect(run, Context(settings), Progress())
    assert labels_of(run, settings) == labels_of(pooled, tiny())


def test_of_states_that_read_alike_any_visit_can_tell_the_label(pooled: RunFolder, tiny: Tiny, heard: Heard) -> None:
    """A person who labels by the way labels a state on some of its visits."""
    pool = read_pool(pooled, tiny())
    told = {entry.id: (entry.episode, entry.step) for entry in pool}  # the last visit of each
    every = {"annotate.actions": len(told), "annotate.distinct": True, "annotate.reflections": len(told)}
    rows = [json.loads(line) for line in (pooled / "episodes.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        for place, step in enumerate(row["steps"]):
            if (number, place) not in told.values():
                step |= {"expert": None, "experts": []}
    pooled.write_jsonl("episodes.jsonl", rows)
    actions, reflections = labels_of(pooled, tiny(every), heard)
    assert {label.state for label in actions} == {each.state for each in reflections} == set(told)
    assert not heard.warned


def test_an_unknown_teacher_and_an_empty_pool_are_refused(pooled: RunFolder, tiny: Tiny) -> None:
    with pytest.raises(TeacherError, match="no scripted teacher 'rude'"):
        labels_of(pooled, tiny({"annotate.teacher": "rude"}))
    pooled.write_jsonl("episodes.jsonl", [])
    with pytest.raises(RunFolderError, match="holds no step"):
        labels_of(pooled, tiny())


@pytest.mark.parametrize("how", ["cut", "no such key"])
def test_a_damaged_episodes_file_is_refused(pooled: RunFolder, tiny: Tiny, how: str) -> None:
    path = pooled / "episodes.jsonl"
    text = path.read_text()
    path.write_text(text[:-30] if how == "cut" else text.replace('"stop"', '"end"', 1))
    with pytest.raises(RunFolderError, match=r"episodes\.jsonl is damaged at line"):
        labels_of(pooled, tiny())


def test_states_know_what_happened_before(pooled: RunFolder, tiny: Tiny) -> None:
    settings: Any = tiny()
    episode = pooled.read_jsonl("episodes.jsonl", Episode.from_json)[0]
    states = [entry.state for entry in read_pool(pooled, settings) if entry.episode == 0]
    assert [len(state.history) for state in states] == list(range(len(episode.steps)))
    assert states[-1].history == tuple((s.observation, s.actions[s.choice]) for s in episode.steps[:-1])


def test_of_equally_good_actions_all_are_recorded_and_any_is_taken(tmp_path: Path, tiny: Tiny) -> None:
    settings = tiny({"env.name": "corridor:Undecided", "collect.perturb": 0.0, "collect.episodes": 60})
    steps = [step for episode in episodes_of(tmp_path, settings) for step in episode.steps]
    for step in steps:
        assert [step.actions[i] for i in step.experts] == [action for action in step.actions if action != "take"]
        assert step.choice == step.expert in step.experts
    assert {step.expert for step in steps if len(step.experts) == 2} == {0, 1}


def test_an_episode_ends_where_the_expert_knows_no_way_on(tmp_path: Path, tiny: Tiny) -> None:
    played = episodes_of(tmp_path, tiny({"env.name": "corridor:Undecided", "collect.perturb": 0.0}))
    assert {len(episode.steps) for episode in played} == {3}
    assert {episode.stop for episode in played} == {StopReason.FAILURE}


@pytest.mark.parametrize("most", [1, 5])
def test_where_past_reflections_are_read_labels_are_bought_by_whole_episodes(
    pooled: RunFolder, tiny: Tiny, most: int
) -> None:
    settings = tiny({"prompt.reflections": most, "annotate.actions": 40, "annotate.reflections": 40})
    labels, _ = labels_of(pooled, settings)
    pool = read_pool(pooled, settings)
    length = Counter(entry.episode for entry in pool)
    bought = Counter(label.episode for label in labels)
    assert sum(bought[number] not in (0, length[number]) for number in length) <= 1
    for before, entry in pairwise(pool):
        told = Corridor.teach(before.state.facts, "way")
        assert entry.state.reflections == ((*before.state.reflections, told)[-most:] if entry.step else ())


def selected(run: RunFolder, settings: Settings) -> list[str]:
    choose_states(run, Context(settings), Progress())
    return [row["id"] for row in run.read_jsonl("selection.jsonl", dict)]


@pytest.mark.parametrize("strategy", ["random", "facility-location", "k-center"])
def test_the_teacher_is_asked_about_the_selected_states_and_no_others(
    pooled: RunFolder, tiny: Tiny, strategy: str
) -> None:
    settings = tiny({"select.strategy": strategy, "annotate.reflections": 12})
    ids = selected(pooled, settings)
    _, reflections = labels_of(pooled, settings)
    assert len(set(ids)) == len(ids) == 12
    assert {label.state for label in reflections} == set(ids)
    assert selected(pooled, settings) == ids
    if strategy != "random":  # a greedy choice: the smaller budget is the beginning of the larger
        assert selected(pooled, tiny({"select.strategy": strategy, "annotate.reflections": 5})) == ids[:5]


@pytest.mark.parametrize("strategy", ["mean-entropy", "min-margin", "least-confidence", "uncertain-then-diverse"])
def test_a_pretrained_reflector_says_where_it_is_unsure(
    pooled: RunFolder, tiny: Tiny, tmp_path: Path, strategy: str
) -> None:
    save_model(tiny_models.gpt2(context=400), tiny_models.tokenizer(), tmp_path / "model")
    given = {
        "reflector.model.source": str(tmp_path / "model"),
        "annotate.reflections": 6,
        "reflector.max_new_tokens": 4,
    }
    ids = selected(pooled, tiny(given | {"select.strategy": strategy, "select.embedding": "model"}))
    assert len(set(ids)) == 6
    assert ids == selected(pooled, tiny(given | {"select.strategy": strategy, "select.embedding": "model"}))
    if strategy != "uncertain-then-diverse":
        gains = [row["gain"] for row in pooled.read_jsonl("selection.jsonl", dict)]
        assert gains == sorted(gains, reverse=True), "the least sure first"


@pytest.mark.parametrize(("style", "first"), [("chat", "<user>"), ("plain", "<s>")])
def test_a_model_is_asked_about_the_prompts_that_it_will_read(
    pooled: RunFolder, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str, first: str
) -> None:
    """In the frames of its chat template, whose control tokens are single tokens, and nothing before them; as plain
    text, after the token that its tokenizer puts before a text.
    """
    tokenizer = deepcopy(tiny_models.tokenizer())
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<user>", "<model>"]})
    opening = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = opening
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ 'user' if m.role == 'user' else 'model' }}> {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<model>{% endif %}"
    )
    model = tiny_models.gpt2(context=400)
    model.resize_token_embeddings(len(tokenizer))
    save_model(model, tokenizer, tmp_path / "model")
    given = {"reflector.model.source": str(tmp_path / "model"), "prompt.format": style}
    settings = tiny(given | {"select.strategy": "mean-entropy"})
    seen: list[list[int]] = []
    items = Encoder.items
    monkeypatch.setattr(
        Encoder, "items", lambda self, *args: [seen.append(item.prompt) or item for item in items(self, *args)]
    )
    selected(pooled, settings)
    model, tokenizer = load_pretrained(settings.reflector.model, "cpu")
    builder = reflector_prompts(Context(settings), model, tokenizer)
    prompts = [builder.reflector_prompt(entry.state) for entry in distinct(read_pool(pooled, settings))]
    assert sorted(seen) == sorted(encode_prompt(tokenizer, p.text, p.controls) for p in prompts)
    assert {ids[0] for ids in seen} == {tokenizer.convert_tokens_to_ids(first)}


def test_a_model_is_unsure_of_what_it_would_write_and_of_nothing_after_its_turn(
    pooled: RunFolder, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = deepcopy(tiny_models.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<model>", "<end>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ 'user' if m.role == 'user' else 'model' }}>{{ m.content }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<model>{% endif %}"
    )
    model = tiny_models.gpt2(context=400)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():  # it ends its turn at once
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(model.transformer.wte.weight[-1])
        model.transformer.wte.weight[-1] *= 50
    save_model(model, tokenizer, tmp_path / "model")
    given = {"reflector.model.source": str(tmp_path / "model"), "prompt.format": "chat"}
    lengths: list[int] = []
    score = Scorer.score

    def scored(self: Scorer, *args: Any) -> list[TokenScores]:
        found = score(self, *args)
        lengths.extend(len(scores.entropies) for scores in found)
        return found

    monkeypatch.setattr(Scorer, "score", scored)
    selected(pooled, tiny(given | {"select.strategy": "mean-entropy", "annotate.reflections": 6}))
    assert set(lengths) == {1}


@pytest.mark.parametrize(
    "given", [{"select.strategy": "min-margin"}, {"select.strategy": "k-center", "select.embedding": "model"}]
)
def test_a_reflector_from_scratch_cannot_be_asked_before_it_is_trained(tiny: Tiny, given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"from scratch knows nothing yet.*reflector\.model\.source"):
        tiny(given)


def test_selection_is_refused_where_whole_episodes_have_to_be_labelled(tiny: Tiny) -> None:
    with pytest.raises(SettingsError, match=r"prompt\.reflections"):
        tiny({"select.strategy": "k-center", "prompt.reflections": 3})
    assert not tiny({"select.strategy": "k-center", "reflector.kind": "none"}).selects


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"observation": ""}, r"line 1 \('steps.0.observation' is empty"),
        ({"actions": ["a", "a"]}, r"line 1 \('steps.0.actions' is \['a', 'a'\]: texts that differ"),
        ({"actions": ["a", ""]}, r"line 1 \('steps.0.actions' is \['a', ''\]"),
        ({"facts": {}}, "has no 'facts', from which the teacher 'way' of Corridor writes"),
    ],
)
def test_episodes_of_ones_own_are_checked(pooled: RunFolder, tiny: Tiny, change: dict[str, Any], said: str) -> None:
    lines = (pooled / "episodes.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["steps"][0] |= change
    (pooled / "episodes.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]))
    with pytest.raises(RunFolderError, match=said):
        annotate(pooled, Context(tiny({"annotate.reflections": 10_000})), Progress())


def test_a_selection_of_another_pool_is_refused(pooled: RunFolder, tiny: Tiny) -> None:
    settings = tiny({"select.strategy": "random", "annotate.reflections": 3})
    pooled.write_jsonl("selection.jsonl", [{"id": "unknown", "rank": 0, "gain": 0.0, "strategy": "random"}])
    with pytest.raises(RunFolderError, match="Select again"):
        annotate(pooled, Context(settings), Progress())


@pytest.mark.parametrize("text", ["Go left. ", "\nGo left.\n", "Go left.\t"])
def test_a_text_of_ones_own_is_taken_without_the_white_space_around_it(text: str) -> None:
    read = Reflection.from_json({"state": "s", "text": text, "teacher": "me"})
    assert read.text == "Go left."
