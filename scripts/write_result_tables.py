"""Write the tables of docs/results/alfworld.md from alfworld.json beside it: `python scripts/write_result_tables.py`.

A table stands between `<!-- TABLE comparison: title -->` and `<!-- /TABLE -->`; the titles are those of `compare.md`.
The file of figures holds what `reflect-rl compare` writes as `compare.json`, by name of the comparison.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from reflect_rl.evaluation.tables import detail_rows, markdown_table

PAGE = Path(__file__).parents[1] / "docs" / "results" / "alfworld.md"
TABLE = re.compile(r"(<!-- TABLE ([\w-]+): ([^\n]+) -->\n).*?(<!-- /TABLE -->)", re.DOTALL)


def with_tables(page: str, figures: dict[str, Any]) -> str:
    """The page with every table made anew. Raises KeyError for a comparison or a title that is not there."""

    def fill(found: re.Match[str]) -> str:
        (regime,) = figures[found[2]]["regimes"].values()
        return f"{found[1]}\n{markdown_table(detail_rows(regime['arms'])[found[3]])}\n\n{found[4]}"

    return TABLE.sub(fill, page)


if __name__ == "__main__":
    figures = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")
    print(PAGE)
