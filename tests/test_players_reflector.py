"""Reflectors: frozen, the same text in any company, remembered across processes, nothing behind the end token."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

import tiny_models
from corridor import Corridor
from reflect_rl.bars import Bars
from reflect_rl.errors import PromptError, RunFolderError, TeacherError
from reflect_rl.lm.backbone import Backbone
from reflect_rl.lm.decoding import decoding_steps
from reflect_rl.lm.models import fingerprint
from reflect_rl.lm.pretrained import load_pretrained, save_model
from reflect_rl.memo import Memo
from reflect_rl.players.labels import candidates
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import LocalReflector, NoReflector, ScriptedReflector, shown_on
from reflect_rl.records import State
from reflect_rl.settings import ModelSettings, PromptSettings, ReflectorSettings

STATES = list(tiny_models.states())
LABELS = [label for label, _ in zip(candidates(), range(3), strict=False)]


def reflector(
    memo: Memo | None = None, model: PreTrainedModel | None = None, chunk: int = 4, seed: int = 0, **settings: Any
) -> LocalReflector:
    tokenizer = tiny_models.tokenizer()
    prompts = PromptBuilder(
        Corridor.task_text, PromptSettings(), LABELS, lambda prompt: len(tokenizer.encode(prompt.text))
    )
    part = ReflectorSettings(**{"max_new_tokens": 12, **settings})
    model = tiny_models.gpt2() if model is None else model
    return LocalReflector(model, tokenizer, prompts, part, memo or Memo(None, "test"), seed, chunk)


def forwards(made: LocalReflector) -> list[int]:
    """Counts what goes through the model from now on."""
    calls: list[int] = []
    made.model.transformer.ln_f.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_no_reflector_says_nothing_and_the_scripted_one_is_the_teacher() -> None:
    assert NoReflector().reflect(STATES[:2]) == [None, None]
    said = ScriptedReflector(Corridor, "way").reflect(STATES[:2])
    assert said == [Corridor.teach(state.facts, "way") for state in STATES[:2]]
    with pytest.raises(TeacherError, match="no scripted teacher 'rude'"):
        ScriptedReflector(Corridor, "rude").reflect(STATES[:1])


def test_it_is_frozen() -> None:
    made = reflector(model=tiny_models.gpt2().train())
    made.reflect(STATES[:2])
    assert not made.model.training
    assert not any(weight.requires_grad for weight in made.model.parameters())


ALONE: dict[tuple[str, int], str | None] = {}


@pytest.mark.parametrize("decoding", ["greedy", "sample"])
@hypothesis_settings(max_examples=8)
@given(chosen=st.lists(st.integers(0, len(STATES) - 1), min_size=1, max_size=12))
def test_a_text_does_not_depend_on_its_company(decoding: str, chosen: list[int]) -> None:
    texts = reflector(decoding=decoding).reflect([STATES[i] for i in chosen])
    for i, text in zip(chosen, texts, strict=True):
        if (decoding, i) not in ALONE:
            ALONE[decoding, i] = reflector(decoding=decoding).reflect([STATES[i]])[0]
        assert text == ALONE[decoding, i]


def test_greedy_text_is_what_the_library_generates() -> None:
    made, tokenizer = reflector(), tiny_models.tokenizer()
    for state, text in zip(STATES[:4], made.reflect(STATES[:4]), strict=True):
        ids = torch.tensor([tokenizer.encode(made.prompts.reflector_prompt(state).text)])
        out = made.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("build", [tiny_models.gpt2, tiny_models.lookup, tiny_models.llama])
def test_logits_step_by_step_are_those_of_the_whole_text(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    ids_BL = torch.randint(0, len(tiny_models.tokenizer()), (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole_BLV = model(ids_BL).logits
    steps = decoding_steps(Backbone(model), ids_BL[:, :12].tolist(), 12, 20)
    torch.testing.assert_close(steps.first(), whole_BLV[:, 11], rtol=0, atol=1e-5)
    for place in range(12, 20):
        torch.testing.assert_close(steps(ids_BL[:, place : place + 1]), whole_BLV[:, place], rtol=0, atol=1e-5)


def test_equal_prompts_are_written_once_and_remembered() -> None:
    made = reflector()
    first = made.reflect([STATES[0], STATES[1], STATES[0]])
    assert first[0] == first[2]
    assert made.written == 2
    calls = forwards(made)
    assert made.reflect([STATES[1], STATES[0]]) == [first[1], first[0]]
    assert not calls


def test_what_was_written_before_a_crash_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, wanted, path = STATES[:6], reflector().reflect(STATES[:6]), tmp_path / "memo.sqlite"
    one, decode = reflector(Memo(path, "same"), chunk=2), LocalReflector._decode

    def crash(made: LocalReflector, ids: list[list[int]], seeds: list[int]) -> list[list[int]]:
        if made.written >= 3:
            raise KeyboardInterrupt
        return decode(made, ids, seeds)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(LocalReflector, "_decode", crash)
        one.reflect(states)
    again, ticks = reflector(Memo(path, "same"), chunk=2), []
    assert again.reflect([*states, *states], tick=ticks.append) == [*wanted, *wanted]
    assert again.written == len(states) - one.written < len(states) - 2
    assert ticks[0] == 2 * one.written
    assert sum(ticks) == 2 * len(states)


def test_long_writing_shows_beside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that nobody advances says how many reflections there are so far, and no more once the bar is gone."""
    made, stream, clock = reflector(chunk=1), StringIO(), count(0.0, 20.0)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Bars(stream).bar("evaluate", 3, "episodes") as bar, shown_on(bar, made):
        made.reflect(STATES[:3])
        during = stream.getvalue()
    assert re.findall(r"evaluate: 0/3 episodes.*, reflections (\d)\n", during) == ["1", "2", "3"]
    after = stream.getvalue()
    made.reflect(STATES[3:5])
    assert stream.getvalue() == after
    with Bars(stream).bar("evaluate", 3, "episodes") as bar, shown_on(bar, NoReflector()):
        pass


def test_a_memo_is_shared_while_open_and_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "run" / "memo.sqlite"
    one, other = reflector(Memo(path, "same")), reflector(Memo(path, "same"))
    said = one.reflect(STATES[:5])
    assert other.reflect(STATES[:5]) == said
    assert reflector(Memo(path, "same")).reflect(STATES[:5]) == said
    assert other.written == 0
    stranger = reflector(Memo(path, "another model"))
    stranger.reflect(STATES[:1])
    assert stranger.written == 1


def test_two_processes_can_fill_one_memo_at_the_same_time(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from reflect_rl.memo import Memo\n"
        "memo = Memo(Path(sys.argv[1]), 'n')\n"
        "for i in range(60): memo.put({(f'p{i}', 0): f't{i}', (f'{sys.argv[2]}{i}', 0): 'own'})\n"
    )
    path = tmp_path / "memo.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in ("a", "b")]
    assert [process.wait(60) for process in running] == [0, 0]
    pairs = [(f"{name}{i}", 0) for name in ("p", "a", "b") for i in range(60)]
    assert len(Memo(path, "n").get(pairs)) == 180


def test_a_damaged_memo_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "memo.sqlite").write_text("not a database, but long enough to be looked at" * 99)
    with pytest.raises(RunFolderError, match=r"memo.*delete it"):
        Memo(tmp_path / "memo.sqlite", "n")


def test_a_memo_damaged_inside_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "memo.sqlite"
    memo = Memo(path, "n")
    memo.put({(f"p{i}", 0): "text" * 50 for i in range(400)})
    del memo
    for name in ("memo.sqlite-wal", "memo.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(RunFolderError, match=r"memo.*delete it"):
        Memo(path, "n").get([(f"p{i}", 0) for i in range(400)])


def test_the_fingerprint_knows_every_weight_and_the_vocabulary() -> None:
    model, tokenizer = tiny_models.gpt2(), tiny_models.tokenizer()
    before = fingerprint(model, tokenizer)
    assert fingerprint(tiny_models.gpt2(), tokenizer) == before
    for weight in model.parameters():
        with torch.no_grad():
            old = weight.view(-1)[-1].clone()
            weight.view(-1)[-1] = old + 1e-3
            assert fingerprint(model, tokenizer) != before
            weight.view(-1)[-1] = old
    assert fingerprint(model, tokenizer) == before
    tokenizer(["a b", "a"], padding=True, truncation=True, max_length=9)  # which tokenizers remember
    assert fingerprint(model, tokenizer) == before


def test_the_fingerprint_knows_what_is_done_with_the_weights(tmp_path: Path) -> None:
    """Equal weights write other texts with other positions, adapters of another scale, or another end token."""
    model, tokenizer = tiny_models.llama(), tiny_models.tokenizer()
    before = fingerprint(model, tokenizer)
    save_model(model, tokenizer, tmp_path / "model")
    assert fingerprint(*load_pretrained(ModelSettings(source=str(tmp_path / "model")))) == before
    config = json.loads((tmp_path / "model/config.json").read_text())
    for changed in ({"rms_norm_eps": 0.5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}):
        (tmp_path / "model/config.json").write_text(json.dumps(config | changed))
        assert fingerprint(*load_pretrained(ModelSettings(source=str(tmp_path / "model")))) != before
    marks = set()
    for alpha in (8, 80):
        adapted = get_peft_model(tiny_models.llama(), LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"]))
        marks.add(fingerprint(adapted, tokenizer))
    model.generation_config.eos_token_id = [1, 2]
    assert len({before, fingerprint(model, tokenizer), *marks}) == 4


def test_sampling_follows_the_index_and_the_seed() -> None:
    made = reflector(decoding="sample")
    first = [made.reflect(STATES[:6], sample=index) for index in range(3)]
    again = reflector(decoding="sample")
    assert [again.reflect(STATES[:6], sample=index) for index in (2, 0, 1)] == [first[2], first[0], first[1]]
    assert first[0] != first[1] != first[2]
    assert reflector(decoding="sample", seed=1).reflect(STATES[:6]) != first[0]
    greedy = reflector()
    assert greedy.reflect(STATES[:6], sample=3) == greedy.reflect(STATES[:6])


def test_sampling_follows_the_probabilities() -> None:
    made = reflector(decoding="sample", max_new_tokens=1, chunk=100, temperature=0.5)
    ids = tiny_models.tokenizer().encode("Walk")
    with torch.no_grad():
        wanted_V = (made.model(torch.tensor([ids])).logits[0, -1].double() / 0.5).softmax(-1)
    rows = [row for n in range(40) for row in made._decode([ids] * 100, list(range(100 * n, 100 * n + 100)))]
    drawn = [row[0] if row else tiny_models.tokenizer().eos_token_id for row in rows]
    counts_V = torch.bincount(torch.tensor(drawn), minlength=len(wanted_V)).double()
    often = wanted_V * 4000 > 20
    expected = wanted_V[often] * 4000
    chi_square = float(((counts_V[often] - expected) ** 2 / expected).sum())
    freedom = int(often.sum())
    assert freedom > 5
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


class Parrot(torch.nn.Module):
    """Says fixed tokens, whatever it reads."""

    def __init__(self, says: list[int]) -> None:
        super().__init__()
        self.says, self.at = says, 0
        self.config = tiny_models.gpt2().config
        self.head = torch.nn.Linear(4, len(tiny_models.tokenizer()))
        self.device = torch.device("cpu")
        self.generation_config = None

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.zeros(len(input_ids), 1, len(tiny_models.tokenizer()))
        logits[:, 0, self.says[min(self.at, len(self.says) - 1)]] = 1
        self.at += 1
        return type("Out", (), {"logits": logits})


def test_nothing_after_the_end_token_gets_into_the_text() -> None:
    tokenizer = tiny_models.tokenizer()
    said, after = tokenizer.encode(" Go left."), tokenizer.encode(" Go right.")
    model: Any = Parrot([*said, tokenizer.eos_token_id, *after])
    assert reflector(model=model).reflect(STATES[:1]) == ["Go left."]
    assert model.at == len(said) + 1


def test_rows_that_end_early_are_cut_while_others_go_on() -> None:
    tokenizer = tiny_models.tokenizer()
    model = tiny_models.gpt2()
    made = reflector(model=model, decoding="sample", max_new_tokens=40, temperature=3.0, chunk=64)
    rows = made._decode([tokenizer.encode("Walk to")] * 64, list(range(64)))
    assert {len(row) for row in rows} != {40}
    assert all(tokenizer.eos_token_id not in row for row in rows)


@pytest.mark.parametrize("most", [1, 3])
def test_it_writes_no_more_tokens_than_it_may(most: int) -> None:
    made = reflector(max_new_tokens=most)
    calls = forwards(made)
    made.reflect(STATES[:1])
    assert len(calls) <= most


def test_it_stops_at_the_end_of_its_context_and_refuses_a_prompt_beyond() -> None:
    tokenizer = tiny_models.tokenizer()
    needed = len(tokenizer.encode(reflector().prompts.reflector_prompt(STATES[0]).text))
    made = reflector(model=tiny_models.gpt2(context=needed + 2))
    made.reflect(STATES[:1])
    with pytest.raises(PromptError, match=f"{needed + 20} tokens; the model reads {needed + 2}"):
        made.reflect([State(STATES[0].observation + "." * 20, STATES[0].actions, STATES[0].history)])


def test_where_padding_is_allowed_it_changes_no_text() -> None:
    padded, plain = (reflector(model=tiny_models.lookup(), chunk=4) for _ in range(2))
    plain.step = 1
    assert padded.step > 1
    assert padded.reflect(STATES) == plain.reflect(STATES)
    lengths = {len(padded.tokenizer.encode(padded.prompts.reflector_prompt(state).text)) for state in STATES}
    assert len(lengths) > 1
