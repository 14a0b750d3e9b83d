"""The command line, one function per command. Heavy imports are inside the functions, so help appears at once."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter, validators

from reflect_rl import __version__
from reflect_rl.bars import Bars
from reflect_rl.cli.agents import LanguageOptions, Style, export_rollouts, measure_agent, report_file
from reflect_rl.cli.alfworld import app as alfworld
from reflect_rl.cli.bench import bench
from reflect_rl.cli.export import export
from reflect_rl.cli.look import register
from reflect_rl.cli.overrides import Count, Overrides, Seeds, Workers, names, whole_numbers
from reflect_rl.cli.select import select
from reflect_rl.runs.outputs import output_folder

if TYPE_CHECKING:
    from reflect_rl.runs.folder import RunFolder

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
app.command(select)
app.command(bench)
app.command(export)
app.command(export_rollouts)

SFT = ("sft_reflector", "sft_policy")
Folder = Annotated[Path, Parameter(help="An existing run folder.")]
Force = Annotated[bool, Parameter(negative="", help="Run the stage again even if it is done.")]
Rollouts = Annotated[
    str | None, Parameter(help="A file to which every episode played is appended, one JSON object a line.")
]


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
        _summary(finished.path)


def _summary(folder: Path) -> None:
    from reflect_rl.cli.tables import run_summary
    from reflect_rl.ranks import Ranks
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.manifest import total_seconds

    if Ranks.here().first:  # other ranks may get here before the results exist
        print(run_summary(RunFolder(folder), total_seconds(RunFolder(folder))))


def _stages(
    folder: Path, overrides: dict[str, Any], force: bool, *names: str, rollouts: str | None = None
) -> RunFolder:
    """Run single stages of an existing run folder, with its own settings and overrides.

    Existing results are evaluated and reported with the settings they were made with.
    """
    from reflect_rl.config import parse_settings
    from reflect_rl.pipeline.run import run_pipeline
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.rollouts import rollouts_path
    from reflect_rl.runs.trained import measured_settings, read_config, reported_settings

    file = None if rollouts is None else rollouts_path(rollouts)
    progress, run = Bars(), RunFolder(folder)
    settings = config = parse_settings(read_config(run).model_dump(), overrides)
    if names[0] == "evaluate":
        settings = parse_settings(measured_settings(run, progress).model_dump(), overrides)
    if names == ("report",):
        settings = parse_settings(reported_settings(run).model_dump(), overrides)
    return run_pipeline(settings, folder, progress, only=names, force=force, config=config, rollouts=file)


@app.command
def collect(folder: Folder, /, *, force: Force = False, overrides: Overrides) -> None:
    """Collect perturbed expert episodes into episodes.jsonl of an existing run folder.

    Example: `reflect-rl collect runs/mine --collect.episodes 1000`
    """
    _stages(folder, overrides, force, "collect")


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
    - `reflect-rl annotate runs/mine --teacher openai --teacher.model gpt-5-mini --teacher.budget_usd 5 --dry-run`
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
        _stages(folder, overrides, force, "annotate")


def _estimate(folder: Path, overrides: dict[str, Any]) -> str:
    from reflect_rl.config import parse_settings
    from reflect_rl.data.annotate import estimate
    from reflect_rl.players.context import Context
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.trained import read_config

    run = RunFolder(folder)
    settings = parse_settings(read_config(run).model_dump(), overrides)
    found = estimate(run, Context(settings), Bars())
    price = "the price is unknown" if found.usd is None else f"at most {found.usd:.4f} USD"
    return (
        f"{found.calls:,} calls to {settings.teacher.model}, about {found.prompt_tokens:,} prompt tokens, at most "
        f"{found.completion_tokens:,} completion tokens, {price}. Neither stored answers are counted, nor those "
        f"that have to be asked for once more."
    )


@app.command
def sft(folder: Folder, /, *, force: Force = False, overrides: Overrides) -> None:
    """Warm up the reflector and the policy of a run folder by supervised fine-tuning.

    Example: `reflect-rl sft runs/mine --policy_sft.steps 2000`
    """
    _stages(folder, overrides, force, *SFT)


@app.command
def rl(folder: Folder, /, *, rollouts: Rollouts = None, force: Force = False, overrides: Overrides) -> None:
    """Improve the policy of a run folder by online RL with the frozen reflector in the loop.

    Example: `reflect-rl rl runs/mine --rl.iterations 50`
    """
    _stages(folder, overrides, force, "rl", rollouts=rollouts)


@app.command
def evaluate(
    run: str,
    /,
    *,
    agent: str | None = None,
    panel: str = "test",
    episodes: Count | None = None,
    workers: Workers = 1,
    prompting: Style = "direct",
    trials: Count = 3,
    history: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    max_tokens: Count | None = None,
    prompts: Path | None = None,
    budget_usd: Annotated[float | None, Parameter(validator=validators.Number(gte=0))] = None,
    out: str | None = None,
    rollouts: Rollouts = None,
    force: Force = False,
    overrides: Overrides,
) -> None:
    """Evaluate the agent of a run folder, or any other agent in the world of a recipe, on fixed tasks.

    The agent of a run plays greedily and sampled, on all panels. With --agent, another agent plays the same episodes
    with the same seeds; finished episodes are kept, and the same command continues.

    For example:

    - `reflect-rl evaluate runs/taxi --evaluate.sampled_episodes 20`
    - `reflect-rl evaluate runs/alfworld --out runs/alfworld-unseen --env.options.test_split valid_unseen`
    - `reflect-rl evaluate taxi --agent random`
    - `reflect-rl evaluate alfworld --agent my_module:MyAgent --panel test,unseen --workers 4`
    - `reflect-rl evaluate alfworld --agent openai:qwen3-8b --prompting react --server.base_url http://127.0.0.1:8000/v1`

    Parameters
    ----------
    run
        A run folder; with --agent, the name of a recipe, a YAML file, or a run folder whose world is played.
    agent
        random, expert, module:Class for your own, or openai:MODEL for a language model behind a server, which any
        field of `ServerSettings` describes: --server.base_url, --server.concurrency, --server.temperature and others.
    panel
        With --agent: panels of the world, separated by commas.
    episodes
        With --agent: play only the first so many tasks of each panel.
    workers
        With --agent: processes to play in.
    prompting
        With openai:MODEL: direct (a choice by its label), react (a thought, then an action), or reflexion (as react,
        in several trials with a reflection after each that fails).
    trials
        With reflexion: how often a task is tried.
    history
        With openai:MODEL: maximum past steps that are shown; all by default.
    max_tokens
        With openai:MODEL: maximum tokens of an answer; by default 64 for direct, else 256.
    prompts
        With openai:MODEL: a folder whose direct.txt, react.txt or reflect.txt replace the library's.
    budget_usd
        With openai:MODEL: hard limit on the cost, as --server.budget_usd.
    out
        Without --agent, evaluate a copy of the agent in this folder, for example on other tasks; the run stays
        unchanged. With --agent, the folder of the results; runs/RECIPE-AGENT by default.
    """
    if agent is not None:
        asked = LanguageOptions(prompting, trials, history, max_tokens, prompts, budget_usd)
        measure_agent(run, agent, panel, episodes, workers, asked, out, rollouts, overrides)
        return
    folder = Path(run)
    if out is None:
        _summary(_stages(folder, overrides, force, "evaluate", rollouts=rollouts).path)
        return
    from reflect_rl.pipeline.runner import copy_agent
    from reflect_rl.progress import Progress
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.kept_arm import finished_agent

    finished_agent(folder, Progress())  # raises if the run is not finished
    copied = output_folder(out, "--out", [folder])
    copy_agent(RunFolder(folder), RunFolder(copied))
    _summary(_stages(copied, overrides, force, "evaluate", "report", rollouts=rollouts).path)


@app.command
def report(path: Path, /, *, force: Force = False, overrides: Overrides) -> None:
    """Write the HTML report of a run, of a comparison, of an agent's evaluation, or of a file of rollouts.

    For example:

    - `reflect-rl report runs/taxi`
    - `reflect-rl report rollouts.jsonl` — writes rollouts.html

    Parameters
    ----------
    path
        The folder, or the file.
    """
    if (path / "compare.json").is_file():
        from reflect_rl.evaluation.report import report_compare

        print(report_compare(path))
        return
    if path.is_file() or (path / "agent.json").is_file():
        print(report_file(path))
        return
    _stages(path, overrides, force, "report")
    print(path / "report.html")


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
    narrowed = names(regimes), names(arms)
    path = run_comparison(recipe, folder, numbers, *narrowed, overrides, workers, Bars(), asked, gather_only, plan)
    print(compare_terminal(json.loads(path.read_text(encoding="utf-8"))))


register(app)
