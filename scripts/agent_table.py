"""Print a Markdown table of agents on the fixed panels: `python scripts/agent_table.py [TITLE=]FOLDER ...`.

A folder is a finished run, or the results of `reflect-rl evaluate --agent`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reflect_rl.cli.tables import per_game
from reflect_rl.evaluation.tables import markdown_table
from reflect_rl.runs.folder import RunFolder

HEADING = (
    "agent",
    "success % [95 % interval]",
    "panel",
    "games",
    "steps",
    "seconds a game",
    "tokens a game",
    "invalid",
)


def rows(title: str, results: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each panel and mode."""
    for panel, modes in results["panels"].items():
        for mode, figures in modes.items():
            low, high = figures["interval"]
            success = f"{100 * figures['success']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            common = f"{title}, {mode}", success, panel, str(figures["episodes"]), f"{figures['steps_mean']:.1f}"
            if "invalid" in figures:
                invalid, seconds, tokens, _ = per_game(figures)
                yield (*common, seconds, tokens, invalid)
            else:
                seconds = results["panel_seconds"][panel][mode] / figures["episodes"]
                yield (*common, f"{seconds:.2f}", "-", "-")


def main(arguments: list[str]) -> None:
    """Print the table, and a note for each panel whose episodes are not the same in all folders."""
    found: list[tuple[str, ...]] = [HEADING]
    hashes: dict[str, set[str]] = {}
    for argument in arguments:
        title, given, folder = argument.rpartition("=")
        results = RunFolder(folder).read_json("results.json")
        found += rows(title if given else results.get("agent") or Path(folder).name, results)
        for panel in results["panels"]:
            hashes.setdefault(panel, set()).add(results["panel_hashes"][panel])
    print(markdown_table(found))
    for panel, different in hashes.items():
        if len(different) > 1:
            print(f"\nThe folders do not have the same episodes of the panel {panel}.")


if __name__ == "__main__":
    main(sys.argv[1:])
