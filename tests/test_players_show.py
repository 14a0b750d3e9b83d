"""`reflect-rl prompt`, texts from files, `--model`, and the advice about learning rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from conftest import Heard
from reflect_rl.__main__ import run_command
from reflect_rl.config import load_settings, with_model
from reflect_rl.errors import SettingsError
from reflect_rl.lm.pretrained import save_model
from reflect_rl.players.context import Context
from reflect_rl.players.show import ANY_TEXT, shown_prompts
from reflect_rl.settings.advice import advice
from test_lm_chat import CHATML, tokenizer
from tiny_tokenizers import opened


def shown(recipe: str, steps: int = 1, **overrides: object) -> tuple[str, ...]:
    context = Context(load_settings(recipe, {name.replace("__", "."): value for name, value in overrides.items()}))
    return tuple(prompt.text for prompt in shown_prompts(context, Heard(), steps=steps))


@pytest.fixture
def instruct(tmp_path: Path) -> str:
    """A folder of a tiny model with a chat template."""
    return saved(tokenizer(CHATML), tmp_path / "instruct")


def saved(words: PreTrainedTokenizerBase, folder: Path) -> str:
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(words), **sizes))
    save_model(model, words, folder)
    return str(folder)


def test_both_players_prompts_are_shown() -> None:
    reflector, policy = shown("taxi", steps=0)
    assert policy.startswith(reflector)
    assert policy.endswith("\nAction:")
    assert "Last: none" in policy
    assert "Last: none" not in shown("taxi")[1]
    assert len(shown("taxi", reflector__kind="none", policy__gated_mixture=False)) == 1


def test_without_a_reflector_no_past_reflections_are_shown() -> None:
    past = {"prompt__reflections": 2, "policy__gated_mixture": False}
    plain = {**past, "reflector__kind": "none"}
    assert shown("taxi", steps=2, **plain) == shown("taxi", steps=2, **{**plain, "prompt__reflections": 0})
    assert "\n- " in shown("taxi", steps=2, **past)[-1]


def test_an_episode_that_ends_early_shows_its_last_state() -> None:
    assert shown("taxi", steps=500) == shown("taxi", steps=400)


def test_a_world_without_that_teacher_shows_where_the_reflection_goes() -> None:
    assert ANY_TEXT in shown("taxi", annotate__teacher="nobody")[1]


def test_the_command_prints_control_tokens_lengths_and_answers(
    instruct: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["prompt", "taxi", "--model", instruct, "--policy.gated_mixture", "false"]) == 0
    told = capsys.readouterr().out
    assert "=== reflector: chat format, " in told
    assert "<|im_start|>assistant\n" in told
    assert "--- answers: 'A', 'B', 'C', 'D', 'E', 'F'" in told
    plain = ["--prompt.format", "plain", "--policy.head", "pointer", "--policy.gated_mixture", "false"]
    assert run_command(["prompt", "taxi", "--model", instruct, *plain]) == 0
    assert "<|im_start|>" not in capsys.readouterr().out
    assert run_command(["prompt", "taxi"]) == 0
    assert "its tokenizer is trained in the run" in capsys.readouterr().out


def test_the_token_that_a_tokenizer_puts_before_a_text_is_shown(tmp_path: Path) -> None:
    base = saved(opened(), tmp_path / "base")
    prompts = shown("taxi", policy__gated_mixture=False, reflector__model__source=base)
    assert [prompt.startswith("<s>") for prompt in prompts] == [True, False]


def test_texts_come_from_files_and_are_kept_with_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "why.txt").write_text("Think\ntwice.\n")
    (tmp_path / "there" / "mine.yaml").write_text("extends: taxi\nprompt: {reflect: '@why.txt'}\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings("there/mine.yaml").prompt.reflect == "Think\ntwice."
    assert load_settings("taxi", {"prompt.act": "@there/why.txt"}).prompt.act == "Think\ntwice."
    (tmp_path / "empty.txt").touch()
    for bad in ("@absent.txt", "@there", "@empty.txt"):
        with pytest.raises(SettingsError, match=r"prompt\.act: "):
            load_settings("taxi", {"prompt.act": bad})


def test_one_model_for_both_players_unless_they_say_otherwise() -> None:
    both = with_model({"policy.model.source": "own"}, "theirs")
    settings = load_settings("taxi", both | {"policy.gated_mixture": False})
    assert (settings.reflector.model.source, settings.policy.model.source) == ("theirs", "own")
    assert with_model({"seed": 1}, None) == {"seed": 1}


def test_rates_of_small_models_are_advised_against_on_pretrained_ones() -> None:
    assert advice(load_settings("taxi")) == []
    assert advice(load_settings("taxi-lm")) == advice(load_settings("alfworld-lm")) == []
    told = advice(load_settings("taxi", with_model({}, "gpt2")))
    assert [sentence.split(".lr")[0] for sentence in told] == ["reflector_sft", "policy_sft", "rl"]
    adapted = {"policy.model.lora_rank": 8, "reflector.kind": "none", "policy.gated_mixture": False}
    assert advice(load_settings("taxi", with_model(adapted, "gpt2"))) == []
    assert len(advice(load_settings("taxi", with_model(adapted | {"rl.lr": 0.01}, "gpt2")))) == 1
