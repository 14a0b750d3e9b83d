"""Writes the list of modules in docs/architecture.md, room by room, from the first lines of their docstrings.

python scripts/write_modules_doc.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "reflect_rl"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- MODULES -->\n", "<!-- /MODULES -->"


def architecture_page() -> str:
    """The page with an up-to-date list."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n".join(lines()) + "\n" + END + rest.partition(END)[2]


def lines() -> list[str]:
    """A heading a folder, then a line a module."""
    written = []
    for folder in sorted({path.parent for path in SRC.rglob("*.py")}):
        inside = folder.relative_to(SRC.parent)
        init = folder / "__init__.py"
        written += ["", f"### `{inside}/`", ""]
        if init.is_file() and (about := first_line(init)):
            written += [about, ""]
        written += [f"- `{path.name}`: {first_line(path)}" for path in sorted(folder.glob("*.py")) if path != init]
    return written[1:]


def first_line(path: Path) -> str:
    """Of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(architecture_page(), encoding="utf-8")
