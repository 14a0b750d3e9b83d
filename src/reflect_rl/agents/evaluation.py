"""`evaluate --agent`: any agent on a world's fixed panels, with the episodes, seeds and intervals of trained agents."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflect_rl.agents.own import source_hash
from reflect_rl.agents.play import SUMS, Finished, Moved, next_trial, total
from reflect_rl.agents.player import Game
from reflect_rl.agents.trained import is_trained, made_of
from reflect_rl.agents.work import BUILT_IN, check_expert, play_locally
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import panels_of
from reflect_rl.envs.registry import code_of
from reflect_rl.envs.simple import unknown
from reflect_rl.errors import AgentError, SettingsError
from reflect_rl.evaluation.evaluate import measured, measured_on, panel_episodes
from reflect_rl.evaluation.report_rollouts import report_rollouts
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.records import StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import changes, option_files
from reflect_rl.runs.outputs import claim_folder
from reflect_rl.runs.rollouts import RolloutFile, each_episode, episode_heads
from reflect_rl.seeding import stream
from reflect_rl.settings import Settings
from reflect_rl.training.recording import about_world
from reflect_rl.training.rollout import EpisodeSpec, Trajectory

AGENT, EPISODES, RESULTS = "agent.json", "episodes.jsonl", "results.json"
EDITED = {"option_files": "a file that an option of the world names", "world_code": "the file of the world"}
"""Parts of the identity that are hashes, and that folders of earlier versions lack, in words."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated, and on what.

    Attributes:
        settings: of a recipe: the world, the seed, and how results are reported.
        agent: "random", "expert", "module:Class", "openai:MODEL", or the folder of a trained agent.
        panels: names of the world's panels.
        episodes: so many of each panel, see `chosen_tasks`; None for all.
        workers: processes to play in.
        rollouts: a file to which all episodes are appended too.
    """

    settings: Settings
    agent: str
    panels: tuple[str, ...] = ("test",)
    episodes: int | None = None
    workers: int = 1
    rollouts: Path | None = None

    @property
    def trials(self) -> int:
        return 1

    def identity(self) -> Row:
        """What all episodes of a folder have in common: the agent, the world with its files, and the seed."""
        return {**self.about(), **self._made_of(), **self._played_on()}

    def _played_on(self) -> Row:
        env = self.settings.env
        files, code = option_files(env.options), code_of(env.name)
        return {
            "env": env.identity,
            "seed": self.settings.seed,
            **({"option_files": files} if files else {}),
            **({"world_code": code} if code else {}),
        }

    def _made_of(self) -> Row:
        if self.agent in BUILT_IN:
            return {}
        return made_of(self.agent) if is_trained(self.agent) else {"code": source_hash(self.agent)}

    def about(self) -> Row:
        """What results.json says of the agent. Of a folder, its name: where it lies concerns nobody else."""
        folder = Path(self.agent)
        return {"agent": folder.resolve().name if is_trained(self.agent) and folder.is_dir() else self.agent}

    def check(self, world: TextEnv) -> None:
        """Raise what `evaluate_agent` raises for an agent that cannot play this world."""
        if self.agent == "expert":
            check_expert(self.settings.env.name)

    def play(
        self,
        run: RunFolder,
        world: TextEnv,
        games: Sequence[Game],
        finished: Finished,
        moved: Moved,
        progress: Progress,
    ) -> None:
        """Play the games; `finished` and `moved` are called as in `play`. world: an environment never played."""
        settings = self.settings
        play_locally(self.agent, settings.env, settings.rl.num_envs, games, self.workers, finished, moved)


def evaluate_agent(plan: Plan, out: Path, progress: Progress) -> RunFolder:
    """Play the panels; write results.json and report.html into the folder `out`, and return it.

    Finished episodes are kept in episodes.jsonl as they arrive, and the same call continues with the others.

    Raises AgentError (the agent cannot be loaded or raised, or the folder is of another one), SettingsError (no such
    panel), OutputError (the folder holds something else), RunFolderError (it is in use, or the disk is full), and
    WorkerError (a worker process was killed).
    """
    context, run, identity = Context(plan.settings), RunFolder(out), plan.identity()
    games = fixed_games(context.world, plan)
    plan.check(context.world)
    if plan.rollouts and plan.rollouts.resolve() == (run / EPISODES).resolve():
        raise SettingsError(
            f"{plan.rollouts} is the evaluation's own file, which has every episode. Leave --rollouts out, or name "
            f"another file."
        )
    claim_folder(out, "evaluation of an agent")
    with run.lock(progress), ExitStack() as files:
        run.tidy()
        _check_same(run, identity)
        kept = files.enter_context(RolloutFile(run / EPISODES, progress))
        copies = [files.enter_context(RolloutFile(plan.rollouts, progress))] if plan.rollouts else []
        for copy in copies:
            copy.add(each_episode(run / EPISODES))
        about = {"source": "agent", **plan.about(), **about_world(context)}
        name = hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]
        done = {_place(head): head for _, head in episode_heads(run / EPISODES)}
        _check_tasks(run, games, done)
        waiting = [game for first in games if (game := _next(first, done, plan.trials)) is not None]
        with progress.bar("evaluate", len(games), "tasks", done=len(games) - len(waiting)) as bar:
            moves, shown = 0, time.monotonic()

            def show() -> None:
                bar.note(moves=moves, **_so_far(done.values()))

            def moved(count: int) -> None:  # between two ends of episodes, minutes may pass
                nonlocal moves, shown
                moves = count
                if time.monotonic() - shown >= 1:
                    shown = time.monotonic()
                    show()
                    bar.update(0)

            def finished(game: Game, record: Row) -> None:
                line = {"id": f"{name}-{game.panel}-{game.number}-{game.trial}", **about, **record}
                for file in (kept, *copies):
                    file.add([line])
                done[_place(record)] = {key: value for key, value in record.items() if key != "steps"}
                bar.update(next_trial(game, record, plan.trials) is None)
                show()

            if waiting:
                plan.play(run, context.world, waiting, finished, moved, progress)
        found = results(plan, context.world, games, done)
        _warn_of_no_move(done.values(), progress)
        run.write_json(RESULTS, found)
        report_rollouts(run / EPISODES, run / "report.html", progress, found)
    return run


def fixed_games(world: TextEnv, plan: Plan) -> list[Game]:
    """The episodes that trained agents play greedily, with their seeds. Raises SettingsError for an unknown panel."""
    panels = panels_of(world)
    for panel in plan.panels:
        if panel not in panels:
            raise SettingsError(unknown("panel", panel, panels))
    games = []
    for panel in plan.panels:
        specs = panel_episodes(world, plan.settings, panel, "greedy")
        for number in chosen_tasks(panel, len(specs), plan.episodes):
            games.append(Game(panel, number, specs[number].task, specs[number].seed))
    return games


def chosen_tasks(panel: str, tasks: int, episodes: int | None) -> list[int]:
    """Places of the tasks of a panel that are played, in order: the same for every agent and seed.

    They are drawn, since panels often go by kind: the first 35 games of ALFWorld's are of two types. More episodes
    include those of fewer.
    """
    drawn = stream(0, f"tasks of the panel {panel}").permutation(tasks)
    return sorted(map(int, drawn[:episodes]))


def results(plan: Plan, world: TextEnv, games: Sequence[Game], done: Mapping[Any, Row]) -> Row:
    """The content of results.json. games: those of the panels, each in its first trial. done: records by place.

    With several trials, those of "trial 2" are about the last of each task's first two: later ones are played only
    where earlier ones failed. Its tokens, cost, seconds and invalid answers are of all trials up to then.
    """
    settings = plan.settings
    panels: Row = {}
    for panel in plan.panels:
        firsts = [game for game in games if game.panel == panel]
        for last in range(1, plan.trials + 1):
            tried = [_tried(game, done, last) for game in firsts]
            mode = "played" if plan.trials == 1 else f"trial {last}"
            panels.setdefault(panel, {})[mode] = _figures(tried, world, settings.evaluate.within)
    return {
        **plan.about(),
        "world": settings.env.name,
        "seed": settings.seed,
        "horizon": settings.env.horizon,
        **measured_on(world, settings, plan.panels),
        "panels": panels,
        "seconds": round(sum(modes[mode]["seconds"] for modes in panels.values() for mode in list(modes)[-1:]), 3),
    }


def _figures(tried: Sequence[Sequence[Row]], world: TextEnv, within: Sequence[int]) -> Row:
    """Figures about tasks. tried: the records of each task's trials."""
    everything = [record for records in tried for record in records]
    return {
        **measured([_trajectory(records[-1]) for records in tried], world, within),
        "steps": sum(record["length"] for record in everything),
        "invalid": sum(record["invalid"] for record in everything),
        **{name: total(everything, name) for name in SUMS},
        "seconds": round(sum(record["seconds"] for record in everything), 3),
    }


def _trajectory(record: Row) -> Trajectory:
    spec, length = EpisodeSpec(record["task"], record["episode_seed"]), record["length"]
    return Trajectory(spec, [0] * length, [0] * length, [record["return"]], StopReason(record["stop"]))


def _tried(game: Game, done: Mapping[Any, Row], last: int) -> list[Row]:
    """The records of a task's trials up to the one numbered `last`."""
    places = [(game.panel, game.number, trial) for trial in range(1, last + 1)]
    return [done[place] for place in places if place in done]


def _next(game: Game | None, done: Mapping[Any, Row], trials: int) -> Game | None:
    """The first trial of a task that is still to be played; None if there is none."""
    while game is not None and (record := done.get((game.panel, game.number, game.trial))):
        game = next_trial(game, record, trials)
    return game


def _place(record: Row) -> tuple[str, int, int]:
    """Where a record belongs. Raises AgentError for an episode that no evaluation has written."""
    try:
        place = record["panel"], record["number"], record["trial"]
        _ = record["length"], record["success"], record["invalid"], record["seconds"]
    except KeyError as error:
        raise AgentError(
            f"{EPISODES} has an episode that is none of an evaluation: {record['id']!r} lacks {error}. Take its line "
            f"out, or choose another folder with --out."
        ) from error
    return place


def _so_far(records: Collection[Row]) -> Row:
    if not records:
        return {}
    steps = sum(record["length"] for record in records)
    return {
        "success": sum(record["success"] for record in records) / len(records),
        "invalid": sum(record["invalid"] for record in records) / max(1, steps),
    }


def _warn_of_no_move(records: Collection[Row], progress: Progress) -> None:
    """Warn if no answer was a move: the first admissible action was taken each time."""
    steps = sum(record["length"] for record in records)
    if steps and sum(record["invalid"] for record in records) == steps:
        progress.warn(
            f"None of the {steps} answers named an admissible action, and the first one was taken instead. An agent "
            f"answers with the index or the text of one."
        )


def _check_tasks(run: RunFolder, games: Sequence[Game], done: Mapping[Any, Row]) -> None:
    """Raise AgentError if episodes are of other tasks: a world's may change, as if a task file is built again."""
    for game in games:
        record = done.get((game.panel, game.number, 1))
        if record and record.get("task") != game.task:
            raise AgentError(
                f"{run.path} holds an episode of the task {record.get('task')} where {game.task} is played now: the "
                f"world's tasks have changed. Choose another folder with --out, or move this one away."
            )


def _check_same(run: RunFolder, identity: Row) -> None:
    """Note what the folder is about; raise AgentError if it is about another agent or world."""
    if (run / AGENT).is_file():
        before = run.read_json(AGENT, dict)
        plain = ({key: value for key, value in each.items() if key not in EDITED} for each in (before, identity))
        edited = [what for key, what in EDITED.items() if key in before and before[key] != identity.get(key)]
        if changed := [*changes(*plain), *(f"{what} was edited" for what in edited)]:
            raise AgentError(
                f"{run.path} holds the evaluation of another agent or world ({'; '.join(changed)}). Choose another "
                f"folder with --out, or move this one away."
            )
        return
    run.write_json(AGENT, identity)
