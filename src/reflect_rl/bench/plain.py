"""The plain implementation for comparison: what one writes first with `transformers`.

A batch of environments moves in lock-step and stays whole until its slowest episode has ended. At every step, the
reflector writes a text for each row with `generate`, and the policy computes logits for every position and the whole
vocabulary from left-padded prompts; then the label columns of the last position are selected. The update forwards one
row per step played. Nothing is cached or shared between rows.

It is also a reference: with the same prompts, random numbers and PPO objective as the library, it plays the same
episodes and has the same gradient, which tests check. It supports only the labels head, greedy reflections and no value
head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reflect_rl.envs.base import TextEnv
from reflect_rl.lm.text import opening_ids
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.records import EpisodeMemory, State
from reflect_rl.seeding import stream, world_seed
from reflect_rl.settings import RlSettings
from reflect_rl.training.optimizer import clip_and_step
from reflect_rl.training.rollout import EpisodeSpec, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class PlainReflector:
    """Writes a reflection for every row with `generate`, greedily, at every call."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptBuilder
    max_new_tokens: int

    @classmethod
    def of(cls, reflector: LocalReflector) -> PlainReflector:
        """The model, prompts and length limit of the library's reflector."""
        return cls(reflector.model, reflector.tokenizer, reflector.prompts, reflector.settings.max_new_tokens)

    @torch.no_grad()
    def reflect(self, states: Sequence[State]) -> list[str]:
        inputs = pad_left(self.tokenizer, [self.prompts.reflector_prompt(state).text for state in states])
        length = inputs["input_ids"].shape[1]
        room = self.model.config.max_position_embeddings - length
        ids_BL = self.model.generate(  # type: ignore[operator]
            **inputs.to(self.model.device),
            do_sample=False,
            max_new_tokens=min(self.max_new_tokens, room),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        texts = self.tokenizer.batch_decode(ids_BL[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts]


@dataclass(frozen=True, slots=True)
class PlainPolicy:
    """A full forward pass with full logits, of which the label columns are used.

    most_rows: maximum rows of a forward and backward pass; larger minibatches accumulate gradients.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label_ids: Tensor
    prompts: PromptBuilder
    most_rows: int = 64

    @classmethod
    def of(cls, policy: Policy, prompts: PromptBuilder, most_rows: int = 64) -> PlainPolicy:
        """The model, labels and prompts of the library's policy."""
        return cls(policy.model, policy.tokenizer, policy.label_ids, prompts, most_rows)  # type: ignore[arg-type]

    def log_probs(self, prompts: Sequence[Prompt]) -> Tensor:
        """log_probs_BN with gradients: float32, -inf beyond a row's actions; N is the longest action list."""
        inputs = pad_left(self.tokenizer, [prompt.text for prompt in prompts]).to(self.model.device)
        places_BL = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits_BLV = self.model(**inputs, position_ids=places_BL, use_cache=False).logits
        actions_B = torch.tensor([prompt.actions for prompt in prompts], device=logits_BLV.device)
        width = int(actions_B.max())
        logits_BN = logits_BLV[:, -1, self.label_ids[:width]].float()
        beyond = torch.arange(width, device=logits_BN.device) >= actions_B[:, None]
        return logits_BN.masked_fill(beyond, -torch.inf).log_softmax(-1)


def pad_left(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Any:
    """input_ids_BL and attention_mask_BL."""
    return tokenizer(
        list(texts),
        padding=True,
        padding_side="left",
        add_special_tokens=bool(opening_ids(tokenizer)),
        split_special_tokens=True,
        return_token_type_ids=False,
        return_tensors="pt",
    )


@dataclass(slots=True)
class PlainEpisode:
    """An episode in progress. choices: the actions taken. rewards: their rewards."""

    env: TextEnv
    observation: str
    actions: tuple[str, ...]
    uniforms: np.ndarray
    memory: EpisodeMemory = field(default_factory=EpisodeMemory)
    choices: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ended: bool = False

    @classmethod
    def begin(cls, env: TextEnv, spec: EpisodeSpec) -> PlainEpisode:
        options = {"task": spec.task} | ({"stage": spec.stage} if spec.stage else {})
        observation, info = env.reset(seed=world_seed(spec.seed), options=options)
        return cls(env, observation, info["actions"], stream(spec.seed, "choices").random(env.horizon))

    def step(self, log_probs_N: np.ndarray) -> None:
        """Sample an action and take it; does nothing once the episode has ended."""
        if self.ended:
            return
        cumulative_N = np.exp(log_probs_N[: len(self.actions)].astype(np.float64)).cumsum()
        uniform = self.uniforms[len(self.choices)] * cumulative_N[-1]
        choice = min(int(cumulative_N.searchsorted(uniform, side="right")), len(cumulative_N) - 1)
        self.memory.acted(choice)
        self.choices.append(choice)
        self.observation, reward, terminated, truncated, info = self.env.step(choice)
        self.rewards.append(float(reward))
        self.actions = info["actions"]
        self.ended = terminated or truncated


@torch.no_grad()
def play(
    make_env: Callable[[], TextEnv], policy: PlainPolicy, reflector: PlainReflector | None, specs: Sequence[EpisodeSpec]
) -> list[PlainEpisode]:
    """Play all specs as one lock-step batch: every step forwards every row, even if its episode has ended."""
    episodes = [PlainEpisode.begin(make_env(), spec) for spec in specs]
    while not all(episode.ended for episode in episodes):
        states = [e.memory.observe(e.observation, e.actions) for e in episodes]
        texts = reflector.reflect(states) if reflector else [None] * len(states)
        prompts = [policy.prompts.policy_prompt(state, text) for state, text in zip(states, texts, strict=True)]
        log_probs_BN = policy.log_probs(prompts).cpu().numpy()
        for episode, log_probs_N in zip(episodes, log_probs_BN, strict=True):
            episode.step(log_probs_N)
    for episode in episodes:
        episode.env.close()
    return episodes


@dataclass(frozen=True, slots=True)
class Sample:
    """One step to learn from. old_N: the log-probabilities from which the action was sampled."""

    prompt: Prompt
    choice: int
    old_N: np.ndarray
    advantage: float


def samples_of(rollout: Rollout, advantages: Sequence[np.ndarray]) -> list[Sample]:
    """One sample per step, from a rollout of the library and its advantages."""
    return [
        Sample(rollout.prompts[row], choice, rollout.log_probs_PN[row], float(advantage))
        for trajectory, values in zip(rollout.trajectories, advantages, strict=True)
        for row, choice, advantage in zip(trajectory.rows, trajectory.choices, values, strict=True)
    ]


def update(
    policy: PlainPolicy,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    settings: RlSettings,
    seed: int,
    entropy: float,
) -> None:
    """All epochs of PPO over the samples (Schulman et al. 2017, eq. 7), one row per sample."""
    for epoch in range(settings.epochs):
        order = stream(seed, "plain minibatches", epoch).permutation(len(samples))
        for chosen in np.array_split(order, settings.minibatches):
            for start in range(0, len(chosen), policy.most_rows):
                part = [samples[i] for i in chosen[start : start + policy.most_rows]]
                (ppo_loss(policy, part, settings.clip, entropy) * len(part) / len(chosen)).backward()
            clip_and_step(optimizer, policy.model.parameters(), settings.max_grad_norm)


def ppo_loss(policy: PlainPolicy, samples: Sequence[Sample], clip: float, entropy: float) -> Tensor:
    """Clipped surrogate and entropy bonus, averaged over the samples."""
    log_probs_BN = policy.log_probs([sample.prompt for sample in samples])
    device, rows_B = log_probs_BN.device, torch.arange(len(samples))
    choice_B = torch.tensor([sample.choice for sample in samples], device=device)
    old_B = torch.tensor([float(sample.old_N[sample.choice]) for sample in samples], device=device)
    advantage_B = torch.tensor([sample.advantage for sample in samples], device=device)
    ratio_B = (log_probs_BN[rows_B, choice_B] - old_B).exp()
    gain_B = torch.minimum(ratio_B * advantage_B, ratio_B.clamp(1 - clip, 1 + clip) * advantage_B)
    finite_BN = log_probs_BN.masked_fill(torch.isinf(log_probs_BN), 0.0)
    entropy_B = -(log_probs_BN.exp() * finite_BN).sum(-1)
    return -(gain_B + entropy * entropy_B).mean()
