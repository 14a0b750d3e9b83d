"""Write docs/cli.md from the command line itself: `python scripts/write_cli_doc.py`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from reflect_rl.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
GROUPS = {
    "Train": ("run", "collect", "annotate", "sft", "rl", "evaluate", "report", "compare"),
    "Look": ("play", "prompt", "check", "envs", "recipes", "settings"),
    "Share": ("export", "serve", "serve-env", "export-rollouts", "leaderboard"),
    "Select what to label": ("select",),
    "Measure speed": ("bench",),
    "ALFWorld": ("alfworld",),
    "AutoExplore": ("autoexplore",),
}
"""The commands in the order of the page."""
OF_A_WORLD = ("play", "serve-env")
HEAD = """\
<!-- Written by scripts/write_cli_doc.py: change the docstrings in src/reflect_rl/cli/ and run it again. -->

# Commands

`reflect-rl`, or `python -m reflect_rl`, is followed by one of these commands; `--help` says more about each. In a
checkout, `make install` puts it at `.venv/bin/reflect-rl`.

- User errors print one message and exit with code 2; earlier results are kept.
- A model server that stays away, or a budget that is used up, ends a command with code 3; the same command continues.
- An interrupted run exits with code 130 and continues with the same command.
- An output never replaces an input, a folder, or a file that the same command did not write.

All exit codes are in [architecture.md](architecture.md#exit-codes). [running.md](running.md) has pretrained models,
GPUs and several processes.
"""
WORLD = "Takes options of the world, as `--env.horizon` and `--env.options.NAME`."
SETTINGS = "Takes any [setting](settings.md) as an option, such as `--rl.iterations 30`."


def cli_page() -> str:
    """The page as text: a table of all commands, then a section for each."""
    made = _sections(app.generate_docs())
    if missing := made.keys() - {name for names in GROUPS.values() for name in names}:
        raise ValueError(f"GROUPS lacks {missing}")
    blocks = [HEAD, "| command | what it does |\n| --- | --- |"]
    for names in GROUPS.values():
        for name in names:
            blocks[-1] += f"\n| [`reflect-rl {name}`](#reflect-rl-{name}) | {_first_sentence(name)} |"
    for group, names in GROUPS.items():
        blocks.append(f"## {group}")
        blocks += [_with_settings(name, made[name]) for name in names]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _sections(page: str) -> dict[str, str]:
    """Each command's part of what cyclopts writes, one heading lower, by the command's name."""
    parts = re.split(r"^## (?=reflect-rl )", page, flags=re.MULTILINE)[1:]
    found = {}
    for part in parts:
        part = re.sub(r"^(#* ?)(reflect-rl .*)\n\n```console\n(.*)", _with_usage, part, flags=re.MULTILINE)
        text = re.sub(r"^#", "##", f"## {part}", flags=re.MULTILINE).replace("```console", "```text")
        text = re.sub(r"^    (?=\S)", "  ", text, flags=re.MULTILINE)  # the second line of an item
        text = text.replace(" *[default: False]*", "").replace("**Parameters**", "**Options**")
        found[part.split()[1]] = text
    return found


def _with_usage(found: re.Match[str]) -> str:
    """A heading and its usage line, which cyclopts begins with the name of whatever program writes it."""
    arguments = re.search(r" (\[|--|[A-Z]).*", found[3])
    return f"{found[1]}{found[2]}\n\n```console\n{found[2]}{arguments[0] if arguments else ''}"


def _with_settings(name: str, section: str) -> str:
    function = app[name].default_command
    if function is None or "overrides" not in inspect.signature(function).parameters:
        return section
    return f"{section.rstrip()}\n\n{WORLD if name in OF_A_WORLD else SETTINGS}"


def _first_sentence(name: str) -> str:
    return re.split(r"(?<=\.)\s", str(app[name].help).strip())[0]


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
    print(PAGE)
