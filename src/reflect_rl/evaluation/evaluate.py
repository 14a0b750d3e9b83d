"""Evaluate on fixed panels of tasks, greedy and sampled, with intervals, horizon and label budgets."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reflect_rl.data.pool import Label, agreement_of
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import kind_of, panels_of, taught
from reflect_rl.envs.optional import tasks_hash
from reflect_rl.envs.registry import load
from reflect_rl.intervals import wilson
from reflect_rl.lm.models import parameter_count
from reflect_rl.players.context import Context, with_torch
from reflect_rl.players.load import load_decisions
from reflect_rl.players.reflector import LocalReflector, shown_on
from reflect_rl.progress import Progress
from reflect_rl.records import Reflection, StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.kept_arm import GUARD, kept_arm
from reflect_rl.runs.manifest import option_files, total_seconds, versions
from reflect_rl.seeding import stream_seed
from reflect_rl.settings import Settings
from reflect_rl.training.recording import Recorder, episode_row
from reflect_rl.training.rollout import EpisodeSpec, Teacher, Trajectory, play_together

VALIDATION_REPEATS = 4
"""Sampled episodes per valid task for decisions such as the guard's, whatever the settings evaluate."""


@with_torch
def evaluate(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Play every panel; write results.json and evaluation.jsonl (full episodes of the test panel)."""
    started = time.perf_counter()
    settings, world = context.settings, context.world
    kept, kept_settings = kept_arm(run, settings)
    kept_context = context if kept_settings is settings else Context(kept_settings)
    decisions = load_decisions(kept, kept_context, progress=progress)
    policy, reflector = decisions.policy, decisions.reflector
    teacher = _teacher(kept_settings)
    shown: list[dict[str, Any]] = []
    panels: dict[str, Any] = {}
    seconds: dict[str, Any] = {}
    plan = [(panel, mode) for panel in panels_of(world) for mode in ("greedy", "sampled")]
    specs = {(panel, mode): panel_episodes(world, settings, panel, mode) for panel, mode in plan}
    own = sum(len(context.ranks.share(episodes)) for episodes in specs.values())
    with (
        Recorder(run, context, "evaluate", progress) as recorder,
        progress.bar("evaluate", own, "episodes") as bar,
        shown_on(bar, reflector),
    ):
        for panel, mode in plan:
            most = settings.evaluate.shown_episodes if panel == "test" else 0
            rollout = play_together(
                context,
                decisions,
                specs[panel, mode],
                keep=lambda number, most=most: number < most or recorder.on,
                greedy=mode == "greedy",
                tick=bar.update,
                teacher=teacher,
            )
            recorder.add(rollout, panel=panel, mode=mode)
            panels.setdefault(panel, {})[mode] = measured(
                rollout.trajectories, world, settings.evaluate.within, reflector.sampled
            )
            seconds.setdefault(panel, {})[mode] = round(sum(rollout.seconds.values()), 3)
            shown += [
                {"panel": panel, "mode": mode, **episode_row(t, rollout)}
                for t in rollout.trajectories[:most]
                if t.stop is not StopReason.LOST
            ]
    local = isinstance(reflector, LocalReflector)
    results = {
        "world": settings.env.name,
        "seed": settings.seed,
        "horizon": settings.env.horizon,
        **measured_on(world, settings, panels),
        "labels": label_counts(run),
        "parameters": {
            "policy": parameter_count(policy.model),
            "reflector": parameter_count(reflector.model) if local else 0,
        },
        "reflector": settings.reflector.kind,
        "agreement": run.read_json("reflector.json", agreement_of),
        "panels": panels,
        "panel_seconds": seconds,
        "guard": run.read_json(GUARD) if settings.guard else None,
        "seconds": round(sum(total_seconds(run).values()) + time.perf_counter() - started, 1),
    }
    _warn_of_a_reflector_that_fails_elsewhere(results, kept_settings, progress)
    if context.ranks.first:
        run.write_jsonl("evaluation.jsonl", shown)
        run.write_json("results.json", results)
    return {
        "forward": policy.backbone.passes.mode,
        "episodes": sum(map(len, specs.values())),
        "lost": len(recorder.losses),
    }


def _teacher(settings: Settings) -> Teacher | None:
    """The scripted teacher that a model's reflections can be compared with, if there is one."""
    world, style = load(settings.env.name), settings.annotate.teacher
    if settings.reflector.kind in ("none", "scripted") or style not in world.teachers:
        return None
    return lambda facts: taught(world, facts, style)


def _warn_of_a_reflector_that_fails_elsewhere(
    results: Mapping[str, Any], settings: Settings, progress: Progress
) -> None:
    """Warn if the reflector agreed with its teacher on held-out states of train tasks, but not in the valid tasks."""
    held, valid = results["agreement"], results["panels"]["valid"]["greedy"].get("agreement")
    if held is not None and valid and valid["share"] < settings.reflector.warn_below <= held:
        progress.warn(
            f"The reflector writes its teacher's text in {held:.0%} of the held-out states of train tasks, but in "
            f"{valid['share']:.0%} of those met in the valid tasks. If it has learned the train tasks by heart, more "
            f"train tasks help, and reflector_sft.renamed where names are new."
        )


def validation(run: RunFolder, context: Context) -> dict[str, float]:
    """Success of a run's policy on the valid tasks, greedy and sampled, as a basis for decisions."""
    decisions, settings, success = load_decisions(run, context), context.settings, {}
    for mode in ("greedy", "sampled"):
        specs = panel_episodes(context.world, settings, "valid", mode, VALIDATION_REPEATS)
        rollout = play_together(context, decisions, specs, greedy=mode == "greedy")
        success[mode] = summarise(rollout.trajectories)["success"]
    return success


def panel_episodes(
    world: TextEnv, settings: Settings, panel: str, mode: str, sampled: int | None = None
) -> list[EpisodeSpec]:
    """One greedy episode per task, or several sampled ones, each with its own seed.

    sampled: number of sampled episodes per task; by default `evaluate.sampled_episodes`.
    """
    repeats = 1 if mode == "greedy" else sampled or settings.evaluate.sampled_episodes
    tasks = panels_of(world)[panel]
    return [
        EpisodeSpec(task, stream_seed(settings.seed, f"evaluate {panel} {mode}", index, repeat), sample=repeat)
        for repeat in range(repeats)
        for index, task in enumerate(tasks)
    ]


def summarise(played: Sequence[Trajectory]) -> dict[str, Any]:
    """Episodes, success with Wilson's 95 % interval, mean undiscounted return, mean steps, stop reasons."""
    wins = sum(t.success for t in played)
    return {
        "episodes": len(played),
        "success": wins / len(played),
        "interval": wilson(wins, len(played)),
        "return_mean": math.fsum(sum(t.rewards) for t in played) / len(played),
        "steps_mean": sum(len(t.rows) for t in played) / len(played),
        "stop_reasons": dict(sorted(Counter(str(t.stop) for t in played).items())),
    }


def _agreement(played: Sequence[Trajectory], sampled: bool) -> dict[str, Any]:
    """The share of the distinct states met whose reflection is the teacher's text; {} if no teacher was asked.

    sampled: a state can have several reflections, of which wrong ones differ most, so the share is that of all steps.
    """
    steps = [pair for t in played for pair in zip(t.rows, t.agrees, strict=bool(t.agrees))]
    same = [agrees for _, agrees in steps] if sampled else [*dict(steps).values()]
    right = sum(same)
    share = {"states": len(same), "share": right / max(1, len(same)), "interval": wilson(right, len(same))}
    return {"agreement": share} if same else {}


def measured(
    played: Sequence[Trajectory], world: TextEnv, within: Sequence[int], sampled: bool = False
) -> dict[str, Any]:
    """`summarise`, also by kind of task, the reflector's agreement, and success within fewer steps if requested.

    Players do not see how many steps are left, so they would play the same with fewer: no episode is played again.
    sampled: whether reflections were.
    """
    kind = {task: kind_of(world, task) for task in {t.spec.task for t in played}}
    kinds = sorted(set(kind.values()))
    by_kind = {each: summarise([t for t in played if kind[t.spec.task] == each]) for each in kinds}
    soon = {
        str(steps): sum(t.success and len(t.rows) <= steps for t in played)
        for steps in within
        if steps <= world.horizon
    }
    return {
        **summarise(played),
        **_agreement(played, sampled),
        **({"kinds": by_kind} if len(kinds) > 1 else {}),
        **(
            {"within": {k: {"success": n / len(played), "interval": wilson(n, len(played))} for k, n in soon.items()}}
            if soon
            else {}
        ),
    }


def measured_on(world: TextEnv, settings: Settings, panels: Iterable[str]) -> dict[str, Any]:
    """What results depend on besides the agent, so that figures of two laboratories can be compared.

    options: of the world, defaults included. option_files: sha256 of the files that they name. panel_tasks: how many
    tasks each panel has, and their hash. panel_hashes: sha256 of each panel's tasks and the seeds of its greedy
    episodes. versions: of the libraries.
    """
    tasks = {name: its for name, its in panels_of(world).items() if name in set(panels)}
    defaults = {
        name: each.default
        for name, each in inspect.signature(load(settings.env.name)).parameters.items()
        if isinstance(each.default, str | int | float | None) and name not in ("horizon", "render_mode")
    }
    return {
        "options": {**defaults, **settings.env.options},
        "option_files": option_files(settings.env.options),
        "panel_tasks": {name: {"tasks": len(its), "sha256": tasks_hash(its)} for name, its in tasks.items()},
        "panel_hashes": {
            panel: hashlib.sha256(
                json.dumps(
                    [(s.task, s.seed) for s in panel_episodes(world, settings, panel, "greedy")], allow_nan=False
                ).encode()
            ).hexdigest()
            for panel in tasks
        },
        "versions": versions(),
    }


def label_counts(run: RunFolder) -> dict[str, int]:
    """The labels bought, and the distinct states among them."""
    actions = run.read_jsonl("action_labels.jsonl", Label.from_json)
    reflections = run.read_jsonl("reflections.jsonl", Reflection.from_json)
    return {
        "actions": len(actions),
        "actions_distinct": len({label.state for label in actions}),
        "reflections": len(reflections),
        "reflections_distinct": len({label.state for label in reflections}),
    }
