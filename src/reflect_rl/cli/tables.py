"""The texts that commands print at the end: the results of a run, the settings, and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from reflect_rl.runs.folder import RunFolder

if TYPE_CHECKING:
    from reflect_rl.envs.alfworld.sweep import AnyPlan, Total
    from reflect_rl.envs.alfworld.verify import Report
    from reflect_rl.players.show import Shown
    from reflect_rl.pools.select import Selection


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; the last one is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def prompts_shown(prompts: Sequence[Shown]) -> str:
    """Each player's prompt under a line that says how long it is."""
    parts = []
    for prompt in prompts:
        length = "its tokenizer is trained in the run" if prompt.tokens is None else f"{prompt.tokens} tokens"
        head = f"=== {prompt.who}: {'chat' if prompt.chat else 'plain'} format, {length}"
        answers = f"\n--- answers: {', '.join(map(repr, prompt.answers))}" if prompt.answers else ""
        parts.append(f"{head}\n{prompt.text}{answers}")
    return "\n\n".join(parts)


def run_summary(run: RunFolder, seconds: Mapping[str, float]) -> str:
    """The figures of results.json with horizon, labels and times, and the path of the report.

    seconds: wall time by finished stage.
    """
    return run.read_json("results.json", lambda results: _summary(run, seconds, results))


def _summary(run: RunFolder, seconds: Mapping[str, float], results: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("starts", "choice", "episodes", "success", "95 % interval", "return", "steps", "ended by")
    ]
    for panel, modes in results["panels"].items():
        for mode, figures in modes.items():
            rows.append(_panel_row(panel, mode, figures))
            rows += [
                _part_row(f"  {kind}", part) for kind, part in figures.get("kinds", {}).items() if mode == "greedy"
            ]
            rows += [_part_row(f"  within {steps} steps", part) for steps, part in figures.get("within", {}).items()]
    labels = results["labels"]
    spent = ", ".join(f"{stage} {time:.1f}" for stage, time in seconds.items())
    facts = [
        ("horizon", f"{results['horizon']} steps"),
        ("labels", f"{labels['actions']:,} actions, {labels['reflections']:,} reflections"),
        ("seconds", f"{sum(seconds.values()):.1f} ({spent})"),
        ("results", str(run / "results.json")),
        ("report", str(run / "report.html")),
    ]
    return f"{table(rows)}\n\n{table(facts)}"


def agent_summary(run: RunFolder) -> str:
    """The figures of an agent's evaluation, and the path of its report."""
    return run.read_json("results.json", lambda results: _agent_summary(run, results))


def _agent_summary(run: RunFolder, results: Mapping[str, Any]) -> str:
    heading = ("panel", "episodes", "count", "success", "95 % interval", "return", "steps", "invalid", "seconds")
    rows: list[tuple[str, ...]] = [(*heading, "tokens", "USD", "ended by")]
    for panel, modes in results["panels"].items():
        for mode, figures in modes.items():
            *first, stops = _panel_row(panel, mode, figures)
            rows.append((*first, *per_game(figures), stops))
            rows += [_part_row(f"  {kind}", part) for kind, part in figures.get("kinds", {}).items()]
            rows += [_part_row(f"  within {steps} steps", part) for steps, part in figures.get("within", {}).items()]
    width = len(rows[0])
    facts = [
        ("agent", results["agent"]),
        ("horizon", f"{results['horizon']} steps"),
        ("results", str(run / "results.json")),
        ("episodes", str(run / "episodes.jsonl")),
        ("report", str(run / "report.html")),
    ]
    return f"{table([(*row, *[''] * (width - len(row))) for row in rows])}\n\n{table(facts)}"


def per_game(figures: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The share of invalid answers, and seconds, tokens and US dollars a game; "-" for what is not known."""
    games = figures["episodes"]
    tokens, usd = figures.get("prompt_tokens"), figures.get("usd")
    return (
        f"{100 * figures['invalid'] / max(1, figures['steps']):.1f} %",
        f"{figures['seconds'] / games:.2f}",
        "-" if tokens is None else f"{(tokens + figures['completion_tokens']) / games:,.0f}",
        "-" if usd is None else f"{usd / games:.4f}",
    )


def _panel_row(panel: str, mode: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = figures["interval"]
    stops = ", ".join(f"{reason} {count}" for reason, count in figures["stop_reasons"].items() if count)
    return (
        panel,
        mode,
        str(figures["episodes"]),
        f"{100 * figures['success']:.1f} %",
        f"{100 * low:.1f} to {100 * high:.1f} %",
        f"{figures['return_mean']:.2f}",
        f"{figures['steps_mean']:.1f}",
        stops,
    )


def _part_row(name: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """A row about a part of the episodes in the row above."""
    low, high = figures["interval"]
    steps = f"{figures['steps_mean']:.1f}" if "steps_mean" in figures else ""
    share = f"{100 * figures['success']:.1f} %"
    return (name, "", str(figures.get("episodes", "")), share, f"{100 * low:.1f} to {100 * high:.1f} %", "", steps, "")


def settings_table(keys: Mapping[str, Any]) -> str:
    """All settings: key, type, default, meaning. keys: pydantic's FieldInfo by dotted key."""
    rows = [("setting", "type", "default", "meaning")]
    for key, info in keys.items():
        default = info.get_default(call_default_factory=True)
        rows.append((key, _type_name(info.annotation), str(default), info.description or ""))
    return table(rows)


def _type_name(annotation: Any) -> str:
    options = get_args(annotation)
    if options and all(isinstance(option, str | int) for option in options):
        return "|".join(map(str, options))
    return getattr(annotation, "__name__", str(annotation))


def verify_lines(plan: AnyPlan, total: Total, wrong: Sequence[Report], unit: str = "games") -> list[str]:
    """The result of comparing ALFWorld's engines, with the first differences in full. unit: what was compared."""
    engine = "patched real engine" if plan.patched else "unmodified real engine"
    lines = [
        f"{total.games:,} {unit}, {' and '.join(plan.grammars)}, {plan.steps} steps a walk, seed {plan.seed}, against "
        f"the {engine}: {total.states:,} states compared, {total.differences} differences, {total.errors} errors; "
        f"{total.wins:,} walks won",
        f"the real engine: {total.real_steps_per_second:,.1f} steps/s, {total.real_load_seconds:,.0f} s to begin games",
    ]
    for report in wrong[:20]:
        lines += [f"{report.game}: {error}" for error in report.errors]
        for each in report.differences:
            lines += [
                f"{report.game}, {each.grammar}, step {each.step}, after {each.command!r}: {each.what} differs",
                f"  fast: {each.fast!r}",
                f"  real: {each.real!r}",
            ]
    return lines


def picks_summary(selection: Selection, seconds: float) -> str:
    """The number of picks, their objective, and the bound on any other choice."""
    picks = selection.picks
    text = f"{len(picks):,} of {len(selection.pool.ids):,} items by {selection.name} in {seconds:.1f} s"
    if picks.objective is None:
        return text
    if selection.name == "k-center":
        least = "" if picks.certificate is None else f", and no choice of that size is below {picks.certificate:.6g}"
        return f"{text}; no item is farther than {picks.objective:.6g} from a chosen or labelled one{least}"
    most = "" if picks.certificate is None else f", and no choice of that size is above {picks.certificate:.6g}"
    return f"{text}; objective {picks.objective:.6g}{most}"
