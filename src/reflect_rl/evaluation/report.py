"""The report: a self-contained HTML page about a run, a comparison, or a study of label efficiency.

The page holds its data in one JSON block and renders itself. It loads nothing from outside, and its Content Security
Policy forbids it to. Missing files are shown as missing. Texts of models and worlds are untrusted: they occur only in
the JSON block, and are inserted as text nodes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from reflect_rl.errors import RunFolderError
from reflect_rl.evaluation.report_selection import evenly, selection_view
from reflect_rl.evaluation.tables import detail_rows
from reflect_rl.intervals import wilson
from reflect_rl.players.context import Context
from reflect_rl.players.hub import PLAYERS
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import CONFIG, RunFolder, reading
from reflect_rl.runs.trained import is_outdated
from reflect_rl.settings import Settings, setting_keys

PAGE = Path(__file__).parent / "page"
SCRIPTS = (
    *("dom.js", "charts.js", "stacks.js", "viewer.js", "reflector.js", "selection.js"),
    *("compare.js", "labels.js", "run.js", "rollouts.js", "page.js"),
)
STAGES = ("collect", "select", "annotate", "sft_reflector", "sft_policy", "rl", "guard", "evaluate")

# With the page itself, these limits keep the file below 1 MB for any run.
MAX_POINTS = 200
MAX_TEXT = 4_000
MAX_EXAMPLES = 40
EXAMPLE_BYTES = 120_000
EPISODE_BYTES = 600_000

CURVES = (
    *("iteration", "episodes", "success", "return_mean", "steps_mean", "entropy", "kl", "clip_fraction", "loss"),
    *("grad_norm", "distinct_prompts", "env_steps", "valid_success"),
)


def report(run: RunFolder, context: Context, progress: Progress) -> dict[str, int]:
    """Write `report.html` of a run from the files in its folder; return counts for the manifest.

    Raises RunFolderError if a file is damaged, or the page cannot be written.
    """
    settings = context.settings
    parts: dict[str, tuple[str, Callable[[], Any]]] = {
        "results": ("results.json", lambda: _optional(run, "results.json")),
        "metrics": ("metrics.jsonl", lambda: _curves(_rows(run, "metrics.jsonl"))),
        **{f"sft_{who}": (f"sft-{who}.jsonl", partial(_losses, run, f"sft-{who}.jsonl")) for who in PLAYERS},
        "reflector": ("reflector.json", lambda: _reflector(_optional(run, "reflector.json"))),
        "episodes": ("evaluation.jsonl", lambda: _episodes(_rows(run, "evaluation.jsonl"))),
        "guard": ("guard.json", lambda: _optional(run, "guard.json")),
        "selection": ("selection.jsonl", lambda: _selection(run, settings)),
        "manifests": ("manifests", lambda: _manifests(run)),
        "compare": ("compare.json", lambda: _optional(run, "compare.json")),
        "settings": (CONFIG, lambda: _settings(settings)),
    }
    data: dict[str, Any] = {"kind": "run", "name": run.path.resolve().name, "env": settings.env.name}
    with progress.bar("report", total=len(parts), unit="part") as bar:
        for name, (file, read) in parts.items():
            with reading(run / file):
                data[name] = clean(read())
            bar.update()
    data["outdated"] = bool(data["results"]) and is_outdated(run)
    if data["outdated"]:
        progress.warn(f"{run / 'results.json'} is of an earlier agent, trained anew since. Evaluate the run again.")
    page = render(data, title=f"{data['name']} · reflect-rl")
    run.write_text("report.html", page)
    episodes, metrics = data["episodes"], data["metrics"]
    return {
        "bytes": len(page.encode()),
        "iterations": metrics["total"] if metrics else 0,
        "episodes": len(episodes["shown"]) if episodes else 0,
    }


def report_compare(folder: Path) -> Path:
    """Write `report.html` of a comparison from its `compare.json`; return the page's path.

    Raises RunFolderError if `compare.json` is missing or damaged, or the page cannot be written.
    """
    run = RunFolder(folder)
    compared = run.read_json("compare.json", lambda data: clean({**data, "details": _details(data)}))
    data = {"kind": "compare", "name": run.path.resolve().name, "compare": compared}
    run.write_text("report.html", render(data, title=f"{data['name']} · comparison · reflect-rl"))
    return run / "report.html"


def _details(compared: Mapping[str, Any]) -> dict[str, Any]:
    return {name: detail_rows(regime.get("arms") or {}) for name, regime in (compared.get("regimes") or {}).items()}


def report_labels(folder: Path) -> Path:
    """Write `report.html` of a label-efficiency study from its `labels.json`. Returns and raises as above."""
    run = RunFolder(folder)
    data = {"kind": "labels", "name": run.path.resolve().name, "labels": run.read_json("labels.json", clean)}
    run.write_text("report.html", render(data, title=f"{data['name']} · label efficiency · reflect-rl"))
    return run / "report.html"


def render(data: Mapping[str, Any], title: str) -> str:
    """The page as text. `data` is JSON; non-finite numbers become null."""
    script = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    block = json.dumps(clean(data), allow_nan=False, separators=(",", ":"))
    parts = {
        "title": html.escape(title),
        "policy": f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'",
        "style": (PAGE / "style.css").read_text(encoding="utf-8"),
        # Without "<", neither "</script" nor "<!--" can end or change the block.
        "data": block.replace("<", "\\u003c"),
        "script": script,
    }
    template = (PAGE / "template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _optional(run: RunFolder, name: str) -> Any:
    return run.read_json(name) if (run / name).exists() else None


def _rows(run: RunFolder, name: str) -> list[dict[str, Any]]:
    return run.read_jsonl(name, _mapping) if (run / name).exists() else []


def _mapping(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TypeError(f"expected an object, found {type(row).__name__}")
    return row


def _curves(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Columns of the metrics: at most MAX_POINTS evenly spaced rows, including the first and the last."""
    if not rows:
        return None
    kept = evenly(rows, MAX_POINTS)
    columns: dict[str, Any] = {key: [row.get(key) for row in kept] for key in CURVES}
    if all(value is None for value in columns["iteration"]):
        columns["iteration"] = list(range(len(kept)))
    known = [bool(row.get("episodes")) and row.get("success") is not None for row in kept]
    bands = [
        wilson(row["success"] * row["episodes"], row["episodes"]) if ok else (None, None)
        for row, ok in zip(kept, known, strict=True)
    ]
    columns["success_low"], columns["success_high"] = [b[0] for b in bands], [b[1] for b in bands]
    for group in ("stop_reasons", "seconds"):
        names = list(dict.fromkeys(name for row in rows for name in row.get(group) or {}))
        columns[group] = {name: [(row.get(group) or {}).get(name) for row in kept] for name in names}
    totals = {name: sum((row.get("seconds") or {}).get(name) or 0 for row in rows) for name in columns["seconds"]}
    return {"total": len(rows), "columns": columns, "seconds": totals}


def _losses(run: RunFolder, name: str) -> dict[str, list[float]] | None:
    """The loss of a warm-up: means of at most MAX_POINTS equal stretches of steps, by the last step of each."""
    losses = [float(row["loss"]) for row in _rows(run, name)]
    if not losses:
        return None
    ends = [len(losses) * (i + 1) // MAX_POINTS for i in range(MAX_POINTS)] if len(losses) > MAX_POINTS else None
    stretches = list(pairwise([0, *(ends or range(1, len(losses) + 1))]))
    return {"step": [end for _, end in stretches], "loss": [fmean(losses[start:end]) for start, end in stretches]}


def _reflector(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """The reflector's figures with examples; those that differ from the teacher come first."""
    if data is None:
        return None
    examples = sorted(data.get("examples") or [], key=lambda example: bool(example.get("same")))
    shown = fit(examples[:MAX_EXAMPLES], EXAMPLE_BYTES)
    return {**data, "examples": shown, "examples_total": len(examples)}


def _episodes(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return {"total": len(rows), "shown": fit(rows, EPISODE_BYTES)} if rows else None


def fit(records: Iterable[Any], budget: int) -> list[Any]:
    """The records that fit into `budget` bytes of JSON, in order and with long texts cut."""
    shown = []
    for record in map(clean, records):
        size = len(json.dumps(record, separators=(",", ":")))
        if size <= budget:
            budget -= size
            shown.append(record)
    return shown


def _selection(run: RunFolder, settings: Settings) -> dict[str, Any] | None:
    """None if no strategy selects: files of an earlier selection do not belong to this run."""
    rows = _rows(run, "selection.jsonl") if settings.selects else []
    if not rows:
        return None
    points = _rows(run, "selection_map.jsonl")
    return selection_view(rows, points, _mapping(_optional(run, "manifests/select.json") or {}), MAX_POINTS)


def _manifests(run: RunFolder) -> list[dict[str, Any]]:
    """The stages' manifests in pipeline order, except the report's own, which would change the page it describes."""
    found = []
    for path in sorted((run / "manifests").glob("*.json")):
        data = run.read_json(f"manifests/{path.name}")
        if not isinstance(data, dict):
            raise RunFolderError(f"{path} should hold an object. Delete it and run the stage '{path.stem}' again.")
        if path.stem != "report":
            stage = str(data.get("stage", path.stem))
            found.append({key: data.get(key) for key in ("seconds", "counts", "versions", "inputs", "outputs")})
            found[-1]["stage"] = stage
    order = {stage: index for index, stage in enumerate(STAGES)}
    return sorted(found, key=lambda manifest: (order.get(manifest["stage"], len(STAGES)), manifest["stage"]))


def _settings(settings: Settings) -> list[dict[str, Any]]:
    """All settings with value, meaning, and whether they differ from the default."""
    values, defaults = (one.model_dump(mode="json") for one in (settings, Settings.model_validate({})))
    rows = []
    for key, info in setting_keys().items():
        value, default = _get(values, key), _get(defaults, key)
        rows.append({"key": key, "value": value, "changed": value != default, "about": info.description})
    return rows


def _get(data: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        data = data[part]
    return data


def clean(data: Any) -> Any:
    """JSON for the page: six significant digits, null for non-finite numbers, long texts cut with a note."""
    if isinstance(data, Mapping):
        return {str(key): clean(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [clean(value) for value in data]
    if isinstance(data, float):
        return float(f"{data:.6g}") if math.isfinite(data) else None
    if isinstance(data, str) and len(data) > MAX_TEXT:
        return f"{data[:MAX_TEXT]}\n[{len(data) - MAX_TEXT:,} more characters not shown]"
    return data
