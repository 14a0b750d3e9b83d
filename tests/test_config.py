"""What settings promise: every mistake is one clear message, and what was resolved can be read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reflect_rl.config import GONE, RENAMED, load_settings, parse_section, parse_settings, parse_yaml, recipe_names
from reflect_rl.errors import SettingsError
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.trained import read_config
from reflect_rl.settings import Settings, setting_keys
from reflect_rl.settings.server import ServerSettings


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    assert load_settings(name).env.horizon >= 1


def test_there_is_a_taxi_recipe() -> None:
    assert load_settings("taxi").env.name == "taxi"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rl.iteratons": 3}, "unknown setting 'rl.iteratons'. Did you mean 'rl.iterations'?"),
        ({"iterations": 3}, "unknown setting 'iterations'. Did you mean 'rl.iterations'?"),
        ({"rl.iterations": "many"}, "rl.iterations is 'many'"),
        ({"rl.iterations": 1.5}, "rl.iterations is 1.5"),
        ({"rl.iterations": True}, "rl.iterations is True"),
        ({"rl.iterations": -1}, "rl.iterations is -1: input should be greater than or equal to 0"),
        ({"collect.perturb": 1.0}, "collect.perturb is 1.0: input should be less than 1"),
        ({"guard": "yes please"}, "guard is 'yes please'"),
        ({"rl": 3}, "rl is 3"),
        ({"seed.value": 3}, "seed"),
        ({"rl.algorithm": "dqn"}, "'ppo' or 'reinforce'"),
        ({"reflector.model.width": 65}, "not a multiple of heads"),
        ({"reflector.model.bits": 4}, "need a pretrained model"),
        ({"policy.model.source": "gpt2", "policy.model.bits": 8}, "set lora_rank"),
        ({"rl.algorithm": "reinforce", "rl.epochs": 2}, "reinforce is on-policy: set epochs: 1"),
        ({"annotate.reflections": 0}, "reflector.kind: local needs labels"),
        ({"reflector.kind": "none", "guard": True}, "guard compares with the arm without reflection"),
    ],
)
def test_a_mistake_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({}, overrides)
    assert message in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"sed": 1, "rl": {"lr": "fast"}, "env": {"horizon": 0}}, source="mine.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "The settings in mine.yaml cannot be used:"
    assert {line.split()[1] for line in lines[1:]} == {"unknown", "rl.lr", "env.horizon"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "not a list"),
        ("seed: [", "not a readable YAML file"),
        ("rl: !!map [lr]", "not a readable YAML file"),
        ("{[a]: 1, [b]: 2}", "not a readable YAML file"),
        ("rl:\n  iteration: 3\n", "Did you mean 'rl.iterations'"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_recipe_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"no recipe 'taxy'.*Did you mean 'taxi'"):
        load_settings("taxy")


def test_an_empty_recipe_is_refused(tmp_path: Path) -> None:
    """Its defaults would train an agent in a world that nobody named."""
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(SettingsError, match=r"empty.yaml is empty. .* env: \{name: taxi\}"):
        load_settings(tmp_path / "empty.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rl.iterations: 2",
            r"unknown setting 'rl.iterations'. In a recipe it lies in its section: rl: \{iterations: ...\}.",
        ),
        ("env: worlds:Base", r"env is 'worlds:Base', not a section of settings, such as env: \{...\}."),
        ("rl:", r"rl is None, not a section"),
        ("rl: {lr: [", r"not a readable YAML file: (?!.*unicode string)"),
        ("extends: nosuch", r"mine.yaml extends nosuch. There is no recipe 'nosuch'"),
    ],
)
def test_mistakes_are_told_in_the_words_of_a_recipe(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=f"(?s){said}"):
        load_settings(tmp_path / "mine.yaml")


def test_a_setting_that_is_no_recipes_is_compared_with_its_own_kind() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting 'server.base_urll'. Did you mean 'server.base_url'\?"):
        parse_section(ServerSettings, {"base_urll": "http://127.0.0.1"}, "server")


def test_overrides_beat_the_recipe_and_leave_the_rest(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 4\nenv: {name: taxi}\nrl:\n  lr: 1e-3\n  iterations: 7\n")
    settings = load_settings(tmp_path / "mine.yaml", {"rl.iterations": 9})
    assert (settings.seed, settings.rl.lr, settings.rl.iterations) == (4, 1e-3, 9)


def test_a_recipe_names_its_world(tmp_path: Path) -> None:
    """Otherwise the default world is trained, which nobody asked for."""
    path = tmp_path / "mine.yaml"
    path.write_text("env: {horizon: 9}\n")
    with pytest.raises(SettingsError, match=r"No world is named in .*mine.yaml. Add env: \{name: taxi\}"):
        load_settings(path)
    assert load_settings(path, {"env.name": "frozenlake"}).env.name == "frozenlake"


@pytest.mark.parametrize(
    "overrides", [{}, {"rl.algorithm": "reinforce"}, {"reflector.kind": "none"}, {"env.options": {"a": [1, None]}}]
)
def test_resolved_settings_can_be_read_back(tmp_path: Path, overrides: dict[str, Any]) -> None:
    settings = parse_settings({}, overrides)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    assert load_settings(path) == settings


def test_every_key_can_be_set_by_its_own_name() -> None:
    for key, info in setting_keys().items():
        default = info.get_default(call_default_factory=True)
        assert parse_settings({}, {key: default}) == Settings(), key


def test_what_is_merged_may_be_given_anew() -> None:
    text = "a: {base: &base {x: 1, y: 2}, own: &own {<<: *base, x: 3}}\nb: {<<: *own, y: 4}"
    assert parse_yaml(text) == {"a": {"base": {"x": 1, "y": 2}, "own": {"x": 3, "y": 2}}, "b": {"x": 3, "y": 4}}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_yaml_numbers_are_numbers_in_every_notation(number: float) -> None:
    for text in (repr(number), f"{number:e}", f"{number:.17E}".replace("E+", "E")):
        value = parse_yaml(text)
        assert isinstance(value, float)
        assert value == float(text)


@pytest.mark.parametrize("text", ["1e", "e3", "1e-3x", "version 2e5", "0x"])
def test_text_that_looks_like_a_number_stays_text(text: str) -> None:
    assert parse_yaml(text) == text


def test_a_recipe_that_extends_another_has_all_of_it_but_what_it_changes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: taxi\nrl: {iterations: 3}\npolicy: {model: {width: 32}}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nrl: {episodes: 7}\n")
    mine, taxi = load_settings(tmp_path / "mine.yaml"), load_settings("taxi")
    assert (mine.rl.iterations, mine.rl.episodes, mine.policy.model.width) == (3, 7, 32)
    assert mine.collect == taxi.collect
    assert mine.policy.gated_mixture == taxi.policy.gated_mixture


def test_recipes_that_extend_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("extends: two.yaml\n")
    (tmp_path / "two.yaml").write_text("extends: one.yaml\n")
    with pytest.raises(SettingsError, match="circle"):
        load_settings(tmp_path / "one.yaml")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        *((key, f"unknown setting '{key}'. It is called '{name}' now.") for key, name in RENAMED.items()),
        *((key, f"unknown setting '{key}'. It is gone: leave it out.") for key in GONE),
    ],
)
def test_a_recipe_with_a_setting_of_an_earlier_version_is_told_what_became_of_it(key: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings({}, {key: 4})
    assert told in str(refused.value)


def test_a_run_folder_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    former = {"policy": {"hedge": True}, "rl": {"slots": 7, "anchor": 0.5, "lr": 1e-3}, "compute": {"rows": 3}}
    former |= {"env": {"name": "taxi"}, "reflector_sft": {"attempts": 2, "steps": 9}, "prompt": {"history": 2}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(former))
    settings = read_config(RunFolder(tmp_path))
    assert (settings.policy.gated_mixture, settings.rl.num_envs, settings.rl.reference_kl) == (True, 7, 0.5)
    assert (settings.rl.lr, settings.reflector_sft.steps) == (1e-3, 9)
    assert settings.prompt.format == "plain"  # as its models were trained, whatever templates they have
    assert set(RENAMED.values()) <= set(setting_keys())
    assert not {*RENAMED, *GONE} & set(setting_keys())
