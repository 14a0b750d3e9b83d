"""The stages of a run in order: which settings, inputs and outputs each has, and where its function is.

A stage is named as text and loaded when it runs: heavy imports wait until then, and a stage may stand above this floor.
"""

from __future__ import annotations

from reflect_rl.runs.manifest import Stage
from reflect_rl.settings import Settings

_COMPUTE = ("compute.device", "compute.threads", "compute.exact", "compute.tokens")
_PLAYERS = ("seed", "env", "prompt", "annotate.teacher", "reflector", "policy", *_COMPUTE)
_UNTRAINED = ("reflector.kind", "reflector.model", "reflector.max_new_tokens", *_COMPUTE)
_SELECTED = ("selection.jsonl", "selection_map.jsonl")
_SHOWN = (*_SELECTED, "reflector.json", "metrics.jsonl", "guard.json", "results.json", "evaluation.jsonl")

STAGES = (
    Stage(
        "collect",
        "reflect_rl.data.collect:collect",
        settings=("seed", "env", "collect"),
        outputs=("episodes.jsonl",),
    ),
    Stage(
        "select",
        "reflect_rl.data.choose_states:choose_states",
        settings=("seed", "env", "annotate.reflections", "prompt", "policy.head", "select", *_UNTRAINED),
        inputs=("episodes.jsonl",),
        outputs=_SELECTED,
        when="selects",
    ),
    Stage(
        "annotate",
        "reflect_rl.data.annotate:annotate",
        settings=("seed", "env", "annotate", "prompt", "reflector.kind", "policy.head", "select"),
        inputs=("episodes.jsonl", "selection.jsonl"),
        optional=("selection.jsonl",),
        outputs=("action_labels.jsonl", "reflections.jsonl"),
    ),
    Stage(
        "sft_reflector",
        "reflect_rl.training.sft:sft_reflector",
        settings=("seed", "env", "annotate.holdout", "prompt", "reflector", "reflector_sft", "policy.head", *_COMPUTE),
        inputs=("episodes.jsonl", "reflections.jsonl"),
        outputs=("reflector", "reflector.json"),
        optional=("reflector",),
        scratch=("checkpoints/sft-reflector", "checkpoints/sft-reflector-again"),
    ),
    Stage(
        "sft_policy",
        "reflect_rl.training.sft:sft_policy",
        settings=(*_PLAYERS, "policy_sft", "rl.baseline"),
        inputs=("episodes.jsonl", "action_labels.jsonl", "reflections.jsonl", "reflector", "reflector.json"),
        outputs=("policy-sft",),
        optional=("reflector",),
        scratch=("checkpoints/sft-policy",),
    ),
    Stage(
        "rl",
        "reflect_rl.training.rl:rl",
        settings=(*_PLAYERS, "rl"),
        inputs=("policy-sft", "reflector"),
        outputs=("policy", "metrics.jsonl"),
        optional=("reflector",),
        scratch=("checkpoints/rl",),
        parallel=True,
    ),
    Stage(
        "guard",
        "reflect_rl.pipeline.guard:guard",
        settings=(*(name for name in Settings.model_fields if name not in ("track", "evaluate", "compute")), *_COMPUTE),
        inputs=("policy", "reflector"),
        outputs=("guard.json", "no-reflection/policy"),
        optional=("reflector",),
        when="guard",
    ),
    Stage(
        "evaluate",
        "reflect_rl.evaluation.evaluate:evaluate",
        settings=(*_PLAYERS, "annotate", "evaluate", "guard"),
        inputs=("policy", "reflector", "reflector.json", "action_labels.jsonl", "reflections.jsonl", "guard.json"),
        outputs=("results.json", "evaluation.jsonl"),
        optional=("reflector", "guard.json"),
    ),
    Stage(
        "report",
        "reflect_rl.evaluation.report:report",
        settings=tuple(Settings.model_fields),
        inputs=_SHOWN,
        outputs=("report.html",),
        optional=_SHOWN,
    ),
)
