"""Replay an agent's episodes, move by move, in the same world with other options, such as another engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin
from reflect_rl.envs.registry import make
from reflect_rl.evaluation.evaluate import panel_episodes
from reflect_rl.lm.torch_setup import torch_set_up
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_decisions
from reflect_rl.records import StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.rollout import Trajectory, play_together


@dataclass(frozen=True, slots=True)
class Replayed:
    """One episode: the agent's actions, how it ended, and the first difference in the other world, if any."""

    task: str
    actions: tuple[str, ...]
    stop: StopReason
    difference: str | None


def replay(run: RunFolder, settings: Settings, options: Mapping[str, Any], most: int) -> Iterator[Replayed]:
    """Play up to `most` greedy episodes of the "test" panel, and repeat them with these options of the environment.

    Observations, action lists, rewards and the end of the episode are compared.
    """
    context = Context(settings)
    with torch_set_up(settings.compute):
        decisions = load_decisions(run, context)
        specs = panel_episodes(context.world, settings, "test", "greedy")[:most]
        rollout = play_together(context, decisions, specs, greedy=True, keep=lambda number: True)
    other = make(settings.env.name, **{**settings.env.arguments, **options})
    try:
        for played in rollout.trajectories:
            yield _again(other, played)
    finally:
        other.close()


def _again(env: TextEnv, played: Trajectory) -> Replayed:
    actions = tuple(shown.state.actions[choice] for shown, choice in zip(played.shown, played.choices, strict=True))
    difference, stop = None, None
    observation, offered, _ = begin(env, played.spec.seed, {"task": played.spec.task})
    for step, (shown, choice) in enumerate(zip(played.shown, played.choices, strict=True)):
        if stop is not None or (observation, offered) != (shown.state.observation, shown.state.actions):
            difference = f"step {step}: {observation!r} with {len(offered)} actions, not {shown.state.observation!r}"
            break
        observation, offered, reward, stop = advance(env, choice)
        if reward != played.rewards[step]:
            difference = f"step {step}: the reward {reward}, not {played.rewards[step]}"
            break
    if difference is None and stop is not played.stop:
        difference = f"the end: {stop}, not {played.stop}"
    return Replayed(played.spec.task, actions, played.stop, difference)
