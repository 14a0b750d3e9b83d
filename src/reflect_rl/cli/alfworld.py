"""`reflect-rl alfworld`: the games, the experts, and the fast engine compared with the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import Count, InputPath, Seed, Workers
from reflect_rl.errors import OutputError

if TYPE_CHECKING:
    from reflect_rl.envs.alfworld.sweep import AnyPlan, Compare

app = App(name="alfworld", help="ALFWorld: its games, its experts, and the fast engine compared with the real one.")
Data = Annotated[
    str | None,
    Parameter(help="The folder of the games; by default $ALFWORLD_DATA, or the folder of alfworld-download."),
]


@app.command
def data(*, data: Data = None, split: str | None = None) -> None:
    """List the available games by split and task type, next to the published counts; or the names of a split's games.

    For example:

    - `reflect-rl alfworld data --data ~/alfworld`
    - `reflect-rl alfworld data --split valid_seen` — their sha256 is the hash by which results name the panel

    Parameters
    ----------
    split
        Print the names of this split's games, in the order in which they are evaluated.
    """
    from reflect_rl.cli.tables import table
    from reflect_rl.envs.alfworld.data import AlfworldData

    games = AlfworldData(data)
    print(table(games.table()) if split is None else "\n".join(games.games(split)))


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
    from reflect_rl.envs.alfworld.verify import Plan
    from reflect_rl.envs.alfworld.verify import verify as compare

    chosen = _drawn_games(data, split, games, seed)
    plan = Plan(grammars=_grammars(grammars, data), steps=steps, seed=seed, patched=patched)
    return _compared(chosen, plan, compare, out, data, workers, "games")


@app.command
def verify_dropin(
    *,
    games: Count | None = None,
    steps: Count = 20,
    seed: Seed = 0,
    split: str | None = None,
    grammars: str | None = None,
    batch_sizes: str = "1,8",
    patched: bool = False,
    workers: Workers = 1,
    out: str | None = None,
    data: Data = None,
) -> int:
    """Play the drop-in for alfworld's AlfredTWEnv and the real one with equal configurations, seeds and commands.

    Everything that reset and step return is compared, types included. Needs textworld and alfworld: `pip install
    "reflect-rl[alfworld]"`. The exit code is 1 if anything differs.

    For example:

    - `reflect-rl alfworld verify-dropin --games 16`
    - `reflect-rl alfworld verify-dropin --games 200 --out runs/dropin.jsonl` — continues after an interruption

    Parameters
    ----------
    games
        Number of games, drawn by seed; all by default.
    steps
        Commands for each game after its reset.
    split
        train, valid_train, valid_seen or valid_unseen; all by default.
    grammars
        move, put, or both with a comma; both by default. Generated games have only move.
    batch_sizes
        Games side by side, separated by commas.
    seed
        Seed of the drawn games, the environments and the commands.
    patched
        Cache what the real engine parses again at every step: the same texts, several times as fast.
    workers
        Number of real environments running side by side, each with a process for each of its games.
    out
        A file for the reports; with it, the comparison can be interrupted and continued.
    """
    from reflect_rl.cli.overrides import whole_numbers
    from reflect_rl.envs.alfworld.verify_dropin import DropinPlan, lots
    from reflect_rl.envs.alfworld.verify_dropin import verify_dropin as compare

    chosen = _drawn_games(data, split, games, seed)
    plan = DropinPlan(
        grammars=_grammars(grammars, data),
        batch_sizes=tuple(whole_numbers(batch_sizes, "--batch-sizes", least=1)),
        steps=steps,
        seed=seed,
        patched=patched,
    )
    return _compared(lots(chosen, plan), plan, compare, out, data, workers, "lots")


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
def replay(run: InputPath, /, *, games: Count = 50) -> int:
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


def _drawn_games(data: str | None, split: str | None, games: int | None, seed: int) -> list[str]:
    from reflect_rl.envs.alfworld.games import games_of
    from reflect_rl.seeding import stream

    ids = games_of(data).games(split)
    return [ids[i] for i in stream(seed, "verify games").permutation(len(ids))[: games or len(ids)]]


def _grammars(given: str | None, data: str | None) -> tuple[str, ...]:
    from reflect_rl.envs.alfworld.games import GENERATED

    named = given or ("move" if data == GENERATED else "move,put")
    return tuple(part.strip() for part in named.split(","))


def _compared(
    names: list[str], plan: AnyPlan, compare: Compare, out: str | None, data: str | None, workers: int, unit: str
) -> int:
    """Compare the engines on what is named; print what differs. The exit code."""
    from reflect_rl.cli.tables import verify_lines
    from reflect_rl.envs.alfworld.games import games_of
    from reflect_rl.envs.alfworld.sweep import Total, holds_reports, sweep
    from reflect_rl.runs.outputs import output_file

    progress = Bars()
    kept = None if out is None else output_file(out, "--out", [data], ours=holds_reports)
    if kept and kept.direct is not None:
        raise OutputError(f"--out {out} is no plain file, and a sweep continues from its file. Name another path.")
    load = games_of(data).load
    if kept:
        reports = sweep(kept.path, names, plan, compare=compare, load=load, workers=workers)
    else:
        reports = compare(load, names, plan, workers=workers)
    total, wrong = Total(), []
    with progress.bar("verify", len(names), unit) as bar:
        for report in reports:
            total.add(report)
            if not report.same:
                wrong.append(report)
                progress.warn(f"{report.game} differs")
            bar.update()
            bar.note(states=total.states, differences=total.differences)
    print("\n".join(verify_lines(plan, total, wrong, unit)))
    return 1 if wrong else 0
