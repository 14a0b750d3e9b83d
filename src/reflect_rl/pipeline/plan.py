"""The plan of a comparison, in YAML: its arms, label budgets (regimes) and recipes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from reflect_rl.config import RECIPES
from reflect_rl.core_yaml import YamlError, parse_yaml
from reflect_rl.errors import SettingsError
from reflect_rl.paths import expanded
from reflect_rl.settings import Section

PLANS = RECIPES / "plans"
FOLDER = re.compile(r"[^\W_][\w.+-]*( [\w.+-]+)*")
NAMES = "letters, digits, and _ . + - or single spaces after the first"


class Arm(Section):
    """A way of training, as settings on top of the recipe's.

    better_of: trains nothing, and takes the arm among these that is best on the valid tasks. start: the arm that this
    one continues (SFT for SFT + RL); the gain over it is reported, paired by seed. Both name arms that are trained.
    """

    title: str
    settings: dict[str, Any] = Field(default_factory=dict)
    better_of: list[str] | None = None
    start: str | None = None


class Regime(Section):
    """A setting of the comparison: label budgets and other settings shared by all its arms, and these arms."""

    title: str
    settings: dict[str, Any]
    arms: list[str]


class Plan(Section):
    """A plan file. recipes: regimes by recipe, or "default" for others. reference: the arm to compare with."""

    reference: str
    references: dict[str, str] = Field(default_factory=dict)
    arms: dict[str, Arm]
    recipes: dict[str, dict[str, Regime]]

    @model_validator(mode="after")
    def _arms_exist(self) -> Plan:
        named = {self.reference, *self.references.values()}
        named |= {name for regimes in self.recipes.values() for regime in regimes.values() for name in regime.arms}
        named |= {name for arm in self.arms.values() for name in arm.better_of or ()}
        named |= {arm.start for arm in self.arms.values() if arm.start}
        if unknown := sorted(named - set(self.arms)):
            raise ValueError(f"there is no arm {', '.join(unknown)}; there are {', '.join(self.arms)}")
        return self

    @model_validator(mode="after")
    def _choices_are_of_trained_arms(self) -> Plan:
        trained = {name for name, arm in self.arms.items() if arm.better_of is None}
        for name, arm in self.arms.items():
            if arm.better_of == []:
                raise ValueError(f"the arm {name} is the better of no arms; name some in better_of, or leave it out")
            if others := sorted({*(arm.better_of or ()), *([arm.start] if arm.start else [])} - trained):
                raise ValueError(
                    f"the arm {name} names {others[0]} in better_of or start, which trains nothing itself; name arms "
                    f"that are trained"
                )
        return self

    @model_validator(mode="after")
    def _names_are_those_of_folders(self) -> Plan:
        for name in (*self.arms, *(regime for regimes in self.recipes.values() for regime in regimes)):
            if not FOLDER.fullmatch(name):
                raise ValueError(
                    f"an arm or regime is named {name!r}. Its runs have a folder of that name: give it {NAMES}"
                )
        return self


def plan_names() -> list[str]:
    """The plans included in the library."""
    return sorted(path.stem for path in PLANS.glob("*.yaml"))


def read_plan(
    recipe: str, regimes: Sequence[str] | None, arms: Sequence[str] | None, plan: str | Path = "compare"
) -> dict[str, Any]:
    """The arms and regimes of a plan, and the arms that each chosen regime runs.

    plan: one of `plan_names`, or a file. Raises SettingsError.
    """
    read = _read_file(plan)
    known = read.recipes.get(recipe, read.recipes.get("default"))
    if known is None:
        raise SettingsError(f"The plan {plan} says nothing of {recipe}; it is for {', '.join(read.recipes)}.")
    for what, wanted, there in (("regime", regimes, known), ("arm", arms, read.arms)):
        unknown = [name for name in wanted or () if name not in there]
        if unknown:
            raise SettingsError(f"There is no {what} '{unknown[0]}' for {recipe}; there are {', '.join(there)}.")
    return {
        "name": Path(plan).stem,
        "arms": {name: arm.model_dump(exclude_none=True) for name, arm in read.arms.items()},
        "regimes": {name: regime.model_dump() for name, regime in known.items()},
        "reference": read.references.get(recipe, read.reference),
        "chosen": {name: list(arms or regime.arms) for name, regime in known.items() if name in (regimes or known)},
    }


def _read_file(plan: str | Path) -> Plan:
    path = PLANS / f"{plan}.yaml" if str(plan) in plan_names() else expanded(plan)
    if not path.is_file():
        raise SettingsError(f"There is no plan '{plan}': it is neither a file nor one of {', '.join(plan_names())}.")
    try:
        return Plan.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except (OSError, YamlError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a readable YAML file: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'plan'}: {item['msg']}" for item in error.errors()[:5])
        raise SettingsError(
            f"{path} is no plan of a comparison: {wrong}. plans/compare.yaml of the library shows the form."
        ) from error
