"""Speed with a pretrained model and LoRA adapters, relative to a plain implementation measured in the same run.

The plain side is `bench.plain`: whole prompts in left-padded batches, with logits over the whole vocabulary and PEFT's
own layers, as the documentation of transformers and PEFT has it. Prompts are in the plain format. Both sides use the
same model, prompts and torch threads:

- evaluate: prompts/s of forward passes over the distinct prompts of some episodes of DangerousTaxi. The plain side
  reads a random sample of them.
- update: rows/s of the same prompts forward and backward, with an optimizer step.
- decision: seconds of one decision in a new state.
- iteration: environment steps/s of a whole iteration of RL in a corridor (or in `env.name`): a rollout, one pass of PPO
  and the KL after it, with nothing remembered from earlier. `iteration` is with the first number of episodes,
  `iteration_N` with N. The plain side plays and learns from PLAIN_EPISODES episodes: it reads every step anew, so its
  steps/s do not depend on their number.
- memory: peak memory of the process during the update; on a GPU, that of torch there.
- peer_iteration_N, peer_memory: the same iteration by another library (`bench.peer_trl`), which is measured with the
  first number of episodes only; for others, its steps/s are assumed to be the same.

A ratio above 1 means that ours is faster, or takes less memory. Ratios are of wall time; the plain side is measured
between or around ours, so that other load on the machine slows both. `cpu_seconds` tell what load did not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from reflect_rl.bench import floor
from reflect_rl.bench.lm_parts import (
    Sides,
    measure_decision,
    measure_evaluate,
    measure_iterations,
    measure_update,
    taxi_prompts,
)
from reflect_rl.bench.taxi import NO_GPU
from reflect_rl.config import parse_settings
from reflect_rl.errors import SettingsError
from reflect_rl.lm.models import parameter_count
from reflect_rl.lm.torch_setup import torch_set_up
from reflect_rl.progress import Progress
from reflect_rl.settings import Settings

DEFAULTS: dict[str, Any] = {
    "env.name": "reflect_rl.bench.corridor:Corridor",
    "prompt.format": "plain",
    "reflector.kind": "none",
    "policy.model.lora_rank": 8,
    "rl.epochs": 1,
    "rl.minibatches": 1,
}
Peer = Callable[[Settings, int], dict[str, Any]]
"""Measures an iteration with this many episodes; returns its figures, or {"skipped": reason}."""


def lm_settings(model: str, overrides: Mapping[str, Any], device: str | None = None) -> Settings:
    """The settings to measure: on a GPU, 16 bits unless others are set.

    Raises SettingsError for settings that the plain implementation does not support.
    """
    given = DEFAULTS | dict(overrides) | {"policy.model.source": model}
    given |= {"compute.device": device} if device else {}
    if given.get("compute.device") == "cuda":
        given = {"policy.model.bits": 16} | given
    settings = parse_settings({}, given)
    refused = {
        "reflector.kind": settings.reflector.kind != "none",
        "policy.head": settings.policy.head != "labels",
        "rl.algorithm": settings.rl.algorithm != "ppo",
        "rl.baseline": settings.rl.learns_value,
    }
    if any(refused.values()):
        keys = ", ".join(key for key, is_refused in refused.items() if is_refused)
        raise SettingsError(
            f"bench lm measures a model with the labels head and PPO, without a reflector or a value head: "
            f"that is what its plain implementation has. Leave out {keys}."
        )
    return settings


def bench_lm(
    settings: Settings, progress: Progress, episodes: Sequence[int] = (16, 256), peer: Peer | None = None
) -> dict[str, Any]:
    """Measure everything; about ten minutes with 135 million weights on one slow core. The docstring above explains it.

    settings: from `lm_settings`. episodes: the numbers of episodes of an iteration. peer: another library, measured
    with the first of them. Raises ModelError, or SettingsError if there is no such device.
    """
    started = time.perf_counter()
    bar = progress.bar("bench lm", 4 + len(episodes) + bool(peer), "parts")
    with torch_set_up(settings.compute), bar as parts:
        sides = Sides.load(settings, progress)
        prompts = taxi_prompts(sides)
        parts.update()
        measured: dict[str, Any] = {}
        for name, measure in (
            ("decision", measure_decision),
            ("evaluate", measure_evaluate),
            ("update", measure_update),
        ):
            measured[name] = measure(sides, prompts)
            parts.update()
        measured["iteration"] = measure_iterations(sides, episodes, parts)
        machine, model = floor.machine(settings.compute.device), sides.policy.model
    if peer:
        measured["peer"] = peer(settings, episodes[0])
        parts.update()
    return {
        "machine": machine,
        "model": {
            "source": settings.policy.model.source,
            "parameters": parameter_count(model),
            "trained": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
            "bits": settings.policy.model.bits,
            "forward": sides.policy.backbone.passes.mode,
        },
        "ratios": ratios_of(measured),
        **measured,
        "cuda": _about_cuda(settings.compute.device),
        "settings": settings.model_dump(),
        "seconds": time.perf_counter() - started,
    }


def ratios_of(measured: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast ours is, and how many times as small."""
    ratios = {name: measured[name]["ours"] / measured[name]["plain"] for name in ("evaluate", "update")}
    ratios["decision"] = measured["decision"]["plain"] / measured["decision"]["ours"]
    ours, theirs = measured["iteration"]["ours"], measured["iteration"]["plain"]
    names = ["iteration", *(f"iteration_{number}" for number in list(ours)[1:])]
    ratios |= {
        name: part["steps_per_s"] / theirs["steps_per_s"] for name, part in zip(names, ours.values(), strict=True)
    }
    if measured["update"]["ours_peak_mb"]:
        ratios["memory"] = measured["update"]["plain_peak_mb"] / measured["update"]["ours_peak_mb"]
    peer = measured.get("peer", {"skipped": "not asked for"})
    if "skipped" not in peer:
        ratios |= {f"peer_iteration_{n}": part["steps_per_s"] / peer["steps_per_s"] for n, part in ours.items()}
        if peer["peak_mb"]:
            ratios["peer_memory"] = peer["peak_mb"] / next(iter(ours.values()))["peak_mb"]
    return ratios


def _about_cuda(device: str) -> str:
    if device == "cuda":
        return "measured"
    return "not measured: ask for it with --device cuda" if torch.cuda.is_available() else NO_GPU


def lm_table(result: Mapping[str, Any]) -> str:
    """The results as text."""
    model, machine, peer = result["model"], result["machine"], result.get("peer")
    lines = [f"{'':22}{'ours':>10}{'other':>10}  {'':10}{'ratio':>8}", *_plain_lines(result), "", *_floor_lines(result)]
    if peer and "skipped" in peer:
        lines += ["", f"peer: not measured: {peer['skipped']}"]
    elif peer:
        lines += ["", f"{peer['library']}, the same iteration of {peer['episodes']} episodes:", *_peer_lines(result)]
    return "\n".join(
        [
            *lines,
            "",
            f"{model['source']}: {model['parameters']:,} weights, {model['trained']:,} of them trained, "
            f"{model['bits']} bits, {model['forward']}",
            f"{machine['cpus']} CPUs, {machine['threads']} threads, torch {machine['torch']}, {machine['device']}; "
            f"cuda: {result['cuda']}",
            f"{result['seconds']:.0f} seconds",
        ]
    )


def _plain_lines(result: Mapping[str, Any]) -> Iterator[str]:
    ratios, iteration, update = result["ratios"], result["iteration"], result["update"]
    for name in ("evaluate", "update", "decision"):
        part = result[name]
        yield _line(name, part["ours"], part["plain"], part["unit"], ratios[name])
    names = [name for name in ratios if name.startswith("iteration")]
    for name, (number, part) in zip(names, iteration["ours"].items(), strict=True):
        theirs = iteration["plain"]["steps_per_s"]
        yield _line(f"iteration of {number}", part["steps_per_s"], theirs, iteration["unit"], ratios[name])
    if "memory" in ratios:
        yield _line("memory", update["ours_peak_mb"], update["plain_peak_mb"], "MB", ratios["memory"])


def _floor_lines(result: Mapping[str, Any]) -> Iterator[str]:
    for name in ("evaluate", "update"):
        told = result[name]["floor"]
        share = told["share_of_matmul_floor"]
        yield (
            f"{name}: {told['tokens']:,} tokens, {told['tokens_once']:,} of them to be read; "
            f"{'no floor measured' if share is None else f'{share:.0%} of the matrix-multiplication floor'}"
        )


def _peer_lines(result: Mapping[str, Any]) -> Iterator[str]:
    peer, ours = result["peer"], result["iteration"]["ours"]
    for number, part in ours.items():
        assumed = "" if int(number) == peer["episodes"] else f"  (not measured at {number}: its rate is assumed)"
        ratio = result["ratios"][f"peer_iteration_{number}"]
        line = _line(f"iteration of {number}", part["steps_per_s"], peer["steps_per_s"], "steps/s", ratio)
        yield line + assumed
    if "peer_memory" in result["ratios"]:
        first = next(iter(ours.values()))["peak_mb"]
        yield _line("memory", first, peer["peak_mb"], "MB", result["ratios"]["peer_memory"])


def _line(name: str, ours: float, other: float, unit: str, ratio: float) -> str:
    digits = 0 if unit == "MB" else 2
    return f"{name:22}{ours:>10,.{digits}f}{other:>10,.{digits}f}  {unit:10}{ratio:>7,.1f}x"
