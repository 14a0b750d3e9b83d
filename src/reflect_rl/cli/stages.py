"""Single stages of an existing run folder, as commands run them, and the options that these commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import InputPath

if TYPE_CHECKING:
    from reflect_rl.runs.folder import RunFolder

Folder = Annotated[InputPath, Parameter(help="An existing run folder.")]
Force = Annotated[bool, Parameter(negative="", help="Run the stage again even if it is done.")]
Rollouts = Annotated[
    str | None, Parameter(help="A file to which every episode played is appended, one JSON object a line.")
]


def print_summary(folder: Path) -> None:
    """Print the figures of a run, on the first rank."""
    from reflect_rl.cli.tables import run_summary
    from reflect_rl.ranks import Ranks
    from reflect_rl.runs.folder import RunFolder
    from reflect_rl.runs.manifest import total_seconds

    if Ranks.here().first:  # other ranks may get here before the results exist
        print(run_summary(RunFolder(folder), total_seconds(RunFolder(folder))))


def stages_of(
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
