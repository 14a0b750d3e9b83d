"""Speed of rollouts and updates, relative to a plain implementation measured in the same run.

Both sides run in one process with the same models, prompts, episodes and torch threads:

- The players are the recipe's, made by the real stages: a reflector by capped SFT, so that its texts have the length of
  the teacher's; and policies with and without reflection by capped SFT and a few RL iterations, so that episodes are as
  long as in training, and the memo holds the reflections of these iterations.
- rollout_with_reflection, rollout_without_reflection: environment steps/s of whole iterations as in training
  (`rl.episodes` new episodes each), with a frozen policy. Stored reflections are kept. As after an update, the policy's
  answers are cleared after each iteration, except those to the previous iteration's prompts: training computes them for
  the KL after the update, as part of the update's time. `ours_undecided` is without these, `ours_cold` without any
  cache. The plain side plays the first PLAIN_EPISODES episodes of the same iterations as one lock-step batch;
  `plain_live_share` is the share of its rows whose episode has not ended.
- update: PPO's samples/s, where a sample is one step of an episode in one epoch. Folding and the KL after the update
  count as our time. The plain side learns from PLAIN_SAMPLES of the same samples, drawn at random.

The gated mixture and success replay are left out, since the plain implementation has neither. Both sides take turns, so
that other load on the machine slows both; figures are medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from reflect_rl.bench import floor, plain
from reflect_rl.bench.prepare import Arm, bench_settings, prepare, text_lengths, without_reflection
from reflect_rl.lm.backbone import Passes
from reflect_rl.lm.torch_setup import torch_set_up
from reflect_rl.memo import Memo
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.load import PADDED
from reflect_rl.players.policy import Policy
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.progress import Bar, Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream
from reflect_rl.settings import Settings
from reflect_rl.training.advantages import advantages
from reflect_rl.training.losses import fold
from reflect_rl.training.optimizer import make_optimizer
from reflect_rl.training.rollout import Rollout
from reflect_rl.training.update import Learner, drift, update

REPEATS = 5
"""Measurements per side."""
SHORT = 5
"""Rollouts with fewer mean steps per episode are not representative of training."""
PLAIN_EPISODES = 64
PLAIN_SAMPLES = 512
UNITS = 2 * 5 + 2 * 2 * REPEATS + REPEATS + 2
NO_GPU = "not measured: no NVIDIA GPU here"


def bench(settings_overrides: Mapping[str, Any], device: str, progress: Progress) -> dict[str, Any]:
    """Measure everything; a few minutes on two cores. The module's docstring explains the results.

    settings_overrides: sections or dotted keys that differ from the defaults. device: "cpu" or "cuda"; with "cuda", a
    randomly initialised 0.5B policy in bfloat16 is measured too. Raises SettingsError (settings that the plain
    implementation does not support, no such device) and ModelError (out of GPU memory).
    """
    started = time.perf_counter()
    settings = bench_settings(settings_overrides, device)
    parts = progress.bar("bench", UNITS, "parts")
    with torch_set_up(settings.compute), tempfile.TemporaryDirectory() as folder, parts as bar:
        arms = {
            "rollout_with_reflection": prepare(RunFolder(Path(folder) / "with"), settings, bar),
            "rollout_without_reflection": prepare(
                RunFolder(Path(folder) / "without"), without_reflection(settings), bar
            ),
        }
        texts = text_lengths(RunFolder(Path(folder) / "with"), arms["rollout_with_reflection"])
        rates, rollouts = {}, {}
        for name, arm in arms.items():
            rates[name], rollouts[name] = measure_rollouts(arm, bar)
            _warn_if_short(name, rollouts[name], progress)
        trained = arms["rollout_with_reflection"]
        rollout = rollouts["rollout_with_reflection"]
        rates["update"] = measure_update(trained, rollout, bar)
        folded = fold(rollout, *advantages(rollout, settings.rl), device)
        share = floor.measure(trained.policy, rollout, folded, settings)
        bar.update()
        large: dict[str, Any] | str = NO_GPU
        if device == "cuda":
            passes = Passes(tokens=PADDED[device])
            policy = floor.large_policy(trained.policy.tokenizer, trained.policy.labels or {}, device, passes)
            large = floor.measure(policy, rollout, folded, settings)
        elif torch.cuda.is_available():
            large = "not measured: ask for it with --device cuda"
        bar.update()
    return {
        "machine": floor.machine(device),
        "ratios": {name: rate["ours"] / rate["plain"] for name, rate in rates.items()},
        "rates": rates,
        "floor": share,
        "cuda": large,
        "texts": texts,
        "settings": settings.model_dump(),
        "seconds": time.perf_counter() - started,
    }


def _warn_if_short(name: str, rollout: Rollout, progress: Progress) -> None:
    mean = rollout.steps / len(rollout.trajectories)
    if mean < SHORT:
        progress.warn(
            f"{name}: the prepared policy's episodes end after {mean:.1f} steps on average. Trained ones last longer "
            f"and repeat more prompts, so this ratio is not representative of training."
        )


def measure_rollouts(arm: Arm, bar: Bar) -> tuple[dict[str, Any], Rollout]:
    """Environment steps/s of both sides, and our last rollout."""
    ours, undecided, theirs, live, new = [], [], [], [], []
    first = arm.settings.rl.iterations
    cold = _cold(arm, first)
    rollout = arm.play(first)
    policy = plain.PlainPolicy.of(arm.policy, arm.prompts())
    reflector = plain.PlainReflector.of(arm.local) if arm.local else None
    for iteration in range(first + 1, first + 1 + REPEATS):
        arm.decisions.decide_again(rollout.prompts)
        decided = len(arm.decisions)
        rollout, taken = _timed(arm, iteration)
        ours.append(rollout.steps / taken)
        new.append(len(arm.decisions) - decided)
        arm.decisions.forget()
        again, taken = _timed(arm, iteration + REPEATS)
        undecided.append(again.steps / taken)
        bar.update()
        specs = arm.episodes(iteration)[:PLAIN_EPISODES]
        started = time.perf_counter()
        played = plain.play(arm.context.make_env, policy, reflector, specs)
        steps = sum(len(episode.choices) for episode in played)
        theirs.append(steps / (time.perf_counter() - started))
        live.append(steps / len(played) / max(len(episode.choices) for episode in played))
        bar.update()
    return {
        "ours": statistics.median(ours),
        "plain": statistics.median(theirs),
        "unit": "steps/s",
        "ours_undecided": statistics.median(undecided),
        "ours_cold": cold,
        "ours_each": ours,
        "plain_each": theirs,
        "ours_episodes": arm.settings.rl.episodes,
        "ours_steps": rollout.steps,
        "ours_distinct_prompts": len(rollout.prompts),
        "ours_new_prompts": statistics.median(new),
        "plain_episodes": PLAIN_EPISODES,
        "plain_live_share": statistics.median(live),
    }, rollout


def _cold(arm: Arm, iteration: int) -> float:
    """Steps/s of an iteration with empty caches: no reflections, prompts or decisions."""
    fresh = None
    if arm.local:
        own = arm.local
        memo = Memo(None, own.memo.namespace)
        fresh = LocalReflector(
            own.model, own.tokenizer, own.prompts, own.settings, memo, own.seed, own.chunk, own.exact
        )
    rollout, taken = _timed(arm, iteration, Decisions(arm.policy, fresh or arm.reflector, arm.prompts()))
    return rollout.steps / taken


def _timed(arm: Arm, iteration: int, decisions: Decisions | None = None) -> tuple[Rollout, float]:
    started = time.perf_counter()
    rollout = arm.play(iteration, decisions)
    return rollout, time.perf_counter() - started


def measure_update(arm: Arm, rollout: Rollout, bar: Bar) -> dict[str, Any]:
    """Samples/s of both sides; the policy's weights are restored after each measurement."""
    settings, policy = arm.settings, arm.policy
    entropy = settings.rl.entropy
    advantage, returns = advantages(rollout, settings.rl)
    samples = plain.samples_of(rollout, advantage)
    chosen = stream(settings.seed, "bench samples").permutation(len(samples))[:PLAIN_SAMPLES]
    some = [samples[i] for i in chosen]
    reference = plain.PlainPolicy.of(policy, arm.prompts())

    def ours(optimizer: torch.optim.Optimizer) -> None:
        folded = fold(rollout, advantage, returns, settings.compute.device)
        update(Learner(policy, optimizer, settings.rl, settings.seed), rollout, folded, 0, entropy)
        drift(folded, policy.log_probs(rollout.prompts))

    def theirs(optimizer: torch.optim.Optimizer) -> None:
        plain.update(reference, optimizer, some, settings.rl, settings.seed, entropy)

    our_seconds, plain_seconds = [], []
    for _ in range(REPEATS):
        our_seconds.append(_timed_update(policy, settings, ours))
        plain_seconds.append(_timed_update(policy, settings, theirs))
        bar.update()
    epochs = settings.rl.epochs
    return {
        "ours": epochs * len(samples) / statistics.median(our_seconds),
        "plain": epochs * len(some) / statistics.median(plain_seconds),
        "unit": "samples/s",
        "ours_samples": len(samples),
        "ours_rows": len(rollout.prompts),
        "plain_samples": len(some),
        "epochs": epochs,
    }


def _timed_update(policy: Policy, settings: Settings, work: Callable[[torch.optim.Optimizer], None]) -> float:
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    optimizer = make_optimizer(policy, settings.rl.lr, weight_decay=0.0)
    taken = floor.seconds(lambda: work(optimizer), policy.device)
    policy.load_state_dict(before)
    return taken


def bench_table(result: Mapping[str, Any]) -> str:
    """The results as text."""
    lines = [f"{'':28}{'ours':>12}{'plain':>12}{'':>11}{'ratio':>9}"]
    for name, rate in result["rates"].items():
        line = f"{name.replace('_', ' '):28}{rate['ours']:>12,.0f}{rate['plain']:>12,.1f}  {rate['unit']:9}"
        lines.append(f"{line}{result['ratios'][name]:>8,.0f}x")
        for key, told in (("ours_undecided", "  nothing decided yet"), ("ours_cold", "  nothing remembered at all")):
            if key in rate:
                line = f"{told:28}{rate[key]:>12,.0f}{rate['plain']:>12,.1f}  {rate['unit']:9}"
                lines.append(f"{line}{rate[key] / rate['plain']:>8,.0f}x")
    lines += ["", *_floor_lines("policy", result["floor"])]
    lines += (
        _floor_lines("0.5B policy", result["cuda"])
        if isinstance(result["cuda"], dict)
        else [f"0.5B policy on a GPU: {result['cuda']}"]
    )
    machine = result["machine"]
    lines += [
        "",
        f"{machine['cpus']} CPUs, {machine['threads']} threads, torch {machine['torch']}, {machine['device']}",
    ]
    return "\n".join([*lines, f"{result['seconds']:.0f} seconds"])


def _floor_lines(who: str, share: Mapping[str, Any]) -> list[str]:
    return [
        f"{who} ({share['parameters']:,} weights, {share['dtype']}): {what} {share[what]['per_s']:,.0f} "
        f"{share[what]['unit']}, {share[what]['share_of_matmul_floor']:.0%} of the matrix-multiplication floor"
        for what in ("decisions", "update")
    ]
