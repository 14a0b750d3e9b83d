"""Write measured figures from their files into docs and README: `python scripts/write_result_tables.py`.

Tables of docs/results/alfworld.md stand between `<!-- TABLE comparison: title -->` and `<!-- /TABLE -->`, by the titles
of `compare.md`; those of docs/results/taxi.md between `<!-- TABLE taxi: regime -->` and `<!-- /TABLE -->`. The files
beside them hold what `reflect-rl compare` writes as `compare.json` (alfworld.json by name of the comparison). The
sentence on DangerousTaxi in the README stands between `<!-- TAXI -->` and `<!-- /TAXI -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reflect_rl.evaluation.tables import arm_rows, conditions, detail_rows, markdown_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
TABLE = re.compile(r"(<!-- TABLE ([\w-]+): ([^\n]+) -->\n).*?(<!-- /TABLE -->)", re.DOTALL)
SENTENCE = re.compile(r"(<!-- TAXI -->\n).*?(<!-- /TAXI -->)", re.DOTALL)


def with_tables(page: str, figures: Mapping[str, Any]) -> str:
    """The page with every table made anew. Raises KeyError for a comparison or a title that is not there."""

    def made(comparison: str, title: str) -> str:
        (regime,) = figures[comparison]["regimes"].values()
        return markdown_table(detail_rows(regime["arms"])[title])

    return _filled(page, made)


def with_regimes(page: str, compared: Mapping[str, Any]) -> str:
    """The same of a page whose tables are the regimes of one comparison."""

    def made(_: str, name: str) -> str:
        regime = compared["regimes"][name]
        return f"{conditions(compared, regime)}.\n\n{markdown_table(arm_rows(regime, compared['reference']))}"

    return _filled(page, made)


def with_sentence(page: str, compared: Mapping[str, Any]) -> str:
    """The README with what scarce actions show."""
    arms = compared["regimes"]["scarce-actions"]["arms"]
    ours, plain = arms["reflect-rl"], arms["sft-rl"]
    low, high = (100 * each for each in ours["gain"]["interval"])
    said = (
        f"With {len(ours['seeds'])} seeds, 200 action labels and 2,000 reflection labels, Reflect-RL solves "
        f"{100 * ours['mean']:.1f} % of the starts and the same policy without reflection {100 * plain['mean']:.1f} %: "
        f"{100 * ours['gain']['mean']:.1f} points more, paired by seed [{low:.1f}, {high:.1f}]."
    )
    return SENTENCE.sub(lambda found: f"{found[1]}{said}\n{found[2]}", page)


def _filled(page: str, made: Callable[[str, str], str]) -> str:
    return TABLE.sub(lambda found: f"{found[1]}\n{made(found[2], found[3])}\n\n{found[4]}", page)


def pages() -> dict[Path, str]:
    """Every page as its figures have it."""
    alfworld, taxi = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in ("alfworld", "taxi")
    )
    makers: dict[Path, Callable[[str], str]] = {
        RESULTS / "alfworld.md": lambda page: with_tables(page, alfworld),
        RESULTS / "taxi.md": lambda page: with_regimes(page, taxi),
        ROOT / "README.md": lambda page: with_sentence(page, taxi),
    }
    return {path: make(path.read_text(encoding="utf-8")) for path, make in makers.items()}


if __name__ == "__main__":
    for path, page in pages().items():
        path.write_text(page, encoding="utf-8")
        print(path)
