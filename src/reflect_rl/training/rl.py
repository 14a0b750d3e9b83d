"""Online RL of the policy with the frozen reflector in the loop: roll out, estimate advantages, fold, update.

Under `accelerate launch` or torchrun, each rank plays its share of the episodes, the rollouts are merged on all ranks,
and each rank computes the gradients of its share of a minibatch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from reflect_rl.envs.checked import tasks_of
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.players.context import Context, with_torch
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.load import load_decisions, load_policy
from reflect_rl.players.reflector import shown_on
from reflect_rl.progress import Progress
from reflect_rl.records import StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream_seed
from reflect_rl.settings import RlSettings
from reflect_rl.training.advantages import advantages
from reflect_rl.training.best import BestWeights
from reflect_rl.training.checkpoint import Checkpointer
from reflect_rl.training.curriculum import training_episodes
from reflect_rl.training.finite import finite, stopping
from reflect_rl.training.losses import fold
from reflect_rl.training.optimizer import linear_to, make_optimizer, set_lr
from reflect_rl.training.recording import Recorder
from reflect_rl.training.replay import SuccessReplay
from reflect_rl.training.rollout import EpisodeSpec, Rollout, play_together
from reflect_rl.training.tracking import open_tracker
from reflect_rl.training.update import Learner, clip_fraction, drift, replay_update, update

BEFORE = -1
"""The iteration of validation episodes that are played before RL (`rl.keep: best`)."""
FAR = 10.0
"""Standard deviations from 0 of the mean advantage, beyond which a warning says so."""


@with_torch
def rl(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Train the policy in policy-sft/; write policy/ and metrics.jsonl. Resumes from checkpoints/rl.

    Raises NonFiniteError if a loss, a gradient, a weight, a probability or a metric is not finite.
    """
    settings, part = context.settings, context.settings.rl
    policy = load_policy(run / "policy-sft", settings, adapters=True, progress=progress, bases=context.bases)
    decisions = load_decisions(run, context, policy, progress)
    optimizer = make_optimizer(policy, part.lr, weight_decay=0.0)
    reference = load_policy(run / "policy-sft", settings, bases=context.bases) if part.reference_kl else None
    ranks = context.ranks
    learner = Learner(policy, optimizer, part, settings.seed, ranks, reference)
    checkpoint = Checkpointer(run, "checkpoints/rl", policy, optimizer)
    found = checkpoint.load()
    rows: list[dict[str, Any]] = found.extra["metrics"] if found else []
    replay = SuccessReplay(part.replay, found.extra["replay"] if found else ())
    best = BestWeights(policy, found) if part.keep == "best" else None
    _announce(part, context.world.stages, progress)
    tracking = open_tracker(run, settings, rows) if ranks.first else nullcontext()
    advice = f"Lower rl.lr (it is {part.lr:g}), or scale the world's rewards to about 1, and run again."
    with (
        tracking as tracker,
        Recorder(run, context, "rl", progress) as recorder,
        progress.bar("rl", part.iterations, "iterations", done=len(rows)) as bar,
        shown_on(bar, decisions.reflector),
    ):
        if best and not rows and part.iterations:
            best.offer(0, _validate(decisions, context, recorder, BEFORE))
        for iteration in range(len(rows), part.iterations):
            with stopping("rl", "iteration", iteration + 1, checkpoint, advice):
                rows.append(_iterate(learner, context, decisions, iteration, replay, recorder, progress))
                checkpoint.check_finite()
            if best and rows[-1]["valid_success"] is not None:
                best.offer(iteration + 1, rows[-1]["valid_success"])
            if (iteration + 1) % part.checkpoint_every == 0 and not decisions.exact:
                # A run resumed here would start with an empty table too.
                decisions = Decisions(policy, decisions.reflector, decisions.prompts)
            if tracker is not None:
                tracker(rows[-1])
                run.write_jsonl("metrics.jsonl", rows)
                if (iteration + 1) % part.checkpoint_every == 0:
                    extra = {"metrics": rows, "replay": replay.to_json(), "best": best.figures() if best else None}
                    checkpoint.save(iteration + 1, best.weights if best else None, **extra)
            bar.update()
            bar.note(success=rows[-1]["success"], entropy=rows[-1]["entropy"])
    if best and rows:
        best.restore()
        progress.say(f"rl.keep: best: the policy after {best.iterations} of {len(rows)} iterations is kept.")
    if ranks.first:
        run.write_jsonl("metrics.jsonl", rows)
        policy.eval()
        with run.replacing("policy") as folder:
            policy.save(folder)
    return {
        "forward": policy.backbone.passes.mode,
        "iterations": part.iterations,
        "env_steps": sum(row["env_steps"] for row in rows),
        "forwards": sum(row["distinct_prompts"] for row in rows),
        "success": rows[-1]["success"] if rows else None,
        "lost": sum(row.get("lost", 0) for row in rows),
        "kept": best.figures() if best and rows else None,
    }


def _announce(part: RlSettings, stages: Sequence[str], progress: Progress) -> None:
    """Warn about a curriculum that cannot do what was asked for."""
    if part.curriculum != "none" and not stages:
        progress.warn(f"rl.curriculum: {part.curriculum} changes nothing: this world has no easier stages.")
    elif part.curriculum == "switch" and 0 < part.iterations <= len(stages):
        progress.warn(
            f"rl.curriculum: switch never comes to the full task in {part.iterations} iterations: there are "
            f"{len(stages)} easier stages before it. Set rl.iterations to {len(stages) + 1} or more."
        )


def _iterate(
    learner: Learner,
    context: Context,
    decisions: Decisions,
    iteration: int,
    replay: SuccessReplay,
    recorder: Recorder,
    progress: Progress,
) -> dict[str, Any]:
    """Run one iteration; return its row of metrics."""
    settings, part, world = context.settings, context.settings.rl, context.world
    set_lr(learner.optimizer, part.lr * linear_to(0.1, iteration, part.iterations))
    entropy = part.entropy * linear_to(0.0, iteration, part.iterations)
    specs = training_episodes(tasks_of(world, "train"), world.stages, part, iteration, settings.seed)
    lost_before = len(recorder.losses)
    rollout = play_together(context, decisions, specs, recorder.keep)
    recorder.add(rollout, mode="training", iteration=iteration)
    rollout.trajectories = [t for t in rollout.trajectories if t.stop is not StopReason.LOST]
    if not rollout.trajectories:
        raise EnvironmentContractError(f"All episodes of an iteration were lost. The last: {recorder.losses[-1]}")
    started = time.perf_counter()
    advantage, returns = advantages(rollout, part)
    if iteration == 0:
        _warn_of_baseline(np.concatenate(advantage), {float(g[0]) for g in returns}, part, progress)
    folded = fold(rollout, advantage, returns, settings.compute.device)
    if learner.reference is not None:
        folded = replace(folded, reference_PN=learner.reference.log_probs(rollout.prompts).to(folded.old_PN.device))
    figures = update(learner, rollout, folded, iteration, entropy)
    replay.add(rollout, part.gamma)
    replay_update(learner, replay, iteration)
    now_PN = decisions.decide_again(rollout.prompts)
    figures |= drift(folded, now_PN)
    if part.algorithm == "ppo":
        figures["clip_fraction"] = clip_fraction(rollout, now_PN, part.clip)
    for name, value in figures.items():
        finite(name, value)
    seconds = {**rollout.seconds, "update": time.perf_counter() - started}
    validate = (iteration + 1) % part.validate_every == 0 or iteration + 1 == part.iterations
    return {
        "iteration": iteration,
        **_outcome(rollout),
        **figures,
        "lr": learner.optimizer.param_groups[0]["lr"],
        "valid_success": _validate(decisions, context, recorder, iteration) if validate else None,
        "lost": len(recorder.losses) - lost_before,
        "seconds": seconds,
    }


def _warn_of_baseline(advantage: np.ndarray, outcomes: set[float], part: RlSettings, progress: Progress) -> None:
    """Warn if these advantages tell little of which action was better. outcomes: the returns of the episodes."""
    if not advantage.any() and len(outcomes) > 1:
        progress.warn(
            f"With rl.baseline: {part.baseline} nothing is learned from these returns: each is compared with itself "
            f"alone. Raise rl.group (it is {part.group}), or choose another baseline."
        )
    elif abs(mean := float(advantage.mean())) > FAR:
        progress.warn(
            f"With rl.baseline: {part.baseline} little is learned from these returns: the advantages lie around "
            f"{mean:.0f} times their standard deviation, so that better and worse actions hardly differ. Take "
            f"rl.baseline: state or task, or let the world's returns lie around 0."
        )


def _validate(decisions: Decisions, context: Context, recorder: Recorder, iteration: int) -> float:
    """Greedy success on the valid tasks."""
    tasks, seed = tasks_of(context.world, "valid"), context.settings.seed
    specs = [EpisodeSpec(task, stream_seed(seed, "valid", index)) for index, task in enumerate(tasks)]
    rollout = play_together(context, decisions, specs, recorder.keep, greedy=True)
    recorder.add(rollout, mode="validation", iteration=iteration)
    return sum(t.success for t in rollout.trajectories) / len(specs)


def _outcome(rollout: Rollout) -> dict[str, Any]:
    played = rollout.trajectories
    return {
        "episodes": len(played),
        "success": sum(t.success for t in played) / len(played),
        "return_mean": sum(sum(t.rewards) for t in played) / len(played),
        "steps_mean": rollout.steps / len(played),
        "stop_reasons": dict(sorted(Counter(str(t.stop) for t in played).items())),
        "env_steps": rollout.steps,
        "distinct_prompts": len(rollout.prompts),
    }
