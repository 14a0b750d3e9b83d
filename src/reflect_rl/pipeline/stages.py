"""The function of each stage, imported when the stage runs: `--help` and the store need none of the libraries."""

from __future__ import annotations

from reflect_rl.errors import RunFolderError
from reflect_rl.players.context import StageFunction


def stage_function(name: str) -> StageFunction:
    """The function of a stage of `runs.stages`, except the guard, which itself runs stages."""
    match name:
        case "collect":
            from reflect_rl.data.collect import collect as function
        case "select":
            from reflect_rl.data.choose_states import choose_states as function
        case "annotate":
            from reflect_rl.data.annotate import annotate as function
        case "sft_reflector":
            from reflect_rl.training.sft import sft_reflector as function
        case "sft_policy":
            from reflect_rl.training.sft import sft_policy as function
        case "rl":
            from reflect_rl.training.rl import rl as function
        case "evaluate":
            from reflect_rl.evaluation.evaluate import evaluate as function
        case "report":
            from reflect_rl.evaluation.report import report as function
        case _:
            raise RunFolderError(f"There is no stage '{name}'.")
    return function
