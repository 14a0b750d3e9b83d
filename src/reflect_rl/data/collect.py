"""Collect: perturbed expert trajectories form the pool of states.

A perturbed step takes a uniformly random action (a negative example), so the trajectory goes wrong and has to recover.
The recorded `expert` action is always what the expert would do in that state, never the perturbation. If the expert
considers several actions equally good, one is drawn and all are recorded. An episode ends early if the expert knows no
way on. With `annotate.actions_by: teacher`, a world needs no expert: where there is none, every step is random. With
`collect.file`, nothing is played. Method: Reflect-RL's negative example generation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflect_rl.data.pool import parse_episode
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, all_tasks, begin, check_horizon, expert_choices, facts_of, opened
from reflect_rl.envs.isolated import side_by_side
from reflect_rl.envs.losses import TRIES, Losses, seed_of, warn_of_losses
from reflect_rl.envs.registry import load
from reflect_rl.errors import EnvironmentContractError, RunFolderError, WorldLostError
from reflect_rl.paths import expanded
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.records import Episode, Step, StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream, stream_seed
from reflect_rl.settings import Settings


def collect(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    """Write episodes.jsonl: played, or those of `collect.file`.

    Raises EnvironmentContractError: the world has no expert, breaks its contract, or loses one episode after the other.
    RunFolderError: the file is missing, damaged or empty, has no action of an expert where one has to label, or plays a
    task of the valid or test split.
    """
    losses = Losses()
    if file := context.settings.collect.file:
        episodes = _given(expanded(file), context)
    else:
        episodes = _played(context, progress, losses)
    run.write_jsonl("episodes.jsonl", (episode.to_json() for episode in episodes))
    steps = [step for episode in episodes for step in episode.steps]
    return {
        "episodes": len(episodes),
        "steps": len(steps),
        "perturbed_steps": sum(step.perturbed for step in steps),
        "successes": sum(episode.success for episode in episodes),
        "distinct_observations": len({step.observation for step in steps}),
        "lost": len(losses.told),
    }


def _given(file: Path, context: Context) -> list[Episode]:
    if not file.is_file():
        raise RunFolderError(f"{file} (collect.file) is no file. It has an episode on each line: docs/files.md.")
    episodes = list(RunFolder(file.parent).each_of_jsonl(file.name, parse_episode, "leave it out"))
    if not any(episode.steps for episode in episodes):
        raise RunFolderError(f"{file} holds no step. Each line is an episode with its steps: docs/files.md.")
    labelled = any(step.expert is not None for episode in episodes for step in episode.steps)
    if context.settings.annotate.actions_by == "expert" and not labelled:
        raise RunFolderError(
            f"No step of {file} has an 'expert', the index of a best action, so there is no action to learn from. "
            f"Add it, or let a served teacher label actions (annotate.actions_by: teacher)."
        )
    tasks = all_tasks(context.world)
    for number, episode in enumerate(episodes, 1):
        for split in ("valid", "test"):
            if episode.task in tasks[split]:
                raise RunFolderError(
                    f"Episode {number} of {file} plays the task {episode.task}, which is kept for {split}: the players "
                    f"would learn what they are measured on. Leave such episodes out."
                )
    return episodes


def _played(context: Context, progress: Progress, losses: Losses) -> list[Episode]:
    settings, episodes = context.settings, list[Episode]()
    count, processes = settings.collect.episodes, settings.env.processes
    with opened(context.make_env) as make_one, side_by_side(processes) as each:
        free = [make_one() for _ in range(min(count, max(1, processes)))]
        tasks = all_tasks(free[0])["train"]
        order = stream(settings.seed, "collect tasks").permutation(len(tasks))

        def collected(index: int) -> Episode | None:
            env = free.pop()
            try:
                return _tried(env, tasks[order[index % len(tasks)]], index, settings, losses)
            finally:
                free.append(env)

        with progress.bar("collect", count, "episodes") as bar:
            for episode in each(collected, range(count)):
                episodes += [episode] if episode else []
                bar.update()
    warn_of_losses(progress, losses.told, count - len(episodes))
    if not episodes:
        raise EnvironmentContractError(f"All {count} episodes were lost. The last: {losses.told[-1]}")
    return episodes


def _tried(env: TextEnv, task: str, index: int, settings: Settings, losses: Losses) -> Episode | None:
    """An episode, begun again if it is lost; None if it is lost in every try."""
    for lost in range(TRIES):
        try:
            episode = _episode(env, task, index, seed_of(settings.seed, lost), settings)
        except WorldLostError as error:
            losses.lost(error)
        else:
            losses.finished()
            return episode
    return None


def _episode(env: TextEnv, task: str, index: int, seed: int, settings: Settings) -> Episode:
    needed = settings.annotate.actions_by == "expert"
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
                f"{load(settings.env.name).__name__}.expert() gave nothing at the start of task {task}, and collecting "
                f"needs an action there, in every train task. Let it return one; or let a served teacher label actions "
                f"(annotate.actions_by: teacher); or bring episodes of your own (collect.file)."
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
