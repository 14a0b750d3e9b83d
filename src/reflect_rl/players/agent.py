"""Agent: reflector and policy behind one call, for use outside of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeGuard

import torch

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.registry import make
from reflect_rl.errors import PromptError, RunFolderError
from reflect_rl.players.load import load_policy, load_reflector, policy_prompts
from reflect_rl.players.reflector import Reflector
from reflect_rl.progress import Progress
from reflect_rl.records import State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.kept_arm import kept_arm
from reflect_rl.runs.trained import trained_settings
from reflect_rl.settings import Settings


@dataclass(frozen=True, slots=True)
class Decision:
    """choice: index into the actions given. action: its text. reflection: what was read (None: no reflector).
    probabilities: of every action, in their order; they sum to 1."""

    choice: int
    action: str
    reflection: str | None
    probabilities: tuple[float, ...]


class Agent:
    """Acts greedily, one episode at a time; call `reset` between episodes.

    Loading and acting leave the process as it is: torch's threads and determinism, seeds and `sys.path` are the
    program's own. Any thread may call an agent; several at once wait for each other, and since an agent remembers one
    episode, episodes side by side need an agent each. Not to be used in a forked process: load it there.

    >>> agent = Agent.load("runs/taxi")                      # doctest: +SKIP
    >>> decision = agent.act(observation, info["actions"])   # doctest: +SKIP
    """

    def __init__(self, run: RunFolder, settings: Settings, world: TextEnv) -> None:
        self.settings = settings
        self.world = world
        with torch.random.fork_rng(devices=[]):  # heads draw from the program's generator before they are loaded
            self._reflector: Reflector = load_reflector(run, settings, world)
            self._policy = load_policy(run / "policy", settings)
        self._openings = self._policy.openings()
        self._prompts = policy_prompts(self._policy, world.task_text, settings)
        self._history: list[tuple[str, str]] = []
        self._reflections: tuple[str, ...] = ()
        self._lock = Lock()

    @classmethod
    def load(cls, path: str | Path, progress: Progress | None = None) -> Agent:
        """The agent of a finished run, with the settings that it was trained with.

        progress: is told where config.yaml has others. Raises RunFolderError if `path` holds no agent, or one whose
        training was interrupted.
        """
        folder = Path(path)
        if not (folder / "config.yaml").is_file() or not (folder / "policy").is_dir():
            raise RunFolderError(
                f"{folder} holds no trained agent (config.yaml and policy/). Train one, or finish what was "
                f"interrupted: reflect-rl run RECIPE --out {folder}"
            )
        settings = trained_settings(RunFolder(folder), progress or Progress())
        world = make(settings.env.name, **{"horizon": settings.env.horizon, **settings.env.options})
        return cls(*kept_arm(RunFolder(folder), settings), world)

    def reset(self) -> None:
        """A new episode begins: forget the history."""
        with self._lock:
            self._history.clear()
            self._reflections = ()

    def act(self, observation: str, actions: Sequence[str], facts: Mapping[str, Any] | None = None) -> Decision:
        """Choose the likeliest of `actions`, distinct texts. `facts` (`TextEnv.describe`) are needed by a scripted
        reflector and by `prompt.notes` only.

        Raises PromptError for what is no state, or does not fit into a prompt; the episode then stays where it is.
        """
        with self._lock:
            return self._act(*_checked(observation, actions, {} if facts is None else facts))

    def _act(self, observation: str, actions: tuple[str, ...], facts: Mapping[str, Any]) -> Decision:
        state = State(observation, actions, tuple(self._history), facts, self._reflections)
        (reflection,) = self._reflector.reflect([state])
        prompt = self._prompts.policy_prompt(state, reflection)
        log_probs_N = self._policy.evaluate([prompt], self._openings)[0][0].tolist()
        choice = max(range(len(actions)), key=log_probs_N.__getitem__)
        self._history.append((observation, actions[choice]))
        self._reflections += (reflection,) if reflection is not None else ()
        return Decision(choice, actions[choice], reflection, tuple(math.exp(value) for value in log_probs_N))


def _checked(observation: object, actions: object, facts: object) -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
    """What an agent is to act on. Raises PromptError."""
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
