"""`reflect-rl alfworld`: the games, the experts, and the fast engine compared with the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import Count, Seed, Workers
from reflect_rl.errors import OutputError

app = App(name="alfworld", help="ALFWorld: its games, its experts, and the fast engine compared with the real one.")
Data = Annotated[
    str | None,
    Parameter(help="The folder of the games; by default $ALFWORLD_DATA, or the folder of alfworld-download."),
]


@app.command
def data(*, data: Data = None) -> None:
    """List the available games by split and task type, next to the published counts.

    Example: `reflect-rl alfworld data --data ~/alfworld`
    """
    from reflect_rl.cli.tables import table
    from reflect_rl.envs.alfworld.data import AlfworldData

    print(table(AlfworldData(data).table()))


@app.command
def verify(
    *,
    games: Count | None = None,
    steps: Count = 50,
    seed: Seed = 0,
    split: str | None = None,
    grammars: str | None = None,
    patched: bool = False,
    workers: Workers = 1,
    out: str | None = None,
    data: Data = None,
) -> int:
    """Play games on the fast engine and on ALFWorld's own, and compare every text, action list and outcome.

    Walks mix random commands, invalid ones and stretches of the planner. Needs textworld and alfworld: `pip install
    "reflect-rl[alfworld]"`. The exit code is 1 if anything differs.

    For example:

    - `reflect-rl alfworld verify --games 20`
    - `reflect-rl alfworld verify --patched --out runs/sweep.jsonl` — every game; continues after an interruption
    - `reflect-rl alfworld verify --data generated --games 60` — games that the library generates

    Parameters
    ----------
    games
        Number of games, drawn by seed; all by default.
    steps
        Commands per walk; each game is walked through once per grammar.
    split
        train, valid_train, valid_seen or valid_unseen; all by default.
    grammars
        move, put, or both with a comma; both by default. Generated games have only move.
    seed
        Seed of the drawn games and the walks.
    patched
        Cache what the real engine parses again at every step: the same texts, several times as fast.
    workers
        Number of real engines running side by side, each in its own process.
    out
        A file for the reports; with it, the sweep can be interrupted and continued.
    """
    from reflect_rl.cli.tables import verify_lines
    from reflect_rl.envs.alfworld.games import GENERATED, games_of
    from reflect_rl.envs.alfworld.sweep import Total, holds_reports, sweep
    from reflect_rl.envs.alfworld.verify import Plan
    from reflect_rl.envs.alfworld.verify import verify as compare
    from reflect_rl.runs.outputs import output_file
    from reflect_rl.seeding import stream

    progress = Bars()
    kept = None if out is None else output_file(out, "--out", [data], ours=holds_reports)
    if kept and kept.direct is not None:
        raise OutputError(f"--out {out} is no plain file, and a sweep continues from its file. Name another path.")
    found = games_of(data)
    load, ids = found.load, found.games(split)
    chosen = [ids[i] for i in stream(seed, "verify games").permutation(len(ids))[: games or len(ids)]]
    spoken = grammars or ("move" if data == GENERATED else "move,put")
    plan = Plan(grammars=tuple(part.strip() for part in spoken.split(",")), steps=steps, seed=seed, patched=patched)
    options = {"load": load, "workers": workers}
    reports = sweep(kept.path, chosen, plan, **options) if kept else compare(games=chosen, plan=plan, **options)
    total, wrong = Total(), []
    with progress.bar("verify", len(chosen), "games") as bar:
        for report in reports:
            total.add(report)
            if not report.same:
                wrong.append(report)
                progress.warn(f"{report.game} differs")
            bar.update()
            bar.note(states=total.states, differences=total.differences)
    print("\n".join(verify_lines(plan, total, wrong)))
    return 1 if wrong else 0


@app.command
def experts(
    *,
    games: Count | None = None,
    split: str | None = None,
    horizon: Count = 100,
    seed: Seed = 0,
    data: Data = None,
) -> int:
    """Play both experts on the fast engine: games won, also within 15 and 50 steps, and steps by task type.

    The searcher knows only what a player is told; the planner knows everything. The exit code is 1 if either loses a
    game.

    For example:

    - `reflect-rl alfworld experts --split valid_seen`
    - `reflect-rl alfworld experts --games 200 --horizon 50`

    Parameters
    ----------
    games
        Number of games, drawn by seed; all by default.
    split
        train, valid_train, valid_seen or valid_unseen; all available ones by default.
    horizon
        Steps after which a game counts as lost.
    seed
        Seed of the drawn games and of the wording of each task.
    """
    from reflect_rl.cli.tables import table
    from reflect_rl.envs.alfworld.data import AlfworldData
    from reflect_rl.envs.alfworld.experts import drawn_games, expert_walks, experts_table

    progress, walks = Bars(), []
    chosen = drawn_games(AlfworldData(data), split, games, seed)
    with progress.bar("experts", 2 * len(chosen), "walks") as bar:
        for walk in expert_walks(chosen, horizon=horizon, seed=seed, data=data):
            walks.append(walk)
            if not walk.won:
                progress.warn(f"the {walk.expert} does not win {walk.game} in {horizon} steps")
            bar.update()
    print(table(experts_table(walks, [limit for limit in (15, 50) if limit < horizon])))
    return 0 if all(walk.won for walk in walks) else 1


@app.command
def replay(run: Path, /, *, games: Count = 50) -> int:
    """Play a trained agent, and repeat its moves on ALFWorld's own engine: every text must be the same.

    Plays greedy episodes of the run's test panel. Needs textworld and alfworld: `pip install "reflect-rl[alfworld]"`.
    The exit code is 1 if anything differs.

    Example: `reflect-rl alfworld replay runs/alfworld --games 50`

    Parameters
    ----------
    run
        A finished run folder of the world alfworld.
    games
        Number of games, from the start of the panel.
    """
    from reflect_rl.errors import SettingsError
    from reflect_rl.evaluation.replay import replay as played_again
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.kept_arm import kept_arm
    from reflect_rl.runs.trained import trained_settings

    progress, folder = Bars(), RunFolder(run)
    settings = trained_settings(folder, progress)
    if settings.env.name != "alfworld":
        raise SettingsError(
            f"{run} was trained in the world {settings.env.name}; only one of alfworld can be replayed."
        )
    won = wrong = steps = count = 0
    with progress.bar("replay", games, "games") as bar:
        for episode in played_again(*kept_arm(folder, settings), {"engine": "textworld"}, games):
            if episode.difference:
                wrong += 1
                progress.warn(f"{episode.task} differs at {episode.difference}")
            won, steps, count = won + (episode.stop == "success"), steps + len(episode.actions), count + 1
            bar.update()
            bar.note(won=won, differ=wrong)
    print(f"{count} games, {steps} steps, {won} won by the agent; on ALFWorld's own engine {wrong} differ")
    return 1 if wrong else 0
