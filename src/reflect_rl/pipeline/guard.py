"""The safety net: train the arm without reflection too, and keep the better agent by the valid tasks.

With few labels a reflector can be wrong often enough to do harm. The guard cannot make reflection better, but it makes
the run never worse than doing without, up to the noise of the validation tasks. The test tasks play no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflect_rl.evaluation.evaluate import validation
from reflect_rl.pipeline.runner import run_stages
from reflect_rl.pipeline.stages import stage_function
from reflect_rl.players.context import Context, with_torch
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import CONFIG, RunFolder, set_aside
from reflect_rl.runs.kept_arm import GUARD, PLAIN_ARM, plain_settings
from reflect_rl.runs.trained import read_config
from reflect_rl.settings import Settings


@with_torch
def guard(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Train the other arm in the folder no-reflection/ of the run; write guard.json: what was kept, and why.

    Greedy success on the valid tasks decides; if it is equal, sampled success; if that is too, the reflection stays.
    """
    plain = plain_settings(context.settings)
    if (run / PLAIN_ARM / CONFIG).is_file() and not _same_pool(read_config(RunFolder(run / PLAIN_ARM)), plain):
        progress.say("guard: the arm without reflection begins anew, from the run's new pool; the former one is kept")
        set_aside(run / PLAIN_ARM, "before")
    progress.say("guard: training the arm without reflection")
    other = run_stages(plain, run / PLAIN_ARM, progress, stage_function, until="rl")
    valid = {"reflection": validation(run, context), "no-reflection": validation(other, Context(plain))}
    kept = "no-reflection" if _key(valid["no-reflection"]) > _key(valid["reflection"]) else "reflection"
    folder = PLAIN_ARM if kept == "no-reflection" else "."
    run.write_json(GUARD, {"kept": kept, "folder": folder, "valid": valid})
    progress.say(
        f"guard: kept the agent {'without' if kept == 'no-reflection' else 'with'} reflection (valid success, greedy: "
        f"{valid['reflection']['greedy']:.1%} with, {valid['no-reflection']['greedy']:.1%} without)"
    )
    return {"kept": kept}


def _same_pool(one: Settings, other: Settings) -> bool:
    return (one.seed, one.env, one.collect) == (other.seed, other.env, other.collect)


def _key(valid: Mapping[str, float]) -> tuple[float, float]:
    return valid["greedy"], valid["sampled"]
