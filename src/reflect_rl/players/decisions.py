"""Reflector and policy together, with everything that has been decided remembered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reflect_rl.lm.remembered import Remembered
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import MOST_CHARACTERS, Prompt, PromptBuilder
from reflect_rl.players.reflector import LocalReflector, Reflector, ScriptedReflector
from reflect_rl.records import State


class Read(NamedTuple):
    """Of a state: its prompt's row in the players' `met`, `log_probs`, `cumulative` and `values`; the reflection."""

    row: int
    reflection: str | None


class Players:
    """Two memories: what the policy is told in a state, which stays, and what it decides, which `forget` drops.

    reads_facts: whether what is read of a state depends on what the world tells a scripted teacher. exact: whether no
    number depends, to the bit, on what is read together.
    """

    def __init__(self, policy: Policy, reflector: Reflector, prompts: PromptBuilder) -> None:
        self.policy = policy
        self.reflector = reflector
        self.prompts = prompts
        self.reads_facts = isinstance(reflector, ScriptedReflector) or prompts.settings.notes
        written_exactly = not isinstance(reflector, LocalReflector) or reflector.exact
        self.exact = written_exactly and not policy.backbone.passes.packed
        self.seconds = {"reflect": 0.0, "policy": 0.0}
        self._told = Remembered[object, tuple[Prompt, str | None]](MOST_CHARACTERS)
        self.forget()

    def forget(self) -> None:
        """Drop what has been decided: the policy has changed."""
        self.index: dict[str, int] = {}
        self.met: list[Prompt] = []
        self.log_probs: list[np.ndarray] = []
        self.cumulative: list[list[float]] = []
        self.values: list[float] = []
        self._read: dict[object, Read] = {}
        self._openings = self.policy.openings()

    def decide_again(self, prompts: Sequence[Prompt]) -> Tensor:
        """log_probs_PN of distinct prompts by the policy as it has become; the rest is forgotten.

        Remembered, since a policy that has changed a little meets most of them again.
        """
        self.forget()
        if not prompts:
            return torch.empty(0, 1)
        return self._decide(prompts)

    def key(self, state: State, sample: int) -> object | None:
        """States with equal keys are read alike; None where the reflector reads facts, which no key tells."""
        if isinstance(self.reflector, ScriptedReflector):
            return None
        return self.prompts.key(state), sample if self.reflector.sampled else 0

    def has_at_hand(self, state: State, sample: int) -> bool:
        """Whether the reflection on a state need not be written first.

        Unless exact, a text written by an earlier process counts as not written: what is read together must not depend
        on it, lest a run that was interrupted ends with other bits.
        """
        return self.reflector.has_at_hand(state, sample) if self.exact else self.key(state, sample) in self._told

    def recall(self, key: object | None) -> Read | None:
        """What a state with this key is told, and the decision there; None if one of them is missing."""
        read = self._read.get(key)
        if read is None and (told := self._told.get(key)) is not None:
            row = self.index.get(told[0].text)
            if row is not None:
                read = self._read[key] = Read(row, told[1])
        return read

    def read(self, states: Sequence[State], sample: int = 0) -> list[Read]:
        """Reflect on the states, and have the policy decide in all of them."""
        started = time.perf_counter()
        texts = self.reflector.reflect(states, sample)
        reflected = time.perf_counter()
        prompts = [self.prompts.policy_prompt(s, text) for s, text in zip(states, texts, strict=True)]
        fresh = {prompt.text: prompt for prompt in prompts if prompt.text not in self.index}
        if fresh:
            self._decide(list(fresh.values()))
        for state, prompt, text in zip(states, prompts, texts, strict=True):
            if (key := self.key(state, sample)) is not None:
                self._told.keep(key, (prompt, text), len(prompt.text))
        self.seconds["reflect"] += reflected - started
        self.seconds["policy"] += time.perf_counter() - reflected
        return [Read(self.index[prompt.text], text) for prompt, text in zip(prompts, texts, strict=True)]

    def _decide(self, prompts: Sequence[Prompt]) -> Tensor:
        """log_probs_BN of prompts that have not been decided yet."""
        log_probs_BN, value_B = self.policy.evaluate(prompts, self._openings)
        cumulative_BN = np.exp(log_probs_BN.numpy().astype(np.float64)).cumsum(1).tolist()
        for prompt, row_N, sums, value in zip(
            prompts, log_probs_BN.numpy(), cumulative_BN, value_B.tolist(), strict=True
        ):
            self.index[prompt.text] = len(self.met)
            self.met.append(prompt)
            self.log_probs.append(row_N[: prompt.actions])
            self.cumulative.append(sums[: prompt.actions])
            self.values.append(value)
        return log_probs_BN
