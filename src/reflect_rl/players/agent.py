"""Agent: reflector and policy behind one call, for use outside of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.registry import make
from reflect_rl.errors import RunFolderError
from reflect_rl.players.kept import kept_arm
from reflect_rl.players.load import load_policy, load_reflector, policy_prompts
from reflect_rl.players.reflector import Reflector
from reflect_rl.progress import Progress
from reflect_rl.records import State
from reflect_rl.run_folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.trained import trained_settings


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

    >>> agent = Agent.load("runs/taxi")                      # doctest: +SKIP
    >>> decision = agent.act(observation, info["actions"])   # doctest: +SKIP
    """

    def __init__(self, run: RunFolder, settings: Settings, world: TextEnv) -> None:
        self.settings = settings
        self.world = world
        self._reflector: Reflector = load_reflector(run, settings, world)
        self._policy = load_policy(run / "policy", settings)
        self._openings = self._policy.openings()
        self._prompts = policy_prompts(self._policy, world.task_text, settings)
        self._history: list[tuple[str, str]] = []
        self._reflections: tuple[str, ...] = ()

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
        self._history.clear()
        self._reflections = ()

    def act(self, observation: str, actions: Sequence[str], facts: Mapping[str, Any] | None = None) -> Decision:
        """Choose the likeliest of `actions`. `facts` (`TextEnv.describe`) are needed by a scripted reflector and by
        `prompt.notes` only."""
        state = State(observation, tuple(actions), tuple(self._history), facts or {}, self._reflections)
        (reflection,) = self._reflector.reflect([state])
        prompt = self._prompts.policy_prompt(state, reflection)
        log_probs_N = self._policy.evaluate([prompt], self._openings)[0][0].tolist()
        choice = max(range(len(actions)), key=log_probs_N.__getitem__)
        self._history.append((observation, actions[choice]))
        self._reflections += (reflection,) if reflection is not None else ()
        return Decision(choice, actions[choice], reflection, tuple(math.exp(value) for value in log_probs_N))
