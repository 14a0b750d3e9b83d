"""Settings that are allowed but hardly meant."""

from __future__ import annotations

from reflect_rl.settings import ModelSettings, Settings

MOST_LORA, MOST_FULL = 2e-3, 1e-4
"""Learning rates above these disturb a pretrained model; those of small models from scratch are higher."""


def advice(settings: Settings) -> list[str]:
    """A sentence about each learning rate of a model from scratch that is used on a pretrained one."""
    policy = settings.policy.model
    rates = [("policy_sft", settings.policy_sft.lr, policy), ("rl", settings.rl.lr, policy)]
    if settings.reflector.kind == "local":
        rates.insert(0, ("reflector_sft", settings.reflector_sft.lr, settings.reflector.model))
    return [
        f"{name}.lr is {lr:g}, a rate for small models from scratch, and {part.source} is pretrained: up to "
        f"{_most(part):g} is usual {'with adapters' if part.lora_rank else 'for all weights'}. See the recipe taxi-lm."
        for name, lr, part in rates
        if part.source != "scratch" and lr > _most(part)
    ]


def _most(part: ModelSettings) -> float:
    return MOST_LORA if part.lora_rank else MOST_FULL
