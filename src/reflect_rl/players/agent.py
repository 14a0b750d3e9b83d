"""Agent: reflector and policy in one object, for use outside training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.random import Generator

from reflect_rl.errors import PromptError
from reflect_rl.players.context import Context
from reflect_rl.players.decisions import Decided
from reflect_rl.players.hub import local_folder
from reflect_rl.players.load import load_decisions
from reflect_rl.progress import Progress
from reflect_rl.records import EpisodeMemory, State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.kept_arm import finished_agent
from reflect_rl.seeding import stream


@dataclass(frozen=True, slots=True)
class Decision:
    """An agent's decision.

    Attributes:
        choice: index into the given actions.
        action: the text of that action.
        reflection: the reflector's text; None without a reflector.
        probabilities: the probability of each action, in their order; they sum to 1.
    """

    choice: int
    action: str
    reflection: str | None
    probabilities: tuple[float, ...]


class Agent:
    """A trained agent, which decides exactly as in rollout and evaluation. By default it takes the most likely action.

    An agent remembers the current episode: call `reset` between episodes. `act_batch` acts in several episodes side by
    side. Loading and acting leave the process unchanged: torch's threads and determinism, seeds and `sys.path`. Agents
    are thread-safe; concurrent calls wait for each other. Do not use an agent in a forked process: load it there.

    >>> agent = Agent.load("runs/taxi")                      # doctest: +SKIP
    >>> decision = agent.act(observation, info["actions"])   # doctest: +SKIP
    """

    def __init__(self, run: RunFolder, context: Context, progress: Progress | None = None) -> None:
        self.settings = context.settings
        self.world = context.world
        with torch.random.fork_rng(devices=[]):  # new heads draw from torch's generator before their weights load
            self._decisions = load_decisions(run, context, progress=progress)
        self._memories: list[EpisodeMemory] = []
        self._draws: list[Generator] = []
        self._lock = Lock()

    @classmethod
    def load(cls, path: str | Path, progress: Progress | None = None) -> Agent:
        """Load the agent of a finished run, or an exported one, with the settings it was trained with.

        Args:
            path: a run folder, a folder made by `reflect-rl export`, or a `user/name` on the Hugging Face hub. The
                hub is asked only if there is no folder `user` here.
            progress: is warned if config.yaml differs from those settings, or if the players have to read otherwise.

        Raises:
            RunFolderError: there is no agent, or one whose training was interrupted.
        """
        run, settings = finished_agent(local_folder(path), progress or Progress())
        return cls(run, Context(settings), progress)

    def reset(self, seeds: int | Sequence[int] | None = None) -> None:
        """Begin new episodes and forget the current ones.

        Args:
            seeds: sample actions instead of taking the most likely ones; one seed for each environment. Equal seeds
                give the same draws as in a rollout.
        """
        given = [] if seeds is None else np.atleast_1d(seeds).tolist()
        with self._lock:
            self._memories.clear()
            self._draws = [stream(seed, "choices") for seed in given]

    def act(self, observation: str, actions: Sequence[str], facts: Mapping[str, Any] | None = None) -> Decision:
        """Choose an action.

        Args:
            observation: the environment's text.
            actions: the admissible actions, as distinct texts.
            facts: the result of `TextEnv.describe`; read only by scripted reflectors and `prompt.notes`.

        Raises:
            PromptError: the arguments are invalid or do not fit into a prompt. The agent's memory is unchanged.
        """
        return self.act_batch([observation], [actions], None if facts is None else [facts])[0]

    def act_batch(
        self,
        observations: Sequence[str],
        actions: Sequence[Sequence[str]],
        facts: Sequence[Mapping[str, Any]] | None = None,
        first: Sequence[bool] | None = None,
    ) -> list[Decision]:
        """Act in several episodes side by side, in one batch.

        Args:
            observations: the texts of B environments.
            actions: the admissible actions of each environment.
            facts: for each environment, as in `act`.
            first: whether each observation begins a new episode; False by default, except after `reset`.

        Raises:
            PromptError: as in `act`, or if the number of environments changed without a `reset`.
        """
        told = [{}] * len(observations) if facts is None else facts
        begins = [False] * len(observations) if first is None else first
        if len({len(observations), len(actions), len(told), len(begins)}) > 1:
            raise PromptError(
                f"There are {len(observations)} observations, {len(actions)} lists of actions, {len(told)} facts and "
                f"{len(begins)} `first`; give one of each for every environment."
            )
        checked = [checked_input(*each) for each in zip(observations, actions, told, strict=True)]
        with self._lock:
            return self._act(checked, begins)

    def _act(self, checked: Sequence[Told], begins: Sequence[bool]) -> list[Decision]:
        if self._memories and len(checked) != len(self._memories):
            raise PromptError(
                f"The agent acts in {len(self._memories)} episodes and was given {len(checked)}. Call reset() first."
            )
        if self._draws and len(checked) != len(self._draws):
            raise PromptError(f"reset() was given {len(self._draws)} seeds for {len(checked)} environments.")
        old = self._memories or [None] * len(checked)
        memories = [
            memory if memory is not None and not new else self.new_memory()
            for memory, new in zip(old, begins, strict=True)
        ]
        states = [memory.observe(*told) for memory, told in zip(memories, checked, strict=True)]
        decided = self._decisions.of(states)
        self._memories = memories
        uniforms = [draw.random() for draw in self._draws] or [None] * len(states)
        decisions = [_decision(*each) for each in zip(states, decided, uniforms, strict=True)]
        for memory, decision in zip(memories, decisions, strict=True):
            memory.acted(decision.choice, decision.reflection)
        return decisions

    @property
    def reads_facts(self) -> bool:
        """Whether the agent reads the `facts` that it is given."""
        return self._decisions.reads_facts

    def new_memory(self) -> EpisodeMemory:
        """A memory for an episode that the caller keeps apart from the agent's own, to use with `decide`."""
        shown = self.settings.prompt
        return EpisodeMemory(shown.history, shown.reflections)

    def decide(self, states: Sequence[State]) -> list[Decision]:
        """The most likely action in each state. The agent's own memory is neither read nor changed.

        Args:
            states: states of any episodes, from `observe` of their memories; their inputs as `checked_input` gives
                them.

        Raises:
            PromptError: a state does not fit into a prompt.
        """
        with self._lock:
            return [_decision(*each) for each in zip(states, self._decisions.of(states), strict=True)]


def _decision(state: State, decided: Decided, uniform: float | None = None) -> Decision:
    choice = decided.answer.choose(uniform)
    weights = [math.exp(value) for value in decided.answer.log_probs_N.tolist()]
    total = math.fsum(weights)  # 1 in single precision, which numpy's `choice` refuses
    return Decision(choice, state.actions[choice], decided.reflection, tuple(weight / total for weight in weights))


Told = tuple[str, tuple[str, ...], Mapping[str, Any]]
"""What an agent is told of a state: the observation, the admissible actions and the facts."""


def checked_input(observation: object, actions: object, facts: object) -> Told:
    """Validate the input of `act`. Raises PromptError."""
    if not _is_text(observation):
        raise PromptError(f"The observation is {_short(observation)}; an agent reads text, without lone surrogates.")
    given = tuple(actions) if isinstance(actions, Iterable) and not isinstance(actions, str | bytes) else ()
    if not given or not all(map(_is_text, given)) or len(set(given)) < len(given):
        raise PromptError(f"The actions are {_short(actions)}; an agent chooses from a list of distinct texts.")
    if not isinstance(facts, Mapping):
        raise PromptError(f"The facts are {_short(facts)}; they are a mapping, as describe() of the world gives it.")
    return observation, given, facts


def _is_text(value: object) -> TypeGuard[str]:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
