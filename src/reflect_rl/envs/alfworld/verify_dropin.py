"""The drop-in against alfworld's own AlfredTWEnv: same configuration, same seed, same commands.

Games are compared in lots: a folder of some games, for which both make an environment. Observations, scores, dones and
infos must be the same, types included, and so must the order of the games. A lot depends on (seed, grammar, batch size,
its games) alone, so a comparison can be cut off and continued (module `sweep`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from reflect_rl.envs.alfworld import planner
from reflect_rl.envs.alfworld.batch import BatchEnv
from reflect_rl.envs.alfworld.data import GAME
from reflect_rl.envs.alfworld.dropin import AlfredTWEnv
from reflect_rl.envs.alfworld.game import GameFile, GameFileError
from reflect_rl.envs.alfworld.real import RealEngineError, RealProcess
from reflect_rl.envs.alfworld.real_worker import shown
from reflect_rl.envs.alfworld.rules import GRAMMARS, UNKNOWN_GOAL, installed_texts, known_grammar
from reflect_rl.envs.alfworld.verify import Difference, Load, Report, with_processes
from reflect_rl.envs.alfworld.walk import Walk
from reflect_rl.envs.alfworld.words import worded
from reflect_rl.errors import ReflectRLError
from reflect_rl.seeding import stream, stream_seed

LOT = 8
"""Games of a lot."""
SPLITS = {"train": "dqn", "eval_in_distribution": "dagger", "eval_out_of_distribution": "dqn"}
"""The splits of alfworld, each with a training method under which infos hold no expert's plan."""


@dataclass(frozen=True)
class DropinPlan:
    """How the environments are compared: everything that a report depends on, beside its games.

    steps: batches of commands after each reset. invalid, guided: as for `verify`. patched: use the shortcuts of
    `real_patches` in the real engine.
    """

    grammars: tuple[str, ...] = GRAMMARS
    batch_sizes: tuple[int, ...] = (1, 8)
    steps: int = 20
    seed: int = 0
    invalid: float = 0.05
    guided: float = 0.5
    patched: bool = False

    def __post_init__(self) -> None:
        if not self.grammars or not set(self.grammars) <= set(GRAMMARS):
            raise RealEngineError(f"grammars is {self.grammars!r}; it names one or both of: move, put.")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise RealEngineError(f"batch_sizes is {self.batch_sizes!r}; each is a number of games from 1 up.")


def lots(games: Sequence[str], plan: DropinPlan) -> list[str]:
    """The names of the lots to compare: JSON of grammar, batch size and games."""
    parts = [list(games[first : first + LOT]) for first in range(0, len(games), LOT)]
    ways = [(grammar, size) for grammar in plan.grammars for size in plan.batch_sizes]
    return [json.dumps([grammar, size, part], allow_nan=False) for part in parts for grammar, size in ways]


def verify_dropin(
    load: Load, names: Sequence[str], plan: DropinPlan, *, workers: int = 1, timeout: float = 600.0
) -> Iterator[Report]:
    """Compare lots, yielding a report a lot as it is finished. names: of `lots`; the rest as for `verify`."""

    def compare(name: str, process: RealProcess) -> Report:
        report = Report(name)
        with tempfile.TemporaryDirectory(prefix="alfworld-lot-") as folder:
            try:
                _compare(load, plan, process, Path(folder), report)
            except ReflectRLError as error:
                report.errors.append(str(error))
        report.real_step_seconds = round(report.real_step_seconds, 4)
        report.real_load_seconds = round(report.real_load_seconds, 4)
        return report

    yield from with_processes(compare, names, workers=workers, timeout=timeout, patched=plan.patched)


def _compare(load: Load, plan: DropinPlan, process: RealProcess, folder: Path, report: Report) -> None:
    """One lot on both."""
    grammar, size, games = json.loads(report.game)
    rng = stream(plan.seed, f"verify drop-in {report.game}")
    seed = stream_seed(plan.seed, f"drop-in seed {report.game}")
    for number, game in enumerate(games):
        lay_out(load(game), grammar, folder / game.replace("/", "-"), seed + number)
    split = list(SPLITS)[int(rng.integers(len(SPLITS)))]
    # Processes of a batch draw names that nobody can foresee.
    shuffle = split == "train" and size == 1
    limit = (50, max(1, plan.steps - 2))[int(rng.integers(2))]
    config = configuration(folder, method=SPLITS[split], shuffle=shuffle, limit=limit)
    fast = AlfredTWEnv(config, split)
    env = fast.init_env(size)
    env.seed(seed % 2**32)
    began = time.perf_counter()
    made = process.ask(do="init_env", config=config, train_eval=split, batch_size=size, seed=seed % 2**32)
    process.player = None
    report.real_load_seconds += time.perf_counter() - began
    if made["games"] != fast.game_files:
        report.differences.append(Difference(grammar, shuffle, 0, None, "games", fast.game_files, made["games"]))
    walks = [
        Walk(stream(plan.seed, f"walk {report.game}", i), invalid=plan.invalid, guided=plan.guided, guide=planner.plan)
        for i in range(size)
    ]
    for _ in range(-(-len(games) // size)):
        if report.same:
            _walk(env, process, walks, plan.steps, report, (grammar, shuffle))


def _walk(
    env: BatchEnv, process: RealProcess, walks: Sequence[Walk], steps: int, report: Report, options: tuple[str, bool]
) -> None:
    """A batch of games on both, until the end or the first difference."""
    commands: list[str] | None = None
    won = [False] * len(walks)
    for step in range(steps + 1):
        began = time.perf_counter()
        if commands is None:
            real = process.ask(do="reset all")
            report.real_load_seconds += time.perf_counter() - began
            fast = shown(*env.reset())
        else:
            real = process.ask(do="step all", commands=commands)
            report.real_step_seconds += time.perf_counter() - began
            report.real_steps += len(commands)
            observations, scores, dones, infos = env.step(commands)
            fast = shown(observations, infos, scores, dones)
        report.states += len(walks)
        won = [before or game.won for before, game in zip(won, env.games, strict=True)]
        for what in sorted(fast.keys() | real.keys()):
            if fast.get(what) != real.get(what):
                report.differences.append(
                    Difference(*options, step, str(commands or "reset"), what, fast.get(what), real.get(what))
                )
                return
        commands = [walk.next(game) for walk, game in zip(walks, env.games, strict=True)]
    report.wins += sum(won)


def configuration(folder: Path | str, *, method: str = "dqn", shuffle: bool = False, limit: int = 50) -> dict[str, Any]:
    """alfworld's configuration with one folder for all splits, as far as its text environment reads it."""
    paths = dict.fromkeys(("data_path", "eval_id_data_path", "eval_ood_data_path"), str(folder))
    training = {"training": {"max_nb_steps_per_episode": limit}}
    return {
        "dataset": {**paths, "num_train_games": -1, "num_eval_games": -1},
        "env": {
            "type": "AlfredTWEnv",
            "domain_randomization": shuffle,
            "task_types": [1, 2, 3, 4, 5, 6],
            "expert_type": "handcoded",
            "goal_desc_human_anns_prob": 0.0,
        },
        "general": {"training_method": method},
        "rl": training,
        "dagger": training,
    }


def lay_out(game: GameFile, grammar: str, folder: Path, seed: int) -> None:
    """Write a game as a release lays it out, with the rules of a grammar.

    Rules that state no task get one of ALFWorld's wordings, drawn by seed. Raises GameFileError if the game carries no
    rules for "put".
    """
    own = game.domain and game.grammar and known_grammar(game.grammar) == grammar
    if not own and grammar == "put":
        raise GameFileError(f"The game {game.id} carries no rules for the grammar 'put'. Compare it with 'move' alone.")
    domain, rules = (game.domain, game.grammar) if own else installed_texts()
    assert domain
    assert rules
    if UNKNOWN_GOAL in rules:
        rules = rules.replace(UNKNOWN_GOAL, worded(game, Random(seed)))
    folder.mkdir(parents=True)
    content = {"pddl_domain": domain, "grammar": rules, "pddl_problem": game.problem, "solvable": True}
    for name, part in ((GAME, content), ("traj_data.json", game.traj)):
        (folder / name).write_text(json.dumps(part, allow_nan=False), encoding="utf-8")
