"""Any agent on the fixed panels, and files of rollouts: `evaluate --agent`, `report FILE`, `export-rollouts`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import names
from reflect_rl.errors import SettingsError

if TYPE_CHECKING:
    from reflect_rl.agents.evaluation import Plan
    from reflect_rl.settings import Settings

Style = Literal["direct", "react", "reflexion"]
PREFIX = "openai:"


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """The options of `evaluate` for language models."""

    prompting: Style
    trials: int
    history: int | None
    max_tokens: int | None
    prompts: Path | None
    budget_usd: float | None


def measure_agent(
    source: str,
    agent: str,
    panels: str,
    episodes: int | None,
    workers: int,
    asked: LanguageOptions,
    out: str | None,
    rollouts: str | None,
    overrides: dict[str, Any],
) -> None:
    """Evaluate an agent that is not of a run folder, and print its figures. The arguments are those of `evaluate`."""
    from reflect_rl.agents.evaluation import evaluate_agent
    from reflect_rl.cli.tables import agent_summary
    from reflect_rl.config import load_settings, parse_settings, recipe_names
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.outputs import output_folder
    from reflect_rl.runs.rollouts import rollouts_path
    from reflect_rl.runs.trained import read_config

    server = {key: overrides.pop(key) for key in list(overrides) if key.startswith("server.")}
    if source not in recipe_names() and Path(source).is_dir():
        settings = parse_settings(read_config(RunFolder(source)).model_dump(), overrides)
    else:
        settings = load_settings(source, overrides)
    chosen = tuple(dict.fromkeys(names(panels) or ()))
    if not chosen:
        raise SettingsError("--panel names no panel. Name one, such as test, or several separated by commas.")
    style = [asked.prompting] if agent.startswith(PREFIX) else []
    folder = output_folder(default_folder(source, agent, *style) if out is None else out, "--out")
    file = None if rollouts is None else rollouts_path(rollouts)
    plan = _plan(settings, agent, asked, server, panels=chosen, episodes=episodes, workers=workers, rollouts=file)
    print(agent_summary(evaluate_agent(plan, folder, Bars())))


def _plan(settings: Settings, agent: str, asked: LanguageOptions, server: dict[str, Any], **options: Any) -> Plan:
    from reflect_rl.agents.evaluation import Plan

    if not agent.startswith(PREFIX):
        if server:
            raise SettingsError(f"--{next(iter(server))} is for --agent openai:MODEL; {agent} needs no server.")
        return Plan(settings, agent, **options)
    from reflect_rl.agents.language import LanguagePlan, Prompting
    from reflect_rl.config import parse_section
    from reflect_rl.settings.server import ServerSettings

    given = {key.removeprefix("server."): value for key, value in server.items()}
    given |= {} if asked.budget_usd is None else {"budget_usd": asked.budget_usd}
    served = parse_section(ServerSettings, {**given, "model": agent.removeprefix(PREFIX)}, "server")
    prompting = Prompting.load(asked.prompting, asked.prompts, asked.trials, asked.history, asked.max_tokens)
    return LanguagePlan(settings, agent, **options, prompting=prompting, server=served)


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
