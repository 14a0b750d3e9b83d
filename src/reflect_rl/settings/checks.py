"""What settings may not be together: each pair is one message that says why, and what to set."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reflect_rl.settings import Settings


def check(settings: Settings) -> None:
    """Raise ValueError for settings that cannot work together."""
    _labels(settings)
    if settings.selects and settings.select.by_model and settings.reflector.model.source == "scratch":
        raise ValueError(
            f"select.strategy: {settings.select.strategy} with select.embedding: {settings.select.embedding} asks "
            f"reflector.model before it is trained, and one from scratch knows nothing yet; set "
            f"reflector.model.source to a folder or hub name, or take random, facility-location or k-center with "
            f"select.embedding: words or cells"
        )
    if settings.reflector.kind == "local" and settings.annotate.reflections == 0:
        raise ValueError(
            "reflector.kind: local needs labels to learn from; set annotate.reflections above 0, "
            "or reflector.kind: none"
        )
    _prompted(settings)
    if settings.prompt.notes and settings.policy.head != "pointer":
        raise ValueError("prompt.notes are written on the action lines of policy.head: pointer")
    if settings.guard and settings.reflector.kind == "none":
        raise ValueError("guard compares with the arm without reflection; reflector.kind: none is that arm already")
    _compute(settings)


def _compute(settings: Settings) -> None:
    """Raise ValueError for ways to compute that the players have no use for."""
    players = [settings.policy.model, *([settings.reflector.model] if settings.reflector.is_loaded else [])]
    pretrained = [model for model in players if model.source != "scratch"]
    if settings.compute.gradient_checkpointing and not pretrained:
        raise ValueError("compute.gradient_checkpointing is for pretrained players, and both are from scratch; drop it")
    if settings.compute.shard and (not pretrained or any(not m.lora_rank or m.bits < 16 for m in pretrained)):
        raise ValueError(
            "compute.shard shares the layers of a frozen base model between processes: every pretrained player "
            "needs lora_rank above 0 and bits: 16 or 32; set them, or drop compute.shard"
        )


def _labels(settings: Settings) -> None:
    """Raise ValueError for labels that the teacher cannot give, or single states where episodes are needed."""
    if settings.served_teacher and settings.reflector.kind == "scripted":
        raise ValueError(
            "reflector.kind: scripted needs a style of the world's teacher in annotate.teacher, not 'openai'"
        )
    if settings.served_teacher and settings.annotate.distinct and settings.prompt.reflections:
        raise ValueError(
            "prompt.reflections needs the served teacher's texts on whole episodes; set annotate.distinct: false"
        )
    if settings.annotate.actions_by == "teacher" and not settings.served_teacher:
        raise ValueError("annotate.actions_by: teacher needs annotate.teacher: openai; scripted teachers only write")
    if settings.annotate.order == "states" and settings.prompt.reflections and settings.reflector.kind != "none":
        raise ValueError(
            "prompt.reflections shows the texts on an episode's earlier steps, so whole episodes are labelled; set "
            "annotate.order: episodes"
        )
    if settings.selects and settings.prompt.reflections:
        raise ValueError(
            "select picks single states, but prompt.reflections needs whole episodes to be labelled; set "
            "prompt.reflections: 0 or select.strategy: none"
        )


def _prompted(settings: Settings) -> None:
    """Raise ValueError for a prompted or served reflector without a model, or a policy that reads other texts."""
    part = settings.reflector
    if part.kind in ("served", "prompted") and part.model.source == "scratch" and not part.server.model:
        raise ValueError(
            f"reflector.kind: {part.kind} needs a model that is there; name one in reflector.server.model, or in "
            f"reflector.model.source"
        )
    if part.server.temperature:
        raise ValueError("reflector.server.temperature has no effect; set reflector.decoding: sample and temperature")
    if part.kind == "prompted" and settings.policy_sft.text != "own" and settings.policy_sft.steps:
        raise ValueError(
            "reflector.kind: prompted writes in its own words, not in the teacher's; set policy_sft.text: own"
        )
