"""Compare the arms of the method over seeds and label regimes.

Each (regime, arm, seed) has its own run folder, so an interrupted comparison continues. Arms share common stages
through a store. Arms and regimes are defined in YAML: the files of recipes/plans, or the user's own.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from statistics import fmean
from typing import Any

from reflect_rl.config import parse_settings, read_recipe
from reflect_rl.errors import ReflectRLError, RunFolderError, SettingsError
from reflect_rl.intervals import mean_interval
from reflect_rl.pipeline.plan import read_plan
from reflect_rl.pipeline.workers import worker_pool
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import CONFIG, RunFolder
from reflect_rl.runs.outputs import claim_folder
from reflect_rl.runs.stages import STAGES
from reflect_rl.settings import Settings

Results = dict[int, dict[str, Any]]
"""results.json by seed."""
HOLDS = "comparison", "runs/*/*/seed-*"
"""What the folder's mark says, and a glob pattern that identifies an unmarked comparison."""
POLL_SECONDS = 2.0
Group = tuple[str, int, dict[str, dict[str, Any]]]
"""A regime and a seed with the settings of each arm. Its runs are trained in turn, so that they share stages."""
Run = tuple[str, str, int, dict[str, Any]]
"""Regime, arm, seed and settings."""


def compare(
    recipe: str,
    out: str | Path,
    seeds: Sequence[int],
    regimes: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    command: str = "",
    gather_only: bool = False,
    plan: str | Path = "compare",
) -> Path:
    """Train and evaluate every arm; write compare.json, compare.md and report.html; return the path of compare.json.

    overrides: settings of all arms but what an arm is defined by: SFT stays without RL whatever `rl.iterations` says.
    gather_only: train nothing, and publish finished runs; an arm then has the seeds that exist. plan: one of
    `plan_names`, or a YAML file of the same form.

    Raises SettingsError for an unknown plan, regime or arm, or fewer than one worker; OutputError if the folder holds
    something else; RunFolderError if there is nothing to publish; WorkerError if a worker process was killed.
    """
    if workers < 1:
        raise SettingsError(f"workers is {workers}; it takes one process at the least.")
    progress = progress or Progress()
    chosen_plan = read_plan(recipe, regimes, arms, plan)
    folder = RunFolder(out)
    groups = [
        (
            regime,
            seed,
            {
                arm: _settings(recipe, chosen_plan, regime, arm, seed, overrides)
                for arm in _trained(chosen_plan, chosen)
            },
        )
        for regime, chosen in chosen_plan["chosen"].items()
        for seed in seeds
    ]
    if not gather_only:
        claim_folder(folder.path, *HOLDS)
        _run_groups(groups, folder.path, workers, progress)
    data = gather(folder, recipe, chosen_plan, seeds, command, overrides)
    if not data["regimes"]:
        raise RunFolderError(
            f"Nothing is finished in {folder.path} of these arms, regimes and seeds. Check --out, or leave out "
            f"--gather-only to train."
        )
    claim_folder(folder.path, *HOLDS)
    folder.write_json("compare.json", data)
    _publish(folder, data)
    return folder / "compare.json"


def _trained(plan: Mapping[str, Any], arms: Sequence[str]) -> list[str]:
    """The arms to train: the chosen ones, and those that a `better_of` arm picks from."""
    needed = [name for arm in arms for name in plan["arms"][arm].get("better_of", [arm])]
    return list(dict.fromkeys(needed))


def _settings(
    recipe: str, plan: Mapping[str, Any], regime: str, arm: str, seed: int, overrides: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The settings of one run, validated before anything starts. What defines an arm goes before the overrides.

    All arms label episodes if the recipe does: an arm without past reflections would otherwise learn from other states.
    """
    read, where = read_recipe(recipe), f"{regime}/{arm}"
    shared = {**plan["regimes"][regime]["settings"], **(overrides or {}), "seed": seed, "compute.threads": 1}
    changed = {**shared, **plan["arms"][arm]["settings"]}
    if parse_settings(read, shared, where).labels_episodes:
        changed["annotate.order"] = "episodes"
    return parse_settings(read, changed, where).model_dump()


def _run_groups(groups: Sequence[Group], out: Path, workers: int, progress: Progress) -> None:
    """Train every run in a process of its own, `workers` at a time; the runs of a group one after the other."""
    waiting = deque(
        deque((regime, arm, seed, settings) for arm, settings in arms.items()) for regime, seed, arms in groups
    )
    places = [_place(out, regime, arm, seed) for regime, seed, arms in groups for arm in arms]
    with progress.bar("compare", len(places), "runs") as bar, worker_pool(workers) as pool:

        def begin(group: deque[Run]) -> None:
            active[pool.submit(train, *group.popleft(), out)] = group

        active: dict[Future[None], deque[Run]] = {}
        for _ in range(min(workers, len(waiting))):
            begin(waiting.popleft())
        try:
            while active:
                done, _ = wait(active, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    group = active.pop(future)
                    future.result()
                    if group or waiting:
                        begin(group or waiting.popleft())
                bar.note(running=under_way(places))
                bar.update(len(done))
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if active and isinstance(error, ReflectRLError):
                progress.warn(f"A run cannot go on; those under way are finished first. {error}")
            raise


def _place(out: Path, regime: str, arm: str, seed: int) -> Path:
    return out / "runs" / regime / arm / f"seed-{seed}"


def _evaluated(place: Path) -> bool:
    return (place / "manifests" / "evaluate.json").is_file()


def under_way(places: Sequence[Path]) -> str:
    """The runs that have begun and are not finished, with the last stage that each has done."""
    begun = [place for place in places if (place / CONFIG).exists() and not _evaluated(place)]
    return ", ".join(f"{place.parent.name} {place.name}{_last_stage(place)}" for place in begun) or "none"


def _last_stage(place: Path) -> str:
    done = [stage.name for stage in STAGES if (place / "manifests" / f"{stage.name}.json").is_file()]
    return f" after {done[-1]}" if done else ""


def train(regime: str, arm: str, seed: int, settings: dict[str, Any], out: Path) -> None:
    """Train and evaluate one run."""
    from reflect_rl.pipeline.run import run_pipeline

    where = _place(out, regime, arm, seed)
    run_pipeline(Settings.model_validate(settings), where, store=out / "store", until="evaluate")


def gather(
    folder: RunFolder,
    recipe: str,
    plan: Mapping[str, Any],
    seeds: Sequence[int],
    command: str,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The comparison's results from its run folders: means over seeds with Student's t intervals."""
    regimes: dict[str, Any] = {}
    horizon = panel = None
    for regime, arms in plan["chosen"].items():
        results = {arm: _results(folder.path, regime, arm, seeds) for arm in _trained(plan, arms)}
        for arm in arms:
            if "better_of" in plan["arms"][arm]:
                results[arm] = _better([results[name] for name in plan["arms"][arm]["better_of"]])
        rows = {arm: _row(plan["arms"][arm]["title"], results[arm]) for arm in arms if results[arm]}
        if not rows:
            continue
        for arm in rows:
            start = plan["arms"][arm].get("start")
            if start and (before := results.get(start) or _results(folder.path, regime, start, seeds)):
                rows[arm]["added"] = {"to": plan["arms"][start]["title"], **_added(results[arm], before)}
            if arm != plan["reference"] and results.get(plan["reference"]):
                rows[arm]["gain"] = _gain(results[arm], results[plan["reference"]])
        first = next(result for found in results.values() for result in found.values())
        horizon, panel = first["horizon"], next(iter(first["panels"]))
        about = plan["regimes"][regime]
        labels = _budgets([_settings(recipe, plan, regime, arm, seeds[0], overrides) for arm in _trained(plan, arms)])
        regimes[regime] = {"title": about["title"], "settings": about["settings"], "labels": labels, "arms": rows}
    return {
        "recipe": recipe,
        "plan": plan["name"],
        "command": command,
        "horizon": horizon,
        "panel": panel,
        "seeds": list(seeds),
        "reference": plan["arms"][plan["reference"]]["title"],
        "regimes": regimes,
    }


def _budgets(arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The largest budgets among a regime's arms; an arm without RL or reflection uses less."""
    return {
        "actions": max(settings["annotate"]["actions"] for settings in arms),
        "reflections": max(settings["annotate"]["reflections"] for settings in arms),
        "distinct states": arms[0]["annotate"]["distinct"],
        "RL episodes": max(settings["rl"]["iterations"] * settings["rl"]["episodes"] for settings in arms),
    }


def _results(out: Path, regime: str, arm: str, seeds: Sequence[int]) -> Results:
    """The results of one arm that exist, by seed."""
    folders = {seed: RunFolder(_place(out, regime, arm, seed)) for seed in seeds}
    return {seed: run.read_json("results.json", _measured) for seed, run in folders.items() if _evaluated(run.path)}


def _measured(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results if they are complete; building a row raises if something is missing."""
    _row("", {0: results})
    return results


def _better(arms: Sequence[Results]) -> Results:
    """For each seed, the first of the arms that is best on the valid tasks: what --guard would have kept."""

    def key(result: Mapping[str, Any]) -> tuple[float, float]:
        valid = result["panels"]["valid"]
        return valid["greedy"]["success"], valid["sampled"]["success"]

    return {seed: max((arm[seed] for arm in arms), key=key) for seed in arms[0] if all(seed in arm for arm in arms)}


def _row(title: str, found: Results) -> dict[str, Any]:
    """An arm's row: greedy success on the main panel first, then the other panels."""
    results = list(found.values())
    agreement = [result["agreement"] for result in results]
    on_test = [result["panels"]["test"]["greedy"].get("agreement", {}).get("share") for result in results]
    panels = {
        panel: {mode: _over_seeds([result["panels"][panel][mode] for result in results]) for mode in modes}
        for panel, modes in results[0]["panels"].items()
    }

    def success(panel: str, mode: str) -> dict[str, Any]:
        return {key: panels[panel][mode][key] for key in ("success", "mean", "interval")}

    main = next(iter(panels))
    return {
        "title": title,
        "seeds": list(found),
        **success(main, "greedy"),
        "sampled": success(main, "sampled"),
        "test": success("test", "greedy"),
        "valid": success("valid", "greedy"),
        "panels": panels,
        "labels": {key: [result["labels"][key] for result in results] for key in results[0]["labels"]},
        "agreement": agreement,
        **({} if None in agreement else {"reflector": _mean(agreement)}),
        **({} if None in on_test else {"reflector_test": _mean(on_test)}),
    }


def _mean(each: Sequence[float], low: float = 0) -> dict[str, Any]:
    """The mean over seeds of values between `low` and 1, with its interval."""
    return {"mean": fmean(each), "interval": mean_interval(each, low, 1)}


def _over_seeds(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One panel and mode: means over seeds, success within fewer steps, and wins by kind of task over all seeds."""

    def success(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        each = [part["success"] for part in parts]
        return {"success": each, **_mean(each)}

    kinds = {}
    for kind in measured[0].get("kinds", ()):
        parts = [one["kinds"][kind] for one in measured]
        won = sum(round(part["success"] * part["episodes"]) for part in parts)
        kinds[kind] = {"won": won, "episodes": sum(part["episodes"] for part in parts)}
    within = {k: success([one["within"][k] for one in measured]) for k in measured[0].get("within", ())}
    return {
        **success(measured),
        "steps_mean": fmean(one["steps_mean"] for one in measured),
        **({"within": within} if within else {}),
        **({"kinds": kinds} if kinds else {}),
    }


def _paired(found: Results, other: Results, panel: str, mode: str) -> dict[str, Any]:
    """The difference in success, paired by seed: a seed's arms share pool, labels and reflector. {} without pairs."""
    pairs = [
        [results[seed]["panels"][panel][mode]["success"] for results in (found, other)]
        for seed in found
        if seed in other
    ]
    return _mean([ours - theirs for ours, theirs in pairs], low=-1) if pairs else {}


def _gain(found: Results, reference: Results) -> dict[str, Any]:
    """The gain over the reference arm, on the main panel."""
    main = next(iter(next(iter(found.values()))["panels"]))
    return {**_paired(found, reference, main, "greedy"), "sampled": _paired(found, reference, main, "sampled")}


def _added(found: Results, start: Results) -> dict[str, Any]:
    """The gain over the start arm, on every panel."""
    seeds = [seed for seed in found if seed in start]
    panels = found[seeds[0]]["panels"] if seeds else {}
    added = {panel: {mode: _paired(found, start, panel, mode) for mode in modes} for panel, modes in panels.items()}
    return {"seeds": seeds, "panels": added}


def _publish(folder: RunFolder, data: Mapping[str, Any]) -> None:
    from reflect_rl.evaluation.report import report_compare
    from reflect_rl.evaluation.tables import compare_markdown

    folder.write_text("compare.md", compare_markdown(json.loads(json.dumps(data, allow_nan=False))))
    report_compare(folder.path)
