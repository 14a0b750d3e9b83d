"""A table of decisions: for each state, the reflection and the policy's action probabilities.

Prompts and reflections are kept, since reflectors are frozen. The policy's answers are kept until its weights change.
Rollout, evaluation and `Agent` all decide through this table.
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
"""Roughly what the table may hold; beyond that it is emptied, which costs time. It changes no result if `exact`."""
BYTES_AN_ACTION = 80
"""Memory of an answer per action: a float32, and a Python float with its references."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The policy's answer to one prompt.

    Attributes:
        prompt: the prompt.
        log_probs_N: float32, over the prompt's actions.
        cumulative: running sums of their probabilities, in double precision.
        value: value of the state; 0 without a value head.
    """

    prompt: Prompt
    log_probs_N: np.ndarray
    cumulative: list[float]
    value: float

    def choose(self, uniform: float | None = None) -> int:
        """The most likely action (the first of equals), or the action sampled with `uniform` from [0, 1)."""
        if uniform is None:
            return int(self.log_probs_N.argmax())
        return min(bisect_right(self.cumulative, uniform * self.cumulative[-1]), len(self.cumulative) - 1)


class Decided(NamedTuple):
    """The policy's answer in a state, and the reflection it read (None without a reflector)."""

    answer: Answer
    reflection: str | None


class Decisions:
    """The decisions of one policy with one reflector.

    Attributes:
        policy: the policy.
        reflector: the frozen reflector.
        prompts: builds the policy's prompts.
        reads_facts: whether a player reads `State.facts`.
        exact: whether results do not depend, to the bit, on what is computed together.
        seconds: time spent so far on reflections and on the policy.
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
        """Number of prompts with an answer."""
        return len(self._answers)

    def known(self, state: State, sample: int = 0) -> Decided | None:
        """The decision in this state if it needs no computation, else None."""
        key = self._key(state, sample)
        decided = self._known.get(key)
        if decided is None and (told := self._told.get(key)) is not None:
            answer = self._answers.get(told[0].text)
            if answer is not None:
                decided = self._known[key] = Decided(answer, told[1])
        return decided

    def unwritten(self, states: Sequence[State], samples: Sequence[int]) -> list[bool]:
        """Whether the reflection on each state still has to be written, which takes many forward passes."""
        keys = self._keys(states, samples)
        missing = {key: not self._at_hand(key, states[place], samples[place]) for key, place in _first(keys).items()}
        return [missing[key] for key in keys]

    def of(self, states: Sequence[State], samples: Sequence[int] | None = None) -> list[Decided]:
        """The decision in each state.

        Args:
            states: the states; repeats are allowed.
            samples: indices that distinguish several sampled reflections on one state.
        """
        samples = [0] * len(states) if samples is None else samples
        keys = self._keys(states, samples)
        first = _first(keys)
        started = time.perf_counter()
        texts = self._reflect([states[place] for place in first.values()], [samples[place] for place in first.values()])
        reflected = time.perf_counter()
        prompts = [self.prompts.policy_prompt(states[p], text) for p, text in zip(first.values(), texts, strict=True)]
        answers = {p.text: self._answers[p.text] for p in prompts if p.text in self._answers}
        fresh = {prompt.text: prompt for prompt in prompts if prompt.text not in answers}
        if fresh:
            self._decide(list(fresh.values()))  # may empty the table before it adds these
        answers |= {text: self._answers[text] for text in fresh}
        decided = {
            key: Decided(answers[prompt.text], text) for key, prompt, text in zip(first, prompts, texts, strict=True)
        }
        for key, prompt, text in zip(first, prompts, texts, strict=True):
            self._keep_told(key, prompt, text)
        self.seconds["reflect"] += reflected - started
        self.seconds["policy"] += time.perf_counter() - reflected
        return [decided[key] for key in keys]

    def decide_again(self, prompts: Sequence[Prompt]) -> Tensor:
        """log_probs_PN of distinct prompts after a weight update. All other answers are dropped.

        The new answers are kept, since the updated policy meets most of these prompts again.
        """
        self.forget()
        return self._decide(prompts) if prompts else torch.empty(0, 1)

    def _at_hand(self, key: object, state: State, sample: int) -> bool:
        """Whether the reflection is available.

        Unless exact, the memo of an earlier process does not count: it would change what is computed together, and with
        it the last bits of a resumed run.
        """
        return self.reflector.has_at_hand(state, sample) if self.exact else key in self._told

    def _key(self, state: State, sample: int) -> object | None:
        """The key of a state: equal keys, equal decisions. None with a scripted reflector, which reads the facts."""
        if isinstance(self.reflector, ScriptedReflector):
            return None
        return self.prompts.key(state), sample if self.reflector.sampled else 0

    def _keys(self, states: Sequence[State], samples: Sequence[int]) -> list[object]:
        """A key for each state; a state without a key gets its position, which is unique."""
        keys = [self._key(state, sample) for state, sample in zip(states, samples, strict=True)]
        return [place if key is None else key for place, key in enumerate(keys)]

    def _reflect(self, states: Sequence[State], samples: Sequence[int]) -> list[str | None]:
        """Write reflections in one call, or in one call per sample if decoding is sampled."""
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
        """log_probs_BN of prompts without an answer."""
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
    """The first position of each key, in order."""
    first: dict[object, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    return first
