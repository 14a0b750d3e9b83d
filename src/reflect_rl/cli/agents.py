"""Any agent on the fixed panels, and files of rollouts: `evaluate --agent`, `report FILE`, `export-rollouts`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import names
from reflect_rl.errors import SettingsError

Panels = Annotated[str, Parameter(help="Panels, separated by commas.")]


def measure_agent(
    source: str,
    agent: str,
    panels: str,
    episodes: int | None,
    workers: int,
    out: str | None,
    rollouts: str | None,
    overrides: dict[str, Any],
) -> None:
    """Evaluate an agent that is not of a run folder, and print its figures. The arguments are those of `evaluate`."""
    from reflect_rl.agents.evaluation import Plan, evaluate_agent
    from reflect_rl.cli.tables import agent_summary
    from reflect_rl.config import load_settings, parse_settings, recipe_names
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.outputs import output_folder
    from reflect_rl.runs.rollouts import rollouts_path
    from reflect_rl.runs.trained import read_config

    if source not in recipe_names() and Path(source).is_dir():
        settings = parse_settings(read_config(RunFolder(source)).model_dump(), overrides)
    else:
        settings = load_settings(source, overrides)
    chosen = tuple(dict.fromkeys(names(panels) or ()))
    if not chosen:
        raise SettingsError("--panel names no panel. Name one, such as test, or several separated by commas.")
    folder = output_folder(default_folder(source, agent) if out is None else out, "--out")
    file = None if rollouts is None else rollouts_path(rollouts)
    run = evaluate_agent(Plan(settings, agent, chosen, episodes, workers, file), folder, Bars())
    print(agent_summary(run))


def default_folder(source: str, *parts: str) -> Path:
    """runs/RECIPE-AGENT, with the agent's name as a file name."""
    return Path("runs") / "-".join([Path(source).stem, *(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)])


def report_file(path: Path) -> Path:
    """Write the page of a file of rollouts beside it, or of an agent's evaluation into its folder."""
    from reflect_rl.evaluation.report_rollouts import report_rollouts, rollouts_page
    from reflect_rl.runs.folder import RunFolder

    if path.is_dir():
        run = RunFolder(path)
        report_rollouts(run / "episodes.jsonl", run / "report.html", Bars(), run.read_json("results.json"))
        return run / "report.html"
    page = rollouts_page(path)
    counts = report_rollouts(path, page, Bars())
    print(f"{counts['shown']:,} of {counts['episodes']:,} episodes are shown step by step")
    return page


def export_rollouts(file: Path, /, *, to: str) -> None:
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
