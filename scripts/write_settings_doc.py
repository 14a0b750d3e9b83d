"""Write docs/settings.md from the settings themselves: `python scripts/write_settings_doc.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from reflect_rl.settings import Settings, setting_keys

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
HEAD = """\
<!-- Written by scripts/write_settings_doc.py: change src/reflect_rl/settings.py and run it again. -->

# Settings

A recipe is a YAML file with these sections; every key has a default, so a recipe says only what differs. On the command
line the same keys are options with dots, and a switch may stand alone or be negated:

```sh
reflect-rl run taxi --seed 3 --rl.iterations 30 --rl.lr=1e-3 --guard --no-annotate.distinct --out runs/mine
```

`reflect-rl settings` prints this table. An unknown key, a value of another type or out of range, and a combination that
cannot work are refused before anything starts, with the nearest known key. The defaults are not the recipe `taxi`: what
a run was really made with stands in its `config.yaml` and in its report.
"""


def settings_page() -> str:
    """The page as text: a heading for each section, a row for each setting."""
    sections: dict[str, list[str]] = {}
    for key, info in setting_keys().items():
        section = key.rpartition(".")[0]
        default = _value(info.get_default(call_default_factory=True))
        row = [f"`{key}`", _type(info), f"`{default}`", info.description or ""]
        sections.setdefault(section, []).append(f"| {' | '.join(_cell(text) for text in row)} |")
    blocks = [HEAD]
    for section, rows in sections.items():
        title = f"`{section}`" if section else "The run"
        table = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |", *rows]
        blocks.append(f"## {title}\n\n{_about(section)}\n\n" + "\n".join(table) + "\n")
    return "\n".join(blocks)


def _about(section: str) -> str:
    """The docstring of a section's class, without its line breaks."""
    kind: type[BaseModel] = Settings
    for name in filter(None, section.split(".")):
        kind = kind.model_fields[name].annotation  # type: ignore[assignment]
    return " ".join((kind.__doc__ or "").split())


def _type(info: Any) -> str:
    """Type and range, such as "int ≥ 1", or the values there are."""
    options = get_args(info.annotation)
    if options and all(isinstance(option, str | int) for option in options):
        return ", ".join(f"`{option}`" for option in options)
    name = getattr(info.annotation, "__name__", str(info.annotation))
    bounds = [
        f"{sign} {getattr(limit, name):g}"
        for limit in info.metadata
        for name, sign in SIGNS.items()
        if hasattr(limit, name)
    ]
    return f"{name} {', '.join(bounds)}".strip()


def _value(default: Any) -> str:
    """As YAML writes it."""
    return {True: "true", False: "false"}[default] if isinstance(default, bool) else str(default)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
    print(PAGE)
