"""The players to benchmark: those of a recipe, made by the real stages with capped training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reflect_rl.config import parse_settings
from reflect_rl.data.annotate import annotate
from reflect_rl.data.collect import collect
from reflect_rl.errors import SettingsError
from reflect_rl.lm.text import encode
from reflect_rl.players.context import Context
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.load import load_decisions, policy_prompts
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import LocalReflector, Reflector
from reflect_rl.progress import Bar, Progress
from reflect_rl.records import Reflection, State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.curriculum import training_episodes
from reflect_rl.training.rl import rl
from reflect_rl.training.rollout import EpisodeSpec, Rollout, play_episodes
from reflect_rl.training.sft import sft_policy, sft_reflector

MOST_REFLECTOR_STEPS = 600
MOST_POLICY_STEPS = 400
MOST_ITERATIONS = 8
"""Caps of the preparation: enough for texts as long as the teacher's, and episodes about as long as in mid-training.
With a worse reflector, the policy learns to end its episodes at once, which is no useful rollout.
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """The players of one arm, ready to measure."""

    context: Context
    decisions: Decisions

    @property
    def settings(self) -> Settings:
        return self.context.settings

    @property
    def policy(self) -> Policy:
        return self.decisions.policy

    @property
    def reflector(self) -> Reflector:
        return self.decisions.reflector

    @property
    def local(self) -> LocalReflector | None:
        return self.reflector if isinstance(self.reflector, LocalReflector) else None

    def episodes(self, iteration: int) -> list[EpisodeSpec]:
        """The episodes of one training iteration."""
        return training_episodes(self.context.world.tasks("train"), (), self.settings.rl, iteration, self.settings.seed)

    def prompts(self) -> PromptBuilder:
        """A new builder of the policy's prompts."""
        return policy_prompts(self.policy, self.context)

    def play(self, iteration: int, decisions: Decisions | None = None) -> Rollout:
        """The rollout of one training iteration. decisions: used instead of the arm's own."""
        decisions = self.decisions if decisions is None else decisions
        return play_episodes(self.context.make_env, decisions, self.episodes(iteration), self.settings.rl.num_envs)


def bench_settings(overrides: Mapping[str, Any], device: str) -> Settings:
    """The settings to measure, with capped preparation. Raises SettingsError."""
    if device not in ("cpu", "cuda"):
        raise SettingsError(f"The benchmark cannot run on '{device}'; it measures cpu or cuda.")
    given = parse_settings({}, overrides)
    refused = {
        "reflector.kind": given.reflector.kind != "local",
        "reflector.decoding": given.reflector.decoding != "greedy",
        "policy.head": given.policy.head != "labels",
        "rl.algorithm": given.rl.algorithm != "ppo",
        "rl.baseline": given.rl.learns_value,
    }
    if any(refused.values()):
        keys = ", ".join(key for key, is_refused in refused.items() if is_refused)
        raise SettingsError(
            f"The plain implementation that the benchmark compares with has greedy local reflections, the labels head "
            f"and PPO without a value head only. Leave out {keys}."
        )
    capped: dict[str, Any] = {
        "reflector_sft.steps": min(given.reflector_sft.steps, MOST_REFLECTOR_STEPS),
        "policy_sft.steps": min(given.policy_sft.steps, MOST_POLICY_STEPS),
        "rl.iterations": min(given.rl.iterations, MOST_ITERATIONS),
        "rl.validate_every": MOST_ITERATIONS,
    }
    fixed = {"compute.device": device, "track": "none", "guard": False, "policy.gated_mixture": False, "rl.replay": 0}
    return parse_settings(given.model_dump(), fixed | capped)


def without_reflection(settings: Settings) -> Settings:
    """The settings of the arm without a reflector."""
    return parse_settings(settings.model_dump(), {"reflector.kind": "none", "policy_sft.text": "teacher"})


def prepare(run: RunFolder, settings: Settings, bar: Bar) -> Arm:
    """Make the players with the real stages, in their own folder; takes five parts of the bar."""
    run.path.mkdir(parents=True, exist_ok=True)
    context = Context(settings)
    for stage in (collect, annotate, sft_reflector, sft_policy, rl):
        stage(run, context, Progress())
        bar.update()
    return Arm(context, load_decisions(run, context))


def text_lengths(run: RunFolder, arm: Arm) -> dict[str, float]:
    """Mean tokens of the teacher's and the reflector's texts, which determine the time of `generate`."""
    assert arm.local is not None
    teacher = [label.text for label in run.read_jsonl("reflections.jsonl", Reflection.from_json)]
    states = []
    for task in arm.context.world.tasks("valid"):
        observation, info = arm.context.world.reset(seed=0, options={"task": task})
        states.append(State(observation, info["actions"]))
    own = [text or "" for text in arm.local.reflect(states)]
    tokenizer = arm.local.tokenizer
    mean = {
        name: statistics.fmean(len(encode(tokenizer, text)) for text in texts)
        for name, texts in (("teacher", teacher), ("reflector", own))
    }
    return {f"{name}_tokens_mean": value for name, value in mean.items()}
