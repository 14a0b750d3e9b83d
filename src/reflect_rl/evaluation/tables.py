"""The comparison as text: Markdown tables for documents, aligned tables for the terminal.

Both render the content of `compare.json` (see `pipeline.compare`). Missing figures appear as "not measured".
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "not measured"


def compare_markdown(data: Mapping[str, Any]) -> str:
    """The comparison as Markdown: a table per regime, a row per arm, shares in percent.

    Each table's heading states horizon and label budgets, without which a success rate means nothing.
    """
    blocks = [f"## Comparison: {_plain(data.get('recipe', 'unnamed'))}"]
    if command := data.get("command"):
        blocks.append(f"```sh\n{_plain(command)}\n```")
    for name, regime in (data.get("regimes") or {}).items():
        table = markdown_table(arm_rows(regime, data.get("reference")))
        blocks += [f"### {_plain(name)}", f"{conditions(data, regime)}.", table]
        for title, rows in detail_rows(regime.get("arms") or {}).items():
            blocks += [f"#### {title}", markdown_table(rows)]
    if notes := data.get("notes"):
        blocks.append("\n".join(f"- {_plain(note)}" for note in notes))
    return "\n\n".join(blocks) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A heading and rows as a Markdown table; the second column is right-aligned."""
    cells = [[_cell(text) for text in row] for row in rows]
    rule = ["---", "---:"] + ["---"] * (len(cells[0]) - 2)
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))


def compare_terminal(data: Mapping[str, Any]) -> str:
    """The comparison as aligned plain text, without a trailing newline or control characters."""
    blocks = [f"Comparison: {_plain(data.get('recipe', 'unnamed'))}"]
    for name, regime in (data.get("regimes") or {}).items():
        rows = [[_plain(text) for text in row] for row in arm_rows(regime, data.get("reference"))]
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        lines = [f"{_plain(name)} ({conditions(data, regime)})"]
        for row in rows:
            padded = (text + " " * (width - _width(text)) for text, width in zip(row, widths, strict=True))
            lines.append(f"  {'  '.join(padded).rstrip()}")
        blocks.append("\n".join(lines))
    if notes := data.get("notes"):
        blocks.append("\n".join(f"* {_plain(note)}" for note in notes))
    return "\n\n".join(blocks)


def arm_rows(regime: Mapping[str, Any], reference: Any = None) -> list[list[str]]:
    """A heading and a row per arm. Sampled success, agreement and gains get a column only if some arm has them."""
    arms = regime.get("arms") or {}
    sampled = any(arm.get("sampled") for arm in arms.values())
    heading = ["arm", "seeds", "success % [95 % interval]", "each seed %"]
    gains = any(arm.get("gain") for arm in arms.values())
    over = f"points over {reference or 'the reference'}, paired by seed"
    told = {"reflector": "reflector like its teacher, held-out states", "reflector_test": "the same, in test tasks"}
    agrees = [key for key in told if any(arm.get(key) for arm in arms.values())]
    rows = [
        heading
        + ["sampled % [95 % interval]"] * sampled
        + [f"{told[key]} % [95 % interval]" for key in agrees]
        + [over, "the same, sampled"] * gains
    ]
    for name, arm in arms.items():
        seeds = len(arm.get("seeds") or arm.get("success") or [])
        row = [arm.get("title") or name, str(seeds), _mean(arm)]
        row.append(", ".join(map(_percent, arm.get("success") or [])) or ABSENT)
        own = [_mean(arm.get("sampled") or {})] * sampled
        own += [_mean(arm[key], seeds) if arm.get(key) else "" for key in agrees]
        rows.append(row + own + _compared(arm.get("gain"), seeds) * gains)
    return rows


def detail_rows(arms: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Further tables by title: each panel, its wins by kind of task, and each arm's gain over its start.

    A panel gets a table if it shows more than the first one: success within fewer steps, or kinds of task.
    """
    tables: dict[str, list[list[str]]] = {}
    panels = dict.fromkeys(name for arm in arms.values() for name in arm.get("panels") or {})
    for name in panels:
        shown = {arm: row["panels"][name] for arm, row in arms.items() if name in (row.get("panels") or {})}
        soon = list(dict.fromkeys(k for modes in shown.values() for k in modes["greedy"].get("within", ())))
        kinds = list(dict.fromkeys(k for modes in shown.values() for k in modes["greedy"].get("kinds", ())))
        if soon or kinds:
            heading = ["arm", "seeds", "greedy", "each seed", *(f"greedy, {steps} steps" for steps in soon)]
            heading += ["sampled", *(f"sampled, {steps} steps" for steps in soon), "steps, greedy"]
            tables[f"Panel {_plain(name)}, %"] = [
                heading,
                *(_panel_row(arms[arm], modes, soon) for arm, modes in shown.items()),
            ]
        if kinds:
            tables[f"Panel {_plain(name)}, games won by kind of task, greedy, all seeds"] = [
                ["arm", *(kind.replace("_", " ") for kind in kinds)],
                *([arms[arm]["title"], *(_won(modes, kind) for kind in kinds)] for arm, modes in shown.items()),
            ]
    added = {arm: row["added"] for arm, row in arms.items() if (row.get("added") or {}).get("panels")}
    if added:
        columns = [(panel, mode) for panel, modes in next(iter(added.values()))["panels"].items() for mode in modes]
        tables["Points that an arm adds to what it starts from, paired by seed"] = [
            ["arm", "seeds", "starts from", *(f"{panel}, {mode}" for panel, mode in columns)],
            *(
                [arms[arm]["title"], str(len(row["seeds"])), row["to"]]
                + [_points(row["panels"][panel][mode], len(row["seeds"])) for panel, mode in columns]
                for arm, row in added.items()
            ),
        ]
    return tables


def _panel_row(arm: Mapping[str, Any], modes: Mapping[str, Any], soon: Sequence[str]) -> list[str]:
    greedy, sampled = modes["greedy"], modes.get("sampled") or {}
    row = [arm["title"], str(len(greedy["success"])), _mean(greedy), ", ".join(map(_percent, greedy["success"]))]
    row += [_mean((greedy.get("within") or {}).get(steps) or {}) for steps in soon]
    row += [_mean(sampled), *(_mean((sampled.get("within") or {}).get(steps) or {}) for steps in soon)]
    return [*row, f"{greedy['steps_mean']:.1f}"]


def _won(modes: Mapping[str, Any], kind: str) -> str:
    part = (modes["greedy"].get("kinds") or {}).get(kind)
    return f"{part['won']}/{part['episodes']}" if part else ABSENT


def _points(figures: Mapping[str, Any], seeds: int) -> str:
    """A difference in points, with its sign; without an interval if there is only one seed."""
    low, high = figures["interval"]
    return f"{100 * figures['mean']:+.1f}" + (f" [{100 * low:.1f}, {100 * high:.1f}]" if seeds > 1 else "")


def _compared(gain: Mapping[str, Any] | None, seeds: int) -> list[str]:
    """The cells of a gain over the reference; with the number of pairs, if it is not that of the arm's seeds."""
    if not gain:
        return ["", ""]
    pairs = len(gain["seeds"]) if "seeds" in gain else seeds
    told = f" ({pairs} {'pair' if pairs == 1 else 'pairs'})" if 0 < pairs < seeds else ""
    cells = [_mean(figures, pairs) for figures in (gain, gain.get("sampled") or {})]
    return [cell if cell == ABSENT else cell + told for cell in cells]


def _mean(figures: Mapping[str, Any], seeds: int = 0) -> str:
    """A mean with its interval, unless it is of one seed. seeds: how many there are, where `success` does not tell."""
    if figures.get("mean") is None:
        return ABSENT
    interval = None if (len(figures.get("success") or ()) or seeds) == 1 else figures.get("interval")
    return _percent(figures["mean"]) + (f" [{_percent(interval[0])}, {_percent(interval[1])}]" if interval else "")


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.1f}"


def conditions(data: Mapping[str, Any], regime: Mapping[str, Any]) -> str:
    """Horizon and label budgets, such as 'horizon 20, 200 action labels, 2,000 reflection labels'."""
    labels: Mapping[str, Any] = regime.get("labels") or {}
    parts = [f"horizon {regime.get('horizon') or data.get('horizon') or ABSENT}"]
    parts += [f"{labels[kind]:,} {kind[:-1]} labels" for kind in ("actions", "reflections") if _number(labels, kind)]
    others = {key: value for key, value in labels.items() if key not in ("actions", "reflections")}
    parts += [f"{_plain(key).replace('_', ' ')}: {_plain(_scalar(value))}" for key, value in others.items()]
    return ", ".join(parts if labels else [*parts, f"labels {ABSENT}"])


def _number(labels: Mapping[str, Any], key: str) -> bool:
    return isinstance(labels.get(key), int | float)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(_scalar, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _plain(text: Any) -> str:
    """One line without control characters, which a terminal would interpret."""
    words = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(text)).split()
    return " ".join(words)


def _cell(text: str) -> str:
    return _plain(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _width(text: str) -> int:
    """Terminal columns: wide characters take two, combining ones none."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)
