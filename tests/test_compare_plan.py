"""What is compared is data: the library's plans are sound, and a plan of one's own is read or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflect_rl.config import load_settings, parse_settings, parse_yaml, read_recipe, recipe_names
from reflect_rl.core_yaml import dump_yaml
from reflect_rl.errors import SettingsError
from reflect_rl.pipeline.gather import arm_settings
from reflect_rl.pipeline.plan import PLANS, plan_names, read_plan
from reflect_rl.settings import Settings

OWN = """
reference: plain
arms:
  plain: {title: no reflection, settings: {reflector.kind: none}}
  ours: {title: ours}
  better: {title: the better, better_of: [plain, ours]}
recipes:
  default:
    few: {title: few labels, settings: {annotate.actions: 50}, arms: [plain, ours, better]}
"""


@pytest.mark.parametrize("plan", plan_names())
def test_every_arm_of_the_librarys_plans_has_settings_that_can_be_used(plan):
    tried = 0
    told = parse_yaml((PLANS / f"{plan}.yaml").read_text())["recipes"]
    for recipe in recipe_names() if "default" in told else told:
        read = read_plan(recipe, None, None, plan)
        for regime, arms in read["chosen"].items():
            for arm in arms:
                changed = {**read["regimes"][regime]["settings"], **read["arms"][arm].get("settings", {})}
                parse_settings(read_recipe(recipe), changed)
                tried += 1
    assert tried > 0


@pytest.mark.parametrize("setting", [("policy_sft.text", "mix"), ("policy_sft.text", "own"), ("guard", True)])
def test_arms_without_a_reflector_do_without_the_settings_that_need_one(setting: tuple[str, object], tmp_path: Path):
    recipe, plan = str(tmp_path / "my.yaml"), read_plan("taxi", None, None)
    Path(recipe).write_text(dump_yaml(load_settings("taxi", dict([setting])).model_dump()))
    for overrides in (None, dict([setting])):
        read = {
            arm: Settings.model_validate(arm_settings(recipe, plan, regime, arm, 0, overrides))
            for regime, arms in plan["chosen"].items()
            for arm in arms
            if not plan["arms"][arm].get("better_of")
        }
        assert (read["sft-rl"].policy_sft.text, read["sft-rl"].guard) == ("teacher", False)
        assert setting[1] in (read["reflect-rl"].policy_sft.text, read["reflect-rl"].guard)


def test_a_plan_of_ones_own_is_read(tmp_path: Path):
    (tmp_path / "own.yaml").write_text(OWN)
    read = read_plan("taxi", None, ["ours"], tmp_path / "own.yaml")
    assert read["chosen"] == {"few": ["ours"]}
    assert read["reference"] == "plain"
    assert read["arms"]["better"]["better_of"] == ["plain", "ours"]


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("reference: plain", "reference: plane", "there is no arm plane"),
        ("better_of: [plain, ours]", "better_of: [plain, other]", "there is no arm other"),
        ("title: ours}", "title: ours, start: other}", "there is no arm other"),
        ("arms: [plain, ours, better]", "arms: plain", "recipes.default.few.arms"),
        ("title: ours", "name: ours", "arms.ours.title"),
        ("default:", "elsewhere:", "says nothing of taxi; it is for elsewhere"),
        ("better_of: [plain, ours]", "better_of: []", "the better of no arms"),
        ("title: ours}", "title: ours, start: better}", "names better in better_of or start, which trains nothing"),
        ("title: ours}", "title: ours, better_of: [better]}", "names better in better_of or start"),
        ("    few:", "    ../../few:", r"named '../../few'. Its runs have a folder"),
        ("    few:", "    'few,more':", r"named 'few,more'"),
        ("reference: plain", "reference: [", "not a readable YAML file"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_with_the_reason(tmp_path: Path, old: str, new: str, part: str):
    (tmp_path / "own.yaml").write_text(OWN.replace(old, new))
    with pytest.raises(SettingsError, match=part.replace("[", r"\[")):
        read_plan("taxi", None, None, tmp_path / "own.yaml")


def test_a_plan_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(SettingsError, match="neither a file nor one of compare, pretrained, selection"):
        read_plan("taxi", None, None, "selections")
