"""Settings of training: the two SFT warm-ups, and online RL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from reflect_rl.settings.base import Section


class SftSettings(Section):
    """One supervised warm-up."""

    steps: int = Field(default=300, ge=0, description="Optimizer steps; 0 skips the warm-up.")
    batch: int = Field(default=64, ge=1, description="Examples per step.")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="'muon': Muon for the matrices inside the layers, AdamW for all other weights."
    )
    lr: float = Field(default=4e-3, gt=0, description="Peak learning rate (linear warm-up of 5 %, cosine to 0).")
    weight_decay: float = Field(default=0.1, ge=0, description="Weight decay of matrices; vectors never decay.")
    renamed: int = Field(
        default=0,
        ge=0,
        description="Copies of each example in which names are other words. They cost no labels, and help a model from "
        "scratch with names that no label has.",
    )


class ReflectorSftSettings(SftSettings):
    """The reflector's warm-up."""

    hide_reflections: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the examples in which past reflections are hidden, for prompt.reflections. A reflector "
        "that always sees the teacher's last text can learn to copy it instead of reading the state.",
    )


class PolicySftSettings(SftSettings):
    """The policy's warm-up."""

    label_smoothing: float = Field(default=0.2, ge=0, lt=1, description="Preserves the exploration that RL needs.")
    text: Literal["teacher", "own", "mix"] = Field(
        default="teacher",
        description="Reflections to read: the teacher's, the reflector's own if it is a model, or half of each.",
    )


class RlSettings(Section):
    """Online RL of the policy, with the frozen reflector in the loop."""

    iterations: int = Field(default=20, ge=0, description="0 skips RL.")
    episodes: int = Field(default=512, ge=1, description="Episodes per iteration.")
    group: int = Field(
        default=1,
        ge=1,
        description="Episodes per sampled task; baseline: task needs more than one if tasks are many.",
    )
    num_envs: int = Field(
        default=512,
        ge=1,
        description="Environments played side by side, in training and evaluation. Changes results by rounding at "
        "most, and not at all if compute.exact holds.",
    )
    algorithm: Literal["ppo", "reinforce"] = Field(
        default="ppo", description="'ppo': clipped, several passes; 'reinforce': one pass, one optimizer step."
    )
    baseline: Literal["none", "value", "state", "task"] = Field(
        default="state",
        description="'value': a learned value (GAE) that treats the horizon as a terminal state, although prompts do "
        "not show how near it is; 'state': the mean return after the same prompt; 'task': the mean return of the same "
        "task.",
    )
    gamma: float = Field(default=0.98, gt=0, le=1, description="Discount of a step.")
    gae_lambda: float = Field(default=0.95, ge=0, le=1, description="Lambda of GAE, with baseline: value.")
    clip: float = Field(default=0.2, gt=0, description="PPO's clipping range.")
    epochs: int = Field(default=2, ge=1, description="PPO's passes over an iteration's data.")
    minibatches: int = Field(default=4, ge=1, description="Optimizer steps per epoch.")
    lr: float = Field(default=5e-4, gt=0, description="Falls linearly to a tenth.")
    warmup: int = Field(
        default=1,
        ge=0,
        description="Iterations over which lr rises linearly from 0, step by step: 1 changes nothing where an "
        "iteration has one step, as with algorithm: reinforce.",
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="The global gradient norm is clipped to this.")
    entropy: float = Field(default=0.1, ge=0, description="Entropy bonus at the start; falls linearly to 0.")
    reference_kl: float = Field(
        default=0.0, ge=0, description="Weight of KL(policy || policy after SFT), which keeps RL near its start."
    )
    value_weight: float = Field(default=0.5, ge=0, description="Weight of the value loss, with baseline: value.")
    replay: int = Field(
        default=0, ge=0, description="Capacity of the success-only replay buffer (the paper: 50); 0 turns it off."
    )
    curriculum: Literal["none", "switch", "mix"] = Field(
        default="none", description="The world's easier stages: one after the other, or mixed with the full task."
    )
    validate_every: int = Field(default=5, ge=1, description="Iterations between greedy runs over the valid tasks.")
    keep: Literal["last", "best"] = Field(
        default="last",
        description="Which policy RL hands on: that of its last iteration, or the one with the highest success on the "
        "valid tasks, of those that `validate_every` measures and the one before RL; of equals, the latest.",
    )
    checkpoint_every: int = Field(default=1, ge=1, description="Iterations between checkpoints.")

    @property
    def learns_value(self) -> bool:
        """Whether the policy has a value head."""
        return self.baseline == "value"

    @model_validator(mode="before")
    @classmethod
    def _on_policy(cls, data: Any) -> Any:
        """REINFORCE makes one pass by default; asking for more is refused in `_check`."""
        is_reinforce = isinstance(data, Mapping) and data.get("algorithm") == "reinforce"
        return {"epochs": 1, **data} if is_reinforce else data

    @model_validator(mode="after")
    def _check(self) -> RlSettings:
        if self.algorithm == "reinforce" and self.epochs > 1:
            raise ValueError("reinforce is on-policy: set epochs: 1, or algorithm: ppo")
        if self.group > self.episodes:
            raise ValueError(f"group: {self.group} is more than the {self.episodes} episodes of an iteration; lower it")
        return self
