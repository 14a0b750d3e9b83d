"""A stage's key has every setting that the stage reads: otherwise outputs of other settings would be used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reflect_rl.pipeline.runner import run_stages
from reflect_rl.pipeline.stages import stage_function
from reflect_rl.players.context import Context, StageFunction
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.stages import STAGES
from reflect_rl.settings import Settings
from reflect_rl.settings.base import Section

WITHOUT_EFFECT = {
    "env.processes": "the process that a world lives in changes none of its texts",
    "compute.gradient_checkpointing": "the same numbers, computed twice",
    "compute.shard": "the same numbers on other devices",
    "track": "where figures are sent",
    "rl.num_envs": "how many episodes are played side by side",
}
ALSO_WITHOUT_EFFECT = {("sft_reflector", "policy_sft.text"): "the advice in a warning"}


@contextmanager
def recorded(settings: Settings) -> Iterator[set[str]]:
    """The dotted keys of the settings that are read meanwhile."""
    names: dict[int, str] = {}
    reads: set[str] = set()
    plain = Section.__getattribute__

    def name(section: Section, prefix: str) -> None:
        names[id(section)] = prefix
        for key in type(section).model_fields:
            if isinstance(value := getattr(section, key), Section):
                name(value, f"{prefix}{key}.")

    def read(section: Section, key: str) -> Any:
        value = plain(section, key)
        if key in type(section).model_fields and id(section) in names and not isinstance(value, Section):
            reads.add(names[id(section)] + key)
        return value

    name(settings, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Section, "__getattribute__", read)
        yield reads


@pytest.mark.parametrize(
    "changed",
    [
        {"select.strategy": "k-center", "rl.keep": "best", "reflector.decoding": "sample"},
        {"prompt.reflections": 2, "policy.gated_mixture": True, "rl.curriculum": "mix", "policy_sft.text": "mix"},
        {"policy.head": "pointer", "reflector.kind": "scripted", "rl.baseline": "value", "rl.reference_kl": 0.1},
    ],
    ids=["a strategy", "past reflections", "a scripted reflector"],
)
def test_a_stage_reads_only_settings_of_its_key(
    changed: dict[str, Any], tiny: Callable[..., Settings], tmp_path: Path
) -> None:
    short = {"reflector_sft.steps": 2, "policy_sft.steps": 2, "rl.iterations": 1, "evaluate.sampled_episodes": 1}
    settings = tiny(short | changed)
    read: dict[str, set[str]] = {}

    def function_of(name: str) -> StageFunction:
        def stage(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
            with recorded(settings) as read[name]:
                return stage_function(name)(run, context, progress)

        return stage

    run_stages(settings, tmp_path, Progress(), function_of)
    assert {"collect", "annotate", "sft_reflector", "sft_policy", "rl", "evaluate"} <= read.keys()
    assert "collect.perturb" in read["collect"]
    for stage in STAGES:
        outside = {
            key
            for key in read.get(stage.name, ())
            if not any(f"{key}.".startswith(f"{known}.") for known in stage.settings)
        }
        assert not {key for key in outside - WITHOUT_EFFECT.keys() if (stage.name, key) not in ALSO_WITHOUT_EFFECT}
