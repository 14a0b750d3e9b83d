"""The command line, one function per command. Heavy imports are inside the functions, so help appears at once."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from reflect_rl import __version__
from reflect_rl.bars import Bars
from reflect_rl.cli.agents import evaluate, export_rollouts, report_file
from reflect_rl.cli.alfworld import app as alfworld
from reflect_rl.cli.autoexplore import app as autoexplore
from reflect_rl.cli.bench import bench
from reflect_rl.cli.export import export
from reflect_rl.cli.leaderboard import leaderboard
from reflect_rl.cli.look import register
from reflect_rl.cli.overrides import InputPath, Overrides, Seeds, Workers, names, whole_numbers
from reflect_rl.cli.select import select
from reflect_rl.cli.serve import serve, serve_env
from reflect_rl.cli.stages import Folder, Force, Rollouts, print_summary, stages_of
from reflect_rl.errors import SettingsError
from reflect_rl.runs.outputs import output_folder

app = App(
    name="reflect-rl",
    version=__version__,
    help_format="plaintext",
    help="""Train small language models as agents in interactive text environments.

For example:

- `reflect-rl run taxi` — the whole method: collect, annotate, sft, rl, evaluate, report
- `reflect-rl run taxi --seed 3 --rl.iterations 30 --out runs/mine` — with other settings
- `reflect-rl play taxi --agent runs/taxi` — watch the trained agent
- `reflect-rl settings` — every setting, with its default and meaning
""",
)

app.command(alfworld)
app.command(autoexplore)
app.command(select)
app.command(bench)
app.command(evaluate)
app.command(export)
app.command(serve)
app.command(serve_env)
app.command(export_rollouts)
app.command(leaderboard)

SFT = ("sft_reflector", "sft_policy")


@app.command
def run(
    recipe: str,
    /,
    *,
    out: str | None = None,
    model: str | None = None,
    until: str | None = None,
    store: str | None = None,
    rollouts: Rollouts = None,
    overrides: Overrides,
) -> None:
    """Run a recipe from start to finish; finished stages are skipped.

    Any setting can be changed by its dotted name: `--seed 3`, `--rl.iterations 30`, `--rl.lr=1e-3`, `--guard`. An
    interrupted run continues with the same command.

    For example:

    - `reflect-rl run taxi`
    - `reflect-rl run taxi --seed 3 --rl.iterations 30 --out runs/mine`
    - `reflect-rl run my_recipe.yaml --until annotate`
    - `reflect-rl run taxi-lm --model HuggingFaceTB/SmolLM2-360M-Instruct --compute.device cuda`

    Parameters
    ----------
    recipe
        The name of a recipe (see `reflect-rl recipes`) or a YAML file.
    out
        The run folder; by default runs/RECIPE, or runs/RECIPE-seedN if a seed is given.
    model
        The pretrained model that both players start from: a hub id, a folder, a .gguf file, or package:NAME.
    until
        The last stage to run.
    store
        A folder in which runs share finished stages.
    """
    from reflect_rl.api import run as run_recipe

    folder = None if out is None else output_folder(out, "--out")
    shared = None if store is None else output_folder(store, "--store")
    finished = run_recipe(
        recipe,
        folder,
        model=model,
        overrides=overrides,
        until=until,
        store=shared,
        rollouts=rollouts,
        progress=Bars(),
    )
    if until in (None, "evaluate", "report"):
        print_summary(finished.path)


@app.command
def collect(folder: Folder, /, *, force: Force = False, overrides: Overrides) -> None:
    """Collect perturbed expert episodes into episodes.jsonl of an existing run folder.

    Example: `reflect-rl collect runs/mine --collect.episodes 1000`
    """
    stages_of(folder, overrides, force, "collect")


@app.command
def annotate(
    folder: Folder,
    /,
    *,
    teacher: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    force: Force = False,
    overrides: Overrides,
) -> None:
    """Label the states of a run folder with expert and teacher, within the label budgets.

    For example:

    - `reflect-rl annotate runs/mine --annotate.reflections 500`
    - `reflect-rl annotate runs/mine --teacher openai --teacher.model gpt-6-luna --teacher.budget_usd 5 --dry-run`
    - `reflect-rl annotate runs/mine --teacher openai --teacher.model qwen3 --teacher.base_url http://127.0.0.1:8000/v1`

    Parameters
    ----------
    teacher
        Short for --annotate.teacher: a style of the world's scripted teacher, or openai for a model behind a server.
    dry_run
        Print what the served teacher would be asked and what it would cost, and ask nothing.
    """
    if teacher is not None:
        overrides = {"annotate.teacher": teacher, **overrides}
    if dry_run:
        print(_estimate(folder, overrides))
    else:
        stages_of(folder, overrides, force, "annotate")


def _estimate(folder: Path, overrides: dict[str, Any]) -> str:
    from reflect_rl.cli.served import told
    from reflect_rl.config import parse_settings
    from reflect_rl.data.annotate import estimate
    from reflect_rl.players.context import Context
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.trained import read_config

    run = RunFolder(folder)
    settings = parse_settings(read_config(run).model_dump(), overrides)
    return told(estimate(run, Context(settings), Bars()), settings.teacher.model)


@app.command
def sft(folder: Folder, /, *, force: Force = False, overrides: Overrides) -> None:
    """Warm up the reflector and the policy of a run folder by supervised fine-tuning.

    Example: `reflect-rl sft runs/mine --policy_sft.steps 2000`
    """
    stages_of(folder, overrides, force, *SFT)


@app.command
def rl(folder: Folder, /, *, rollouts: Rollouts = None, force: Force = False, overrides: Overrides) -> None:
    """Improve the policy of a run folder by online RL with the frozen reflector in the loop.

    Example: `reflect-rl rl runs/mine --rl.iterations 50`
    """
    stages_of(folder, overrides, force, "rl", rollouts=rollouts)


@app.command
def report(path: InputPath, /, *, force: Force = False, overrides: Overrides) -> None:
    """Write the HTML report of a run, of a comparison, of an agent's evaluation, or of a file of rollouts.

    For example:

    - `reflect-rl report runs/taxi`
    - `reflect-rl report rollouts.jsonl` — writes rollouts.html

    Parameters
    ----------
    path
        The folder, or the file.
    """
    compared = (path / "compare.json").is_file()
    if not compared and not path.is_file() and not (path / "agent.json").is_file():
        stages_of(path, overrides, force, "report")
        print(path / "report.html")
        return
    if given := [*overrides, *["force"] * force]:
        raise SettingsError(f"--{given[0]} is for the report of a run, and {path} is none. Leave it out.")
    if compared:
        from reflect_rl.evaluation.report import report_compare

        print(report_compare(path))
    else:
        print(report_file(path))


@app.command
def compare(
    recipe: str,
    /,
    *,
    seeds: Seeds = "0,1,2,3,4",
    regimes: str | None = None,
    arms: str | None = None,
    plan: str = "compare",
    workers: Workers = 1,
    out: str | None = None,
    gather_only: Annotated[bool, Parameter(negative="")] = False,
    overrides: Overrides,
) -> None:
    """Compare the method with its ablations, over seeds; an interrupted comparison continues.

    Settings such as --rl.iterations hold for all arms, except where they would change what an arm is.

    For example:

    - `reflect-rl compare taxi --seeds 0,1,2,3,4 --out runs/taxi-compare`
    - `reflect-rl compare taxi --regimes scarce-actions --workers 2`
    - `reflect-rl compare taxi --plan selection` — strategies that select the states to label

    Parameters
    ----------
    recipe
        The name of a recipe, or a YAML file.
    regimes
        Label budgets to compare under, separated by commas; all by default.
    arms
        Ways of training to compare, separated by commas; all by default.
    plan
        compare (the method with its ablations), selection (strategies), pretrained (label budgets for a pretrained
        model), or your own YAML file.
    workers
        Number of runs trained side by side.
    out
        The comparison's folder; runs/RECIPE-PLAN by default.
    gather_only
        Train nothing, and write the comparison of the runs finished so far.
    """
    numbers = whole_numbers(seeds)
    from reflect_rl.evaluation.tables import compare_terminal
    from reflect_rl.pipeline.compare import compare as run_comparison

    default = Path("runs") / f"{Path(recipe).stem}-{Path(plan).stem}"
    folder = output_folder(default if out is None else out, "--out")
    asked = shlex.join(["reflect-rl", *sys.argv[1:]])
    narrowed = names(regimes, "--regimes"), names(arms, "--arms")
    path = run_comparison(recipe, folder, numbers, *narrowed, overrides, workers, Bars(), asked, gather_only, plan)
    print(compare_terminal(json.loads(path.read_text(encoding="utf-8"))))


register(app)
