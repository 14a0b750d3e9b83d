"""A whole run: all stages of a recipe, including the guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflect_rl.config import load_settings
from reflect_rl.pipeline import stages
from reflect_rl.pipeline.runner import run_stages
from reflect_rl.players.context import StageFunction
from reflect_rl.progress import Progress
from reflect_rl.ranks import Ranks
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.settings.advice import advice

TRAINS = ("sft_reflector", "sft_policy", "rl")
"""The stages with a learning rate."""


def run_pipeline(
    recipe: str | Path | Settings, out: str | Path, progress: Progress | None = None, **options: Any
) -> RunFolder:
    """Run the stages of a recipe in the folder `out`, skipping finished ones; return the run folder.

    options: passed to `runner.run_stages`, which also documents the errors.
    """
    settings = recipe if isinstance(recipe, Settings) else load_settings(recipe)
    progress, only = progress or Progress(), options.get("only") or TRAINS
    if set(only) & set(TRAINS) and Ranks.here().first:
        for sentence in advice(settings):
            progress.warn(sentence)
    return run_stages(settings, out, progress, stage_function, **options)


def stage_function(name: str) -> StageFunction:
    """The function of a stage."""
    if name != "guard":
        return stages.stage_function(name)
    from reflect_rl.pipeline.guard import guard

    return guard
