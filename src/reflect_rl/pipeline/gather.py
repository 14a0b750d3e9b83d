"""The results of a comparison from its run folders: means over seeds with intervals, and gains paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from reflect_rl.config import parse_settings, read_recipe
from reflect_rl.intervals import mean_interval
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import WORLD_CODE, flat, hashes, named_files, read_manifest, recorded_changes, select
from reflect_rl.runs.stages import STAGES
from reflect_rl.settings import Settings

Results = dict[int, dict[str, Any]]
"""results.json by seed."""
COUNTED = tuple(
    name
    for stage in STAGES
    if stage.name not in ("guard", "report")  # they name whole sections
    for name in stage.settings
    if not name.startswith("compute")
)
"""Settings that results depend on, whatever the machine."""


def trained_arms(plan: Mapping[str, Any], arms: Sequence[str]) -> list[str]:
    """The arms to train: the chosen ones, and those that a `better_of` arm picks from."""
    needed = [name for arm in arms for name in plan["arms"][arm].get("better_of", [arm])]
    return list(dict.fromkeys(needed))


def arm_settings(
    recipe: str, plan: Mapping[str, Any], regime: str, arm: str, seed: int, overrides: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The settings of one run, validated before anything starts. What defines an arm goes before the overrides.

    All arms label episodes if the recipe does: an arm without past reflections would otherwise learn from other states.
    """
    read, where = read_recipe(recipe), f"{regime}/{arm}"
    shared = {**plan["regimes"][regime]["settings"], **(overrides or {}), "seed": seed, "compute.threads": 1}
    changed = {**shared, **_own_settings(plan["arms"][arm]["settings"])}
    if parse_settings(read, shared, where).labels_episodes:
        changed["annotate.order"] = "episodes"
    return parse_settings(read, changed, where).model_dump()


def _own_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an arm, with those that follow: without a reflector that writes, there are no texts of its own
    to read, and without any reflector nothing to guard against.
    """
    kind = given.get("reflector.kind")
    follow: dict[str, Any] = {"policy_sft.text": "teacher"} if kind in ("none", "scripted") else {}
    return follow | ({"guard": False} if kind == "none" else {}) | dict(given)


def place_of(out: Path, regime: str, arm: str, seed: int) -> Path:
    return out / "runs" / regime / arm / f"seed-{seed}"


def gather(
    folder: RunFolder,
    recipe: str,
    plan: Mapping[str, Any],
    seeds: Sequence[int],
    command: str,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The comparison's results from its run folders: means over seeds with Student's t intervals.

    Runs of other settings are left out, and named in a warning.
    """
    progress = progress or Progress()
    regimes: dict[str, Any] = {}
    horizon = panel = None

    worlds: dict[str, str] = {}

    def found(regime: str, arm: str) -> Results:
        runs = {seed: RunFolder(place_of(folder.path, regime, arm, seed)) for seed in seeds}
        asked = {seed: arm_settings(recipe, plan, regime, arm, seed, overrides) for seed in seeds}
        return {
            seed: run.read_json("results.json", _measured)
            for seed, run in runs.items()
            if is_finished(run, asked[seed], progress, worlds)
        }

    for regime, arms in plan["chosen"].items():
        results = {arm: found(regime, arm) for arm in trained_arms(plan, arms)}
        for arm in arms:
            if "better_of" in plan["arms"][arm]:
                results[arm] = _better([results[name] for name in plan["arms"][arm]["better_of"]])
        rows = {arm: _row(plan["arms"][arm]["title"], results[arm]) for arm in arms if results[arm]}
        if not rows:
            continue
        for arm in rows:
            start = plan["arms"][arm].get("start")
            if start and (before := results.get(start) or found(regime, start)):
                rows[arm]["added"] = {"to": plan["arms"][start]["title"], **_added(results[arm], before)}
            if arm != plan["reference"] and results.get(plan["reference"]):
                rows[arm]["gain"] = _gain(results[arm], results[plan["reference"]])
        first = next(result for runs in results.values() for result in runs.values())
        horizon, panel = first["horizon"], next(iter(first["panels"]))
        about = plan["regimes"][regime]
        labels = _budgets(
            [arm_settings(recipe, plan, regime, arm, seeds[0], overrides) for arm in trained_arms(plan, arms)]
        )
        regimes[regime] = {
            "title": about["title"],
            "settings": about["settings"],
            "horizon": first["horizon"],
            "labels": labels,
            "arms": rows,
        }
    if len(worlds) > 1:
        progress.warn(
            f"The file of the world was edited between the stages of these runs, so not all played the same: "
            f"{' and '.join(worlds.values())}, for example. If the edit changes what is played, compare anew in "
            f"another folder."
        )
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


def is_finished(run: RunFolder, asked: Mapping[str, Any], progress: Progress, worlds: dict[str, str]) -> bool:
    """Whether a run is finished, every stage with the settings asked for and with what the stages before it wrote.

    A warning tells why a finished one does not count. config.yaml would not say: it has what was requested last.
    worlds: takes where each version of the world's file was played first.
    """
    if not (run / "manifests" / "evaluate.json").is_file():
        return False
    settings = Settings.model_validate(asked)
    asked = flat(settings)
    written = named_files(asked)
    for stage in STAGES:
        if stage.name == "report" or (stage.when and not getattr(settings, stage.when)):
            continue
        found = read_manifest(run, stage)
        if found is None:
            progress.warn(f"{run.path} is left out: {stage.name} has not finished.")
            return False
        counted = replace(found, settings=select(found.settings, COUNTED))
        other = recorded_changes(counted, select(select(asked, stage.settings), COUNTED))
        if stage.name != "guard" and other:
            progress.warn(f"{run.path} is left out: it was trained with other settings ({'; '.join(other)}).")
            return False
        if files := [name for name, digest in found.inputs.items() if written.get(name, digest) != digest]:
            progress.warn(f"{run.path} is left out: {', '.join(files)} changed since {stage.name}.")
            return False
        written |= found.outputs
        if code := found.versions.get(WORLD_CODE):
            worlds.setdefault(code, f"{stage.name} of {run.path}")
    if hashes(run, ("results.json",))["results.json"] != written.get("results.json"):
        progress.warn(f"{run.path} is left out: results.json was changed or removed since evaluate.")
        return False
    return True


def _measured(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results if they are complete; building a row raises if something is missing."""
    _row("", {0: results})
    return results


def _better(arms: Sequence[Results]) -> Results:
    """For each seed, the first of the arms that is best on the valid tasks: what --guard would have kept.

    It spends the labels of all of them, which share a pool and its order: as many as the one that has most.
    """

    def key(result: Mapping[str, Any]) -> tuple[float, float]:
        valid = result["panels"]["valid"]
        return valid["greedy"]["success"], valid["sampled"]["success"]

    def kept(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        labels = {name: max(each["labels"][name] for each in results) for name in results[0]["labels"]}
        return {**max(results, key=key), "labels": labels}

    return {seed: kept([arm[seed] for arm in arms]) for seed in arms[0] if all(seed in arm for arm in arms)}


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
    return {
        "seeds": [seed for seed in found if seed in reference],
        **_paired(found, reference, main, "greedy"),
        "sampled": _paired(found, reference, main, "sampled"),
    }


def _added(found: Results, start: Results) -> dict[str, Any]:
    """The gain over the start arm, on every panel."""
    seeds = [seed for seed in found if seed in start]
    panels = found[seeds[0]]["panels"] if seeds else {}
    added = {panel: {mode: _paired(found, start, panel, mode) for mode in modes} for panel, modes in panels.items()}
    return {"seeds": seeds, "panels": added}
