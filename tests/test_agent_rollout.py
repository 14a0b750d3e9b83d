"""`Agent` is the rollout's player: the same episodes, the same choices, the same probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from reflect_rl.data.annotate import annotate
from reflect_rl.data.collect import collect
from reflect_rl.errors import PromptError
from reflect_rl.players.agent import Agent
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_decisions
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.rl import rl
from reflect_rl.training.rollout import EpisodeSpec, Trajectory, play_episodes
from reflect_rl.training.sft import sft_policy, sft_reflector

SHOWN = {
    "actions of the step before": {"prompt.history": 1},
    "past observations": {"prompt.history": 3, "prompt.history_shows": "steps"},
    "past reflections": {"prompt.history": 2, "prompt.reflections": 2},
    "sampled reflections": {"reflector.decoding": "sample"},
    "no reflector": {"reflector.kind": "none", "annotate.reflections": 0},
    "the teacher itself": {"reflector.kind": "scripted", "prompt.history": 2},
}


@pytest.fixture(scope="module", params=SHOWN.values(), ids=SHOWN)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Settings]
) -> tuple[RunFolder, Context]:
    few = {"collect.episodes": 20, "reflector_sft.steps": 30, "policy_sft.steps": 10, "rl.iterations": 0}
    run, context = RunFolder(tmp_path_factory.mktemp("trained")), Context(tiny(few | request.param))
    for stage in (collect, annotate, sft_reflector, sft_policy, rl):
        stage(run, context, Progress())
    return run, context


def played(run: RunFolder, context: Context, greedy: bool) -> tuple[list[Trajectory], list[list[np.ndarray]]]:
    specs = [EpisodeSpec(task, seed=100 + n) for n, task in enumerate(context.world.tasks("train")[:6])]
    rollout = play_episodes(
        context.make_env, load_decisions(run, context), specs, num_envs=4, greedy=greedy, keep=lambda number: True
    )
    return rollout.trajectories, [[rollout.log_probs_PN[row] for row in t.rows] for t in rollout.trajectories]


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
def test_an_agent_plays_the_episodes_of_a_rollout(trained: tuple[RunFolder, Context], greedy: bool) -> None:
    agent = Agent(*trained)
    for episode, log_probs in zip(*played(*trained, greedy), strict=True):
        agent.reset(None if greedy else np.int64(episode.spec.seed))
        for shown, choice, log_probs_N in zip(episode.shown, episode.choices, log_probs, strict=True):
            decision = agent.act(shown.state.observation, shown.state.actions, shown.state.facts)
            assert (decision.choice, decision.reflection) == (choice, shown.reflection)
            shares = list(map(math.exp, log_probs_N[: len(shown.state.actions)].tolist()))
            assert decision.probabilities == pytest.approx(shares, rel=1e-6)
            assert abs(math.fsum(decision.probabilities) - 1) < 1e-12  # numpy's `choice` takes them


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
def test_episodes_side_by_side_are_those_played_alone(trained: tuple[RunFolder, Context], greedy: bool) -> None:
    agent = Agent(*trained)
    episodes, _ = played(*trained, greedy)
    agent.reset(None if greedy else np.array([episode.spec.seed for episode in episodes]))
    for step in range(min(len(episode.shown) for episode in episodes)):
        states = [episode.shown[step].state for episode in episodes]
        decisions = agent.act_batch(
            [s.observation for s in states], [s.actions for s in states], [s.facts for s in states]
        )
        assert [d.choice for d in decisions] == [episode.choices[step] for episode in episodes]
        assert [d.reflection for d in decisions] == [episode.shown[step].reflection for episode in episodes]


def test_a_new_episode_in_one_environment_leaves_the_others_alone(trained: tuple[RunFolder, Context]) -> None:
    run, context = trained
    (one, *_), _ = played(run, context, greedy=True)
    agent, other = Agent(run, context), Agent(run, context)
    start = one.shown[0].state
    both = [start.observation] * 2, [start.actions] * 2, [start.facts] * 2
    agent.act_batch(*both)
    other.act(start.observation, start.actions, start.facts)
    second, first = agent.act_batch(*both, first=[False, True])
    assert first == Agent(run, context).act(start.observation, start.actions, start.facts)
    assert second == other.act(start.observation, start.actions, start.facts)


def test_environments_may_not_come_and_go(trained: tuple[RunFolder, Context]) -> None:
    run, context = trained
    (one, *_), _ = played(run, context, greedy=True)
    start = one.shown[0].state
    agent = Agent(run, context)
    agent.act(start.observation, start.actions, start.facts)
    with pytest.raises(PromptError, match=r"acts in 1 episodes and was given 2\. Call reset\(\) first"):
        agent.act_batch([start.observation] * 2, [start.actions] * 2, [start.facts] * 2)
    with pytest.raises(PromptError, match="1 observations, 2 lists of actions"):
        agent.act_batch([start.observation], [start.actions] * 2)
    agent.reset([1, 2, 3])
    with pytest.raises(PromptError, match="given 3 seeds for 1 environments"):
        agent.act(start.observation, start.actions, start.facts)
