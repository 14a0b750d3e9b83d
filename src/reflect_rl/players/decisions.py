"""One table of decisions: in this state, this is what the reflector says, and this is what the policy does.

What the policy is told in a state is kept, since reflectors are frozen. What it decides is kept until its weights
change. Rollout, evaluation and `Agent` ask this table and nothing else.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.players.reflector import LocalReflector, Reflector, ScriptedReflector
from reflect_rl.records import State

MOST_BYTES = 2**27
"""Roughly what the table may hold; beyond that it is emptied. Emptying it costs time and changes no result."""
BYTES_AN_ACTION = 80
"""Of an answer: a float32 and a Python float, with what points to them."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the policy does with one prompt.

    Attributes:
        prompt: the prompt.
        log_probs_N: float32, of the prompt's actions.
        cumulative: running sums of their probabilities, in double precision.
        value: of the state; 0 without a value head.
    """

    prompt: Prompt
    log_probs_N: np.ndarray
    cumulative: list[float]
    value: float

    def choose(self, uniform: float | None = None) -> int:
        """The likeliest action (the first of equals); with a number from [0, 1), the one drawn by it."""
        if uniform is None:
            return int(self.log_probs_N.argmax())
        return min(bisect_right(self.cumulative, uniform * self.cumulative[-1]), len(self.cumulative) - 1)


class Decided(NamedTuple):
    """The policy's answer in a state, and the reflection that it read there (None: there is no reflector)."""

    answer: Answer
    reflection: str | None


class Decisions:
    """The decisions of one policy with one reflector.

    Attributes:
        policy: the policy.
        reflector: the frozen reflector.
        prompts: writes the prompts of both.
        reads_facts: whether a player reads what the world tells a scripted teacher, `State.facts`.
        exact: whether no number depends, to the bit, on what is computed together.
        seconds: spent so far on reflections and on the policy.
    """

    def __init__(self, policy: Policy, reflector: Reflector, prompts: PromptBuilder) -> None:
        self.policy = policy
        self.reflector = reflector
        self.prompts = prompts
        self.reads_facts = isinstance(reflector, ScriptedReflector) or prompts.settings.notes
        written_exactly = not isinstance(reflector, LocalReflector) or reflector.exact
        self.exact = written_exactly and not policy.backbone.passes.packed
        self.seconds = {"reflect": 0.0, "policy": 0.0}
        self._told: dict[object, tuple[Prompt, str | None]] = {}
        self._told_bytes = 0
        self.forget()

    def forget(self) -> None:
        """Clear the policy's answers. Call it after every weight update."""
        self._answers: dict[str, Answer] = {}
        self._known: dict[object, Decided] = {}
        self._answer_bytes = 0

    def __len__(self) -> int:
        """Prompts with an answer."""
        return len(self._answers)

    def known(self, state: State, sample: int = 0) -> Decided | None:
        """The decision in this state if nothing has to be computed for it, else None."""
        key = self._key(state, sample)
        decided = self._known.get(key)
        if decided is None and (told := self._told.get(key)) is not None:
            answer = self._answers.get(told[0].text)
            if answer is not None:
                decided = self._known[key] = Decided(answer, told[1])
        return decided

    def unwritten(self, states: Sequence[State], samples: Sequence[int]) -> list[bool]:
        """Whether the reflection on each state has yet to be written, which takes many forward passes."""
        keys = self._keys(states, samples)
        missing = {key: not self._at_hand(key, states[place], samples[place]) for key, place in _first(keys).items()}
        return [missing[key] for key in keys]

    def of(self, states: Sequence[State], samples: Sequence[int] | None = None) -> list[Decided]:
        """The decision in each state.

        Args:
            states: the states, equal ones included.
            samples: tell apart several sampled reflections on one state.
        """
        samples = [0] * len(states) if samples is None else samples
        keys = self._keys(states, samples)
        first = _first(keys)
        started = time.perf_counter()
        texts = self._reflect([states[place] for place in first.values()], [samples[place] for place in first.values()])
        reflected = time.perf_counter()
        prompts = [self.prompts.policy_prompt(states[p], text) for p, text in zip(first.values(), texts, strict=True)]
        fresh = {prompt.text: prompt for prompt in prompts if prompt.text not in self._answers}
        if fresh:
            self._decide(list(fresh.values()))
        decided = {
            key: Decided(self._answers[prompt.text], text)
            for key, prompt, text in zip(first, prompts, texts, strict=True)
        }
        for key, prompt, text in zip(first, prompts, texts, strict=True):
            self._keep_told(key, prompt, text)
        self.seconds["reflect"] += reflected - started
        self.seconds["policy"] += time.perf_counter() - reflected
        return [decided[key] for key in keys]

    def decide_again(self, prompts: Sequence[Prompt]) -> Tensor:
        """log_probs_PN of distinct prompts after a weight update. All other answers are dropped.

        The new answers are kept: the updated policy meets most of these prompts again.
        """
        self.forget()
        return self._decide(prompts) if prompts else torch.empty(0, 1)

    def _at_hand(self, key: object, state: State, sample: int) -> bool:
        """Unless exact, what an earlier process wrote does not count: what is computed together must not depend on it,
        lest a resumed run ends with other bits."""
        return self.reflector.has_at_hand(state, sample) if self.exact else key in self._told

    def _key(self, state: State, sample: int) -> object | None:
        """States with equal keys are decided alike. None: not known, since a scripted reflector reads the facts."""
        if isinstance(self.reflector, ScriptedReflector):
            return None
        return self.prompts.key(state), sample if self.reflector.sampled else 0

    def _keys(self, states: Sequence[State], samples: Sequence[int]) -> list[object]:
        """A key for each state; where there is none, the place of the state, so that no two are alike."""
        keys = [self._key(state, sample) for state, sample in zip(states, samples, strict=True)]
        return [place if key is None else key for place, key in enumerate(keys)]

    def _reflect(self, states: Sequence[State], samples: Sequence[int]) -> list[str | None]:
        """In one call, or one a sample where that makes a difference."""
        if not self.reflector.sampled:
            return self.reflector.reflect(states)
        texts: list[str | None] = [None] * len(states)
        for sample in sorted(set(samples)):
            places = [place for place, each in enumerate(samples) if each == sample]
            written = self.reflector.reflect([states[place] for place in places], sample)
            for place, text in zip(places, written, strict=True):
                texts[place] = text
        return texts

    def _decide(self, prompts: Sequence[Prompt]) -> Tensor:
        """log_probs_BN of prompts that have no answer yet."""
        log_probs_BN, value_B = self.policy.evaluate(prompts)
        cumulative_BN = np.exp(log_probs_BN.numpy().astype(np.float64)).cumsum(1).tolist()
        needed = sum(2 * len(prompt.text) + BYTES_AN_ACTION * prompt.actions for prompt in prompts)
        if self._told_bytes + self._answer_bytes + needed > MOST_BYTES:
            self._empty()
        self._answer_bytes += needed
        for prompt, row_N, sums, value in zip(
            prompts, log_probs_BN.numpy(), cumulative_BN, value_B.tolist(), strict=True
        ):
            n = prompt.actions
            self._answers[prompt.text] = Answer(prompt, row_N[:n].copy(), sums[:n], value)
        return log_probs_BN

    def _keep_told(self, key: object, prompt: Prompt, text: str | None) -> None:
        if not isinstance(key, int) and key not in self._told:
            self._told[key] = prompt, text
            self._told_bytes += 4 * len(prompt.text)

    def _empty(self) -> None:
        for table in (self._told, self._answers, self._known):
            table.clear()
        self._told_bytes = self._answer_bytes = 0


def _first(keys: Sequence[object]) -> dict[object, int]:
    """The first place of each key, in order."""
    first: dict[object, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    return first
