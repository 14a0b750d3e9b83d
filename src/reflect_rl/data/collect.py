"""Collect: perturbed expert trajectories form the pool of states.

A perturbed step takes a uniformly random action (a negative example), so the trajectory goes wrong and has to recover.
The recorded `expert` action is always what the expert would do in that state, never the perturbation. If the expert
considers several actions equally good, one is drawn and all are recorded. An episode ends early if the expert knows no
way on. With `annotate.actions_by: teacher`, a world needs no expert: where there is none, every step is random. Method:
Reflect-RL's negative example generation.
"""

from __future__ import annotations

from typing import Any

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, all_tasks, begin, check_horizon, expert_choices, facts_of, opened
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.records import Episode, Step, StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream, stream_seed
from reflect_rl.settings import Settings


def collect(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Write episodes.jsonl. Raises EnvironmentContractError if the world has no expert or breaks its contract."""
    settings, episodes = context.settings, []
    with opened(context.make_env) as make_one:
        env = make_one()
        tasks = all_tasks(env)["train"]
        order = stream(settings.seed, "collect tasks").permutation(len(tasks))
        with progress.bar("collect", settings.collect.episodes, "episodes") as bar:
            for index in range(settings.collect.episodes):
                task = tasks[order[index % len(tasks)]]
                episodes.append(_episode(env, task, index, settings))
                bar.update()
    run.write_jsonl("episodes.jsonl", (episode.to_json() for episode in episodes))
    steps = [step for episode in episodes for step in episode.steps]
    return {
        "episodes": len(episodes),
        "steps": len(steps),
        "perturbed_steps": sum(step.perturbed for step in steps),
        "successes": sum(episode.success for episode in episodes),
        "distinct_observations": len({step.observation for step in steps}),
    }


def _episode(env: TextEnv, task: str, index: int, settings: Settings) -> Episode:
    seed, needed = settings.seed, settings.annotate.actions_by == "expert"
    random = stream(seed, "collect", index)
    observation, actions, _ = begin(env, stream_seed(seed, "collect env", index), {"task": task})
    steps: list[Step] = []
    stop, horizon = None, env.horizon
    while stop is None:
        check_horizon(env, len(steps), horizon, task)
        experts = expert_choices(env, actions)
        if not experts and needed and steps:
            return Episode(task, tuple(steps), StopReason.FAILURE)
        if not experts and needed:
            raise EnvironmentContractError(
                f"{type(env).__name__}.expert() gave nothing at the start of task {task}: collecting needs an expert. "
                f"Write one; or let a served teacher label actions (annotate.actions_by: teacher); or put episodes of "
                f"your own into episodes.jsonl and start with `reflect-rl annotate`."
            )
        expert = (
            None if not experts else experts[0] if len(experts) == 1 else int(experts[random.integers(len(experts))])
        )
        drawn = random.random() < settings.collect.perturb or expert is None
        choice = expert if expert is not None and not drawn else int(random.integers(len(actions)))
        facts, before, offered = facts_of(env), observation, actions
        observation, actions, reward, stop = advance(env, choice)
        steps.append(Step(before, offered, choice, reward, expert, drawn, facts, experts))
    return Episode(task, tuple(steps), stop)
