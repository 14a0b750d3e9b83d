"""The stages of a run in order, with their settings, inputs and outputs. `pipeline.stages` has their functions."""

from __future__ import annotations

from reflect_rl.runs.manifest import Stage
from reflect_rl.settings import Settings

_COMPUTE = ("compute.device", "compute.threads", "compute.exact", "compute.tokens")
_WRITING = ("kind", "model", "max_new_tokens", "batch", "decoding", "temperature", "server.model", "server.extra")
_REFLECTOR = tuple(f"reflector.{name}" for name in (*_WRITING, "warn_below"))
_WORLD = ("env.name", "env.options", "env.horizon")
"""What a world's texts depend on: not on the process it lives in."""
_PLAYERS = ("seed", *_WORLD, "prompt", "annotate.teacher", *_REFLECTOR, "policy", *_COMPUTE)
_UNTRAINED = ("reflector.kind", "reflector.model", "reflector.max_new_tokens", *_COMPUTE)
_TEACHER = tuple(
    f"teacher.{name}"
    for name in ("model", "temperature", "extra", "reflect", "act", "hint", "history", "max_words", "max_tokens")
)
"""What the teacher's texts depend on: not on where its server is, nor on limits."""
_SELECTED = ("selection.jsonl", "selection_map.jsonl")
_LOSSES = ("sft-reflector.jsonl", "sft-policy.jsonl")
_SHOWN = (*_SELECTED, "reflector.json", *_LOSSES, "metrics.jsonl", "guard.json", "results.json", "evaluation.jsonl")

STAGES = (
    Stage(
        "collect",
        settings=("seed", *_WORLD, "collect", "annotate.actions_by"),
        outputs=("episodes.jsonl",),
    ),
    Stage(
        "select",
        settings=(
            *("seed", *_WORLD, "annotate.reflections", "annotate.order", "prompt", "policy.head"),
            *("select", *_UNTRAINED),
        ),
        inputs=("episodes.jsonl",),
        outputs=_SELECTED,
        when="selects",
    ),
    Stage(
        "annotate",
        settings=("seed", *_WORLD, "annotate", *_TEACHER, "prompt", "reflector.kind", "policy.head", "select"),
        inputs=("episodes.jsonl", "selection.jsonl"),
        optional=("selection.jsonl",),
        outputs=("action_labels.jsonl", "reflections.jsonl"),
    ),
    Stage(
        "sft_reflector",
        settings=(
            *("seed", *_WORLD, "annotate.teacher", "annotate.order", "annotate.holdout", "prompt", *_REFLECTOR),
            *("reflector_sft", "policy.head", *_COMPUTE),
        ),
        inputs=("episodes.jsonl", "reflections.jsonl"),
        outputs=("reflector", "reflector.json", "sft-reflector.jsonl"),
        optional=("reflector", "sft-reflector.jsonl"),
        scratch=("checkpoints/sft-reflector",),
        parallel=True,
    ),
    Stage(
        "sft_policy",
        settings=(*_PLAYERS, "policy_sft", "rl.baseline"),
        inputs=("episodes.jsonl", "action_labels.jsonl", "reflections.jsonl", "reflector", "reflector.json"),
        outputs=("policy-sft", "sft-policy.jsonl"),
        optional=("reflector",),
        scratch=("checkpoints/sft-policy",),
        parallel=True,
    ),
    Stage(
        "rl",
        settings=(*_PLAYERS, "rl"),
        inputs=("policy-sft", "reflector"),
        outputs=("policy", "metrics.jsonl"),
        optional=("reflector",),
        scratch=("checkpoints/rl",),
        parallel=True,
    ),
    Stage(
        "guard",
        settings=(
            *(name for name in Settings.model_fields if name not in ("track", "env", "evaluate", "compute")),
            *_WORLD,
            *_COMPUTE,
        ),
        inputs=("policy", "reflector"),
        outputs=("guard.json", "no-reflection/policy"),
        optional=("reflector",),
        when="guard",
    ),
    Stage(
        "evaluate",
        settings=(*_PLAYERS, "annotate", "evaluate", "guard"),
        inputs=("policy", "reflector", "reflector.json", "action_labels.jsonl", "reflections.jsonl", "guard.json"),
        outputs=("results.json", "evaluation.jsonl"),
        optional=("reflector", "guard.json"),
        parallel=True,
    ),
    Stage(
        "report",
        settings=tuple(Settings.model_fields),
        inputs=_SHOWN,
        outputs=("report.html",),
        optional=_SHOWN,
    ),
)
