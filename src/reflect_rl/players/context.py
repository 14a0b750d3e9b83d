"""The context shared by all stages: what follows from the settings alone, made on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.isolated import World, open_world
from reflect_rl.lm.bases import Bases
from reflect_rl.lm.torch_setup import torch_set_up
from reflect_rl.progress import Progress
from reflect_rl.ranks import Ranks
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings


class Context:
    """The settings of a run, its world, and base models that its players share.

    The runner makes one context for all stages. rollouts: the file that episodes are written to, if any.
    """

    def __init__(self, settings: Settings, rollouts: Path | None = None) -> None:
        self.settings = settings
        self.rollouts = rollouts
        self.bases = Bases()
        self._idle: list[World] = []

    @cached_property
    def world(self) -> TextEnv:
        """An environment that is never played, for its tasks and texts."""
        return self.make_env()

    @cached_property
    def ranks(self) -> Ranks:
        """The processes that share the run."""
        compute = self.settings.compute
        return Ranks.here(compute.device == "cuda", compute.shard)

    def make_env(self) -> TextEnv:
        """An environment of the run's world with the run's horizon.

        With `env.processes` it may get the process of one that was closed, until `end_worlds`.
        """
        return open_world(self.settings.env, self._idle)

    def end_worlds(self) -> None:
        """End the processes of closed worlds."""
        while self._idle:
            self._idle.pop().end()


StageFunction = Callable[[RunFolder, Context, Progress], dict[str, Any]]
"""A stage: it reads and writes files of the run folder and returns counts for its manifest."""


def with_torch(stage: StageFunction) -> StageFunction:
    """Decorate a stage that uses torch, which is set up from the settings while the stage runs."""

    @wraps(stage)
    def set_up(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
        with torch_set_up(context.settings.compute):
            return stage(run, context, progress)

    return set_up
