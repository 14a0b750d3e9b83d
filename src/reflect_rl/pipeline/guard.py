"""The guard: also train the arm without reflection, and keep the agent that does better on the valid tasks.

With few labels, a reflector can be wrong often enough to do harm. The guard cannot improve reflection, but up to the
noise of validation it makes a run no worse than one without reflection. Test tasks are never used.
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
    """Train the other arm in the run's folder no-reflection/; write guard.json: which agent was kept, and why.

    Greedy success on the valid tasks decides, then sampled success; in a tie the agent with reflection is kept.
    """
    plain = plain_settings(context.settings)
    if (run / PLAIN_ARM / CONFIG).is_file() and not _same_pool(read_config(RunFolder(run / PLAIN_ARM)), plain):
        progress.say("guard: the arm without reflection begins anew, from the run's new pool; the former one is kept")
        set_aside(run / PLAIN_ARM, "before")
    progress.say("guard: training the arm without reflection")
    other = run_stages(plain, run / PLAIN_ARM, progress, stage_function, until="rl", rollouts=context.rollouts)
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
