"""Record the episodes of a stage in the file of `--rollouts`, and as rows for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reflect_rl import __version__
from reflect_rl.envs.losses import warn_of_losses
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.records import StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import wanted
from reflect_rl.runs.rollouts import RolloutFile
from reflect_rl.runs.trained import BY_NAME
from reflect_rl.training.rollout import Rollout, Trajectory


class Recorder:
    """Writes the episodes that a stage plays, if there is a `--rollouts`; warns in the end if episodes were lost.

    An episode's id is made of the stage's key and the episode's place in the stage, so an episode that is played again
    after an interruption is not written again. Only the first rank writes. losses: what happened at each loss.
    """

    def __init__(self, run: RunFolder, context: Context, stage: str, progress: Progress) -> None:
        self.on = context.rollouts is not None
        self.losses: list[str] = []
        self._given_up = 0
        self._progress = progress
        self._file: RolloutFile | None = None
        if context.rollouts is None or not context.ranks.first:
            return
        self._key = wanted(run, BY_NAME[stage], context.settings).key[:16]
        self._about = {"source": stage, "agent": run.path.resolve().name, **about_world(context)}
        self._file = RolloutFile(context.rollouts, progress)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        warn_of_losses(self._progress, self.losses, self._given_up)
        if self._file is not None:
            self._file.__exit__()

    def keep(self, number: int) -> bool:
        """Whether to keep the full steps of an episode."""
        return self.on

    def add(self, rollout: Rollout, **place: str | int) -> None:
        """Write all episodes of a rollout. place: what tells it from the stage's others, such as its iteration."""
        self.losses += [told for played in rollout.trajectories for told in played.losses]
        self._given_up += sum(played.stop is StopReason.LOST for played in rollout.trajectories)
        if self._file is None:
            return
        name = "-".join([self._key, *map(str, place.values())])
        self._file.add(
            {
                "id": f"{name}-{number}",
                **self._about,
                **place,
                "number": number,
                "stage": played.spec.stage,
                "episode_seed": played.spec.seed,
                "length": len(played.choices),
                **episode_row(played, rollout),
            }
            for number, played in enumerate(rollout.trajectories)
            if played.stop is not StopReason.LOST
        )


def about_world(context: Context) -> dict[str, Any]:
    """What an episode's record says of its world and its run."""
    settings = context.settings
    return {
        "version": __version__,
        "world": settings.env.name,
        "options": settings.env.options,
        "horizon": settings.env.horizon,
        "task_text": settings.prompt.task or context.world.task_text,
        "seed": settings.seed,
    }


def episode_row(played: Trajectory, rollout: Rollout) -> dict[str, Any]:
    """An episode whose full steps were kept, as a JSON object."""
    return {
        "task": played.spec.task,
        "stop": str(played.stop),
        "success": played.success,
        "return": sum(played.rewards),
        "steps": _steps(played, [rollout.log_probs_PN[row] for row in played.rows]),
    }


def _steps(played: Trajectory, log_probs: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            "observation": shown.state.observation,
            "actions": list(shown.state.actions),
            "choice": choice,
            "reflection": shown.reflection,
            "probabilities": [round(math.exp(value), 6) for value in row_N[: len(shown.state.actions)].tolist()],
            "log_prob": float(row_N[choice]),
            "reward": reward,
            "expert": shown.expert,
        }
        for shown, choice, reward, row_N in zip(played.shown, played.choices, played.rewards, log_probs, strict=True)
    ]
