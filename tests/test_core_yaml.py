"""Options are JSON values, read by YAML 1.2: the same in the first command and in every later one."""

from __future__ import annotations

import datetime
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from end_to_end import reflect_rl, refused
from reflect_rl.cli.overrides import split_overrides
from reflect_rl.config import load_settings, parse_settings
from reflect_rl.core_yaml import UnusableValueError, YamlError, dump_yaml, parse_option, parse_yaml
from reflect_rl.errors import SettingsError

ODD = (
    "NO no Yes on OFF y n ~ null Null 1e3 1.e3 .5 1_000 0o7 010 0x1F 12:30 1:2:3 2024-01-02 2024-13-45 = << .inf .nan "
    "- -- : # #1 [ { } ] , & * ! | > ' \" % @ ` true True -1 +1 1. 1e400 !!int ? ?a a:b --- ... "
    "\ufeff \x85 \u2028 \u2029 "
    "\x7f \x00 \U0001f3c1 旗 é \r"
).split(" ")
TEXTS = st.one_of(st.sampled_from([*ODD, "", " ", " a", "a ", "a: b", "a #b", "\n", "a\n\nb ", "\t"]), st.text())
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Equal in type as well: 1 is not 1.0, and not True."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(st.dictionaries(TEXTS, JSON, max_size=4))
def test_options_are_what_they_were_after_they_were_written(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = parse_settings({}, {"env.options": options})
    (tmp_path / "config.yaml").write_text(dump_yaml(settings.model_dump(mode="json")), encoding="utf-8")
    again = load_settings(tmp_path / "config.yaml")
    assert again == settings
    assert same(again.env.options, options)


@given(JSON)
def test_what_is_written_any_other_reader_of_yaml_reads(value: Any) -> None:
    assert same(parse_yaml(dump_yaml(value)), value)
    assert same(yaml.safe_load(dump_yaml(value)), value)


@given(JSON)
def test_an_option_given_as_json_is_that_value(value: Any) -> None:
    _, overrides = split_overrides([f"--env.options.x={json.dumps(value)}"], set())
    assert same(overrides["env.options.x"], value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, text) for text in "NO no yes on off y 12:30 2024-01-02 2024-13-45 1_000 = << #1 0x 0o9 1e e3".split()),
        *((text, text) for text in ("a # b", " two  spaces", "a\nb", "\u2028", "*.txt", "[", "@x", "a: b: c")),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("{size: 5, day: 2024-01-02}", {"size": 5, "day": "2024-01-02"}),
        ("[<<, =, NO]", ["<<", "=", "NO"]),
    ],
)
def test_an_option_is_read_by_the_core_schema(text: str, value: Any) -> None:
    _, overrides = split_overrides(["--env.options.x", text], set())
    assert same(overrides["env.options.x"], value)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(20)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join([f'*{chr(97 + i)}'] * 10)}]}}\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!python/object/apply:os.system [ls]", "'!!python/object/apply:os.system' makes something"),
        ("!own {a: 1}", "'!own' makes something"),
        ("!!timestamp 2024-01-02", "'!!timestamp'"),
        ("!!binary aGk=", "'!!binary'"),
        ("!!set {a}", "'!!set'"),
        ("!!int many", "'many' cannot be read as the int"),
        ("1" * 5000, "a number of 5,000 digits is too long"),
        ("[" * 600, "nested too deeply"),
        ("&a [*a]", "inside of what it stands for, in line 1"),
        (LAUGHS, "unfold to more than 100,000 values"),
        (MERGES, "unfold to more than 100,000 values"),
    ],
)
def test_yaml_that_no_setting_can_be_is_refused(text: str, said: str, tmp_path: Path) -> None:
    for read in (parse_yaml, parse_option):
        with pytest.raises(UnusableValueError) as caught:
            read(text)
        assert said in str(caught.value)
    with pytest.raises(SettingsError) as caught_too:
        split_overrides(["--env.options.x", text], set())
    assert str(caught_too.value).startswith("--env.options.x cannot be used: ")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"mine\.yaml is not a readable YAML file"):
        load_settings(tmp_path / "mine.yaml")


@given(st.text(alphabet=st.sampled_from("[]{}&*!|>'\"%@`#:-?,. \n\tab01<=~"), max_size=30))
def test_no_text_is_more_than_a_value_or_one_message(text: str) -> None:
    for read in (parse_yaml, parse_option):
        with suppress(YamlError):
            read(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": float("inf")}, "env.options: rate is infinite or not a number"),
        ({"rates": [0.0, float("nan")]}, "env.options: rates.1 is infinite or not a number"),
        ({"day": datetime.date(2024, 1, 2)}, "env.options: day is a date; give text"),
        ({"size": (3, 4)}, "env.options: size is a tuple"),
        ({"size": np.float64(3)}, "env.options: size is a float64"),
        ({"names": {1: "one"}}, "env.options: names has the key 1, which is no text"),
        ({"name": "\udcff"}, "env.options: name has bytes that are no text"),
        ({"big": 10**5000}, "env.options: big is a number of too many digits"),
        ({"deep": eval("[" * 80 + "]" * 80)}, "nested in each other"),  # noqa: S307  a literal
    ],
)
def test_options_that_json_does_not_have_are_refused_with_their_place(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({}, {"env.options": options})
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "guard"),
    [("--guard no", False), ("--guard=off", False), ("--guard YES", True), ("--guard=on", True), ("--guard", True)],
)
def test_a_switch_takes_yes_and_no(line: str, guard: bool) -> None:
    assert split_overrides(line.split(), set()) == ([], {"guard": guard})


def test_a_switch_of_a_recipe_is_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("guard: yes\n")
    with pytest.raises(SettingsError, match=r"guard is 'yes'.*Write true or false"):
        load_settings(tmp_path / "mine.yaml")


def test_a_value_that_is_refused_is_shown_in_short() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({}, {"rl.lr": "x" * 5000})
    assert len(str(caught.value)) < 400
    assert "(5,002 characters)" in str(caught.value)


WORLD = """
from pathlib import Path
from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.records import StopReason

class Day(SimpleTextEnv):
    actions = ("stay",)
    def __init__(self, horizon=20, day=None, open=None, at=None):
        super().__init__(horizon)
        with Path("told.txt").open("a") as told:
            told.write(f"{day!r} {open!r} {at!r}\\n")
    def tasks(self, split):
        return (split,)
    def begin(self, task, stage):
        pass
    def observe(self):
        return "here"
    def act(self, choice):
        return 1.0, StopReason.SUCCESS
    def expert(self):
        return 0
"""


def test_a_world_gets_the_same_options_from_the_first_command_and_from_every_later_one(tmp_path: Path) -> None:
    (tmp_path / "day_world.py").write_text(WORLD)
    given = ["--env.options.day", "2024-01-02", "--env.options.open", "NO", "--env.options.at", "12:30"]
    line = ["--env.name", "day_world:Day", "--reflector.kind", "none", "--collect.episodes", "2", "--until", "collect"]
    assert reflect_rl("run", "taxi", "--out", "run", *line, *given, cwd=tmp_path).code == 0
    assert reflect_rl("collect", "run", "--collect.episodes", "3", cwd=tmp_path).code == 0
    assert set((tmp_path / "told.txt").read_text().splitlines()) == {"'2024-01-02' 'NO' '12:30'"}


@pytest.mark.parametrize("value", [".inf", ".nan", "1e999", "{1: a}", "!!python/name:os.system", "1" * 5000])
def test_an_option_that_cannot_be_kept_is_one_message_before_any_work(tmp_path: Path, value: str) -> None:
    ended = reflect_rl("run", "taxi", "--out", str(tmp_path / "run"), "--env.options.day", value)
    refused(ended, "day")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["&x y", "&x", "&x 5", " &a b"])
def test_an_option_that_begins_like_an_anchor_is_text(text: str) -> None:
    assert parse_option(text) == text
