"""`evaluate`: the agent of a run, or any other; and files of rollouts: `report FILE`, `export-rollouts`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import Count, InputPath, Overrides, Workers, names
from reflect_rl.cli.served import PREFIX, SERVER, server_settings
from reflect_rl.cli.stages import Force, Rollouts, print_summary, stages_of
from reflect_rl.errors import SettingsError
from reflect_rl.paths import expanded
from reflect_rl.runs.outputs import output_folder

if TYPE_CHECKING:
    from reflect_rl.agents.evaluation import Plan
    from reflect_rl.settings import Settings

Style = Literal["direct", "react", "reflexion"]

OF_TRAINING = ("collect.", "select.", "annotate.", "reflector_sft.", "policy.", "policy_sft.", "rl.", "guard")
"""What has no effect on a finished agent, but for OF_PLAY."""
OF_PLAY = ("annotate.teacher", "policy.model.bits", "rl.num_envs")


def evaluate(
    run: str,
    /,
    *,
    agent: str | None = None,
    panel: str | None = None,
    episodes: Count | None = None,
    workers: Workers | None = None,
    prompting: Style | None = None,
    trials: Count | None = None,
    history: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    max_tokens: Count | None = None,
    prompts: InputPath | None = None,
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
    - `reflect-rl evaluate alfworld --agent runs/alfworld --episodes 35`
    - `reflect-rl evaluate alfworld --agent openai:qwen3-8b --prompting react --server.base_url http://127.0.0.1:8000/v1`

    Parameters
    ----------
    run
        A run folder; with --agent, the name of a recipe, a YAML file, or a run folder whose world is played.
    agent
        random, expert, module:Class for your own, the folder of a trained agent (or user/name of the hub), or
        openai:MODEL for a language model behind a server, which any field of `ServerSettings` describes:
        --server.base_url, --server.concurrency, --server.temperature and others.
    panel
        With --agent: panels of the world, separated by commas; test by default.
    episodes
        With --agent: play only so many tasks of each panel, drawn alike for every agent; more include those of fewer.
    workers
        With --agent: processes to play in; 1 by default.
    prompting
        With openai:MODEL: direct (a choice by its label; the default), react (a thought, then an action), or reflexion
        (as react, in several trials with a reflection after each that fails).
    trials
        With reflexion: how often a task is tried; 3 times by default.
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
        unchanged. With --agent, the folder of the results; by default runs/RECIPE-AGENT, or for openai:MODEL
        runs/RECIPE-AGENT-PROMPTING.
    """
    of_agents = {"panel": panel, "episodes": episodes, "workers": workers}
    of_models = {"prompting": prompting, "trials": trials, "history": history, "max_tokens": max_tokens}
    of_models |= {"prompts": prompts, "budget_usd": budget_usd}
    if agent is not None:
        _refuse({"force": force or None}, "for the agent of a run; to play again, move the folder of the results away")
        measure_agent(run, agent, of_agents, of_models, out, rollouts, overrides)
        return
    _refuse(of_agents | of_models, "for --agent")
    folder = expanded(run)
    _refuse_export(folder)
    _refuse_training(folder, overrides)
    if out is None:
        print_summary(stages_of(folder, overrides, force, "evaluate", rollouts=rollouts).path)
        return
    from reflect_rl.pipeline.runner import copy_agent
    from reflect_rl.progress import Progress
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.kept_arm import finished_agent

    finished_agent(folder, Progress())  # raises if the run is not finished
    copied = output_folder(out, "--out", [folder])
    copy_agent(RunFolder(folder), RunFolder(copied))
    print_summary(stages_of(copied, overrides, force, "evaluate", "report", rollouts=rollouts).path)


def _refuse_export(folder: Path) -> None:
    """Raise SettingsError for an exported agent, which has no record of the labels and stages behind it."""
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.trained import is_exported

    if (folder / "policy").is_dir() and is_exported(RunFolder(folder)):
        raise SettingsError(
            f"{folder} is an exported agent, not the folder of its run. Evaluate it as an agent: reflect-rl evaluate "
            f"{folder} --agent {folder}"
        )


def _refuse_training(folder: Path, overrides: Mapping[str, Any]) -> None:
    """Raise SettingsError for settings of training: the agent is played as it is, and its config.yaml says how."""
    from reflect_rl.config import parse_settings
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.trained import read_config

    given = [key for key in overrides if key not in OF_PLAY and key.startswith(OF_TRAINING)]
    if given:
        parse_settings(read_config(RunFolder(folder)).model_dump(), overrides)  # a misspelt one has its own message
        raise SettingsError(
            f"--{given[0]} is a setting of training, and evaluate plays the agent as it was trained. To train with it: "
            f"reflect-rl run RECIPE --{given[0]} VALUE, with the --out of this run or of another one."
        )


def _refuse(given: Mapping[str, Any], why: str) -> None:
    """Raise SettingsError if one of these options is given."""
    for name, value in given.items():
        if value is not None:
            raise SettingsError(f"--{name} is {why}.")


def measure_agent(
    source: str,
    agent: str,
    of_agents: dict[str, Any],
    of_models: dict[str, Any],
    out: str | None,
    rollouts: str | None,
    overrides: dict[str, Any],
) -> None:
    """Evaluate an agent that is not of a run folder, and print its figures. The arguments are those of `evaluate`."""
    from reflect_rl.agents.evaluation import evaluate_agent
    from reflect_rl.cli.tables import agent_summary
    from reflect_rl.config import load_settings, parse_settings, recipe_names
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.rollouts import rollouts_path
    from reflect_rl.runs.trained import read_config

    of_models |= {key: overrides.pop(key) for key in list(overrides) if key.startswith(SERVER)}
    if source not in recipe_names() and expanded(source).is_dir():
        settings = parse_settings(read_config(RunFolder(expanded(source))).model_dump(), overrides)
    else:
        settings = load_settings(source, overrides)
    panels = of_agents["panel"]
    chosen = tuple(dict.fromkeys(names(panels, "--panel") or ["test"]))
    style = [of_models["prompting"] or "direct"] if agent.startswith(PREFIX) else []
    folder = output_folder(default_folder(source, agent, *style) if out is None else out, "--out")
    file = None if rollouts is None else rollouts_path(rollouts)
    options = {"panels": chosen, "episodes": of_agents["episodes"], "workers": of_agents["workers"] or 1}
    plan = _plan(settings, agent, of_models, **options, rollouts=file)
    print(agent_summary(evaluate_agent(plan, folder, Bars())))


def _plan(settings: Settings, agent: str, of_models: dict[str, Any], **options: Any) -> Plan:
    from reflect_rl.agents.evaluation import Plan

    if not agent.startswith(PREFIX):
        _refuse(of_models, f"for --agent openai:MODEL; {agent} is asked without")
        return Plan(settings, agent, **options)
    from reflect_rl.agents.language import LanguagePlan, Prompting

    server = {key: value for key, value in of_models.items() if key.startswith(SERVER)}
    if of_models["budget_usd"] is not None:
        server["server.budget_usd"] = of_models["budget_usd"]
    served = server_settings(agent, server)
    style, trials, history = of_models["prompting"] or "direct", of_models["trials"], of_models["history"]
    if style != "reflexion":
        _refuse({"trials": trials}, "for --prompting reflexion")
    prompting = Prompting.load(style, of_models["prompts"], trials or 3, history, of_models["max_tokens"])
    return LanguagePlan(settings, agent, **options, prompting=prompting, server=served)


def default_folder(source: str, *parts: str) -> Path:
    """runs/RECIPE-PART-PART, with each part as a file name can have it."""
    return Path("runs") / "-".join([Path(source).stem, *(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)])


def report_file(path: Path) -> Path:
    """Write the page of a file of rollouts beside it, or of an agent's evaluation into its folder."""
    from reflect_rl.evaluation.report_rollouts import report_rollouts, rollouts_page
    from reflect_rl.runs.folder import RunFolder

    if path.is_dir():
        run = RunFolder(path)
        results = run.read_json("results.json") if (run / "results.json").exists() else None  # none: interrupted
        report_rollouts(run / "episodes.jsonl", run / "report.html", Bars(), results)
        return run / "report.html"
    page = rollouts_page(path)
    counts = report_rollouts(path, page, Bars())
    print(f"{counts['shown']:,} of {counts['episodes']:,} episodes are shown step by step")
    return page


def export_rollouts(file: InputPath, /, *, to: str) -> None:
    """Export a file of rollouts as a data set for Hugging Face `datasets`, with a card.

    The folder holds README.md and data/: Parquet files if pyarrow is installed, else JSON lines. An earlier export in
    it is replaced.

    For example:

    - `reflect-rl export-rollouts rollouts.jsonl --to my-rollouts`

    Parameters
    ----------
    file
        A file written by --rollouts, or episodes.jsonl of an agent's evaluation.
    to
        The new folder.
    """
    from reflect_rl.evaluation.export_rollouts import export_dataset

    print(export_dataset(file, to, Bars()))
