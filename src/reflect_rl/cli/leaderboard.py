"""`reflect-rl leaderboard`: a table of results from anybody's files."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import InputPath


def leaderboard(
    world: str,
    /,
    *files: InputPath,
    panel: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    markdown: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make one table of results, the best first, with Wilson's 95 % intervals.

    Files are results.json of runs and of evaluated agents, or in the short form of docs/alfworld-protocol.md. Results
    that differ in their tasks, horizon, or in what agents read are refused.

    For example:

    - `reflect-rl leaderboard alfworld runs/*/results.json`
    - `reflect-rl leaderboard alfworld results/*.json --panel valid_unseen --markdown`

    Parameters
    ----------
    world
        The world that was played, such as alfworld.
    files
        Files of results, or folders with a results.json.
    panel
        The panel; by default valid_seen for alfworld, test for other worlds.
    json_
        Print all figures as JSON.
    markdown
        Print a Markdown table.
    """
    from reflect_rl.cli.tables import table
    from reflect_rl.evaluation.leaderboard import MAIN_PANELS, leaderboard_rows, terms_line
    from reflect_rl.evaluation.leaderboard import leaderboard as ranked
    from reflect_rl.evaluation.tables import markdown_table

    entries = ranked(world, files, panel, Bars().warn)
    if json_:
        print(json.dumps([entry.row() for entry in entries], indent=2, allow_nan=False))
        return
    rows = leaderboard_rows(entries)
    print(markdown_table(rows) if markdown else table(rows))
    print(f"\n{terms_line(entries, panel or MAIN_PANELS.get(world, 'test'))}")
