"""`reflect-rl bench`: speed, and label efficiency."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from inspect import signature
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import Overrides, Seeds, Workers, whole_numbers
from reflect_rl.errors import SettingsError
from reflect_rl.runs.outputs import output_folder

Size = Annotated[int, Parameter(validator=validators.Number(gte=2))]
OPTIONS = {
    "lm": ("device", "model", "episodes", "peer", "peer_python"),
    "labels": ("seeds", "workers", "out"),
    "select": ("items", "picks"),
    "serve": ("run", "requests"),
    **dict.fromkeys(("alfworld", "autoexplore", "worlds", "client"), ()),
}
"""The options of each measurement; a recipe's has "device" alone."""


def bench(
    recipe: str = "taxi",
    /,
    *,
    device: Literal["cpu", "cuda", "mps"] | None = None,
    model: str | None = None,
    episodes: str = "16,256",
    peer: Literal["trl"] | None = None,
    peer_python: str | None = None,
    seeds: Seeds = "0,1,2",
    workers: Workers = 1,
    out: str = "runs/bench-labels",
    items: Size | None = None,
    picks: Size | None = None,
    run: str | None = None,
    requests: Size = 100_000,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    overrides: Overrides,
) -> None:
    """Measure speed relative to a plain implementation of the same method, in one run.

    For example:

    - `reflect-rl bench taxi` — rollout and update
    - `reflect-rl bench lm --model HuggingFaceTB/SmolLM2-360M-Instruct` — a pretrained model with LoRA adapters
    - `reflect-rl bench alfworld` — the fast ALFWorld engine, against the real one if that is installed
    - `reflect-rl bench autoexplore` — steps, resets and the index of a large folder
    - `reflect-rl bench worlds` — steps of the small worlds
    - `reflect-rl bench select` — selection, against plain numpy
    - `reflect-rl bench client` — the client of model servers, against a plain load loop
    - `reflect-rl bench labels` — what a small model learns from the labels that each strategy picks
    - `reflect-rl bench serve --run runs/taxi` — a server of that agent under load

    Parameters
    ----------
    recipe
        The recipe whose players and world are measured; or lm, alfworld, autoexplore, worlds, select, labels,
        client or serve.
    device
        The device to measure on; the recipe's compute.device by default.
    model
        lm: the model, a folder or hub name.
    episodes
        lm: numbers of episodes of an iteration of RL, separated by commas.
    peer
        lm: also measure an iteration by TRL's GRPOTrainer, in an environment of its own (`make trl`).
    peer_python
        lm: the Python of that environment; .venv-trl/bin/python by default.
    seeds
        labels: the seeds, separated by commas.
    workers
        labels: number of seeds to run side by side.
    out
        labels: the study's folder. An interrupted study continues from it.
    items
        select: measure facility location only, on a pool of this many items.
    picks
        select: number of these items to pick; half of them by default.
    run
        serve: a finished run folder, or an exported agent.
    requests
        serve: number of requests.
    json_
        Print all results as JSON.
    """
    _refuse_others(recipe, locals())
    if recipe == "lm":
        figures, told = _lm(model, overrides, device, episodes, peer, peer_python)
    elif recipe == "alfworld":
        figures, told = _alfworld(overrides)
    elif recipe == "autoexplore":
        figures, told = _autoexplore(overrides)
    elif recipe == "worlds":
        figures, told = _worlds(overrides)
    elif recipe == "select":
        figures, told = _select(overrides, items, picks)
    elif recipe == "client":
        figures, told = _served(overrides)
    elif recipe == "labels":
        figures, told = _labels(overrides, out, seeds, workers)
    elif recipe == "serve":
        figures, told = _serve(run, requests, overrides)
    else:
        figures, told = _recipe(recipe, overrides, device)
    print(json.dumps(figures, indent=2, allow_nan=False) if json_ else told)


def _refuse_others(recipe: str, given: Mapping[str, Any]) -> None:
    """Raise SettingsError for options of other measurements: they would change nothing."""
    for name, option in signature(bench).parameters.items():
        owners = [each for each, names in OPTIONS.items() if name in names]
        if owners and name not in OPTIONS.get(recipe, ("device",)) and given[name] != option.default:
            whose = "bench lm and recipes" if name == "device" else f"bench {owners[0]}"
            shown = name.replace("_", "-")
            raise SettingsError(f"--{shown} is for {whose}, and changes nothing in bench {recipe}. Leave it out.")


Measured = tuple[dict[str, Any], str]
"""The results, and the text that shows them."""


def _lm(
    model: str | None,
    overrides: dict[str, Any],
    device: str | None,
    episodes: str,
    peer: str | None,
    peer_python: str | None,
) -> Measured:
    if model in (None, "scratch"):
        raise SettingsError("bench lm measures a pretrained model: name a folder or a hub name with --model.")
    numbers = whole_numbers(episodes, "--episodes", least=1)
    from reflect_rl.bench.lm import bench_lm, lm_settings, lm_table
    from reflect_rl.bench.peer_trl import check, measure

    settings = lm_settings(model, overrides, device)
    if peer:
        check(numbers[0], peer_python)
    figures = bench_lm(settings, Bars(), numbers, partial(measure, python=peer_python) if peer else None)
    return figures, lm_table(figures)


def _alfworld(overrides: dict[str, Any]) -> Measured:
    from reflect_rl.bench.alfworld import bench_engine, engine_table
    from reflect_rl.config import parse_settings

    figures = bench_engine(parse_settings({}, overrides).env.options, Bars())
    return figures, engine_table(figures)


def _autoexplore(overrides: dict[str, Any]) -> Measured:
    from reflect_rl.bench.autoexplore import autoexplore_table, bench_autoexplore
    from reflect_rl.config import parse_settings

    parse_settings({}, overrides)
    figures = bench_autoexplore(Bars())
    return figures, autoexplore_table(figures)


def _worlds(overrides: dict[str, Any]) -> Measured:
    from reflect_rl.bench.worlds import bench_worlds, worlds_table
    from reflect_rl.config import parse_settings

    parse_settings({}, overrides)
    figures = bench_worlds(Bars())
    return figures, worlds_table(figures)


def _select(overrides: dict[str, Any], items: int | None, picks: int | None) -> Measured:
    from reflect_rl.bench.select import LARGE, bench_large, bench_select, measured_line, select_table
    from reflect_rl.config import parse_settings

    parse_settings({}, overrides)  # raises for unknown settings
    if items or picks:
        figures = bench_large(Bars(), items or LARGE, picks or (items or LARGE) // 2)
        return figures, measured_line("facility_location", figures)
    figures = bench_select(Bars())
    return figures, select_table(figures)


def _served(overrides: dict[str, Any]) -> Measured:
    from reflect_rl.bench.client import bench_client, client_table
    from reflect_rl.config import parse_settings

    parse_settings({}, overrides)
    figures = bench_client(Bars())
    return figures, client_table(figures)


def _labels(overrides: dict[str, Any], out: str, seeds: str, workers: int) -> Measured:
    from reflect_rl.bench.labels import bench_labels, labels_table
    from reflect_rl.cli.tables import table
    from reflect_rl.config import parse_settings

    parse_settings({}, overrides)
    folder = output_folder(out, "--out")
    figures = bench_labels(folder, Bars(), seeds=whole_numbers(seeds), workers=workers)
    return figures, f"{table(labels_table(figures))}\n\nreport  {folder / 'report.html'}"


def _serve(run: str | None, requests: int, overrides: dict[str, Any]) -> Measured:
    if run is None:
        raise SettingsError("bench serve measures a trained agent: name its run folder with --run.")
    from reflect_rl.bench.serve import bench_serve, serve_table
    from reflect_rl.config import parse_settings

    parse_settings({}, overrides)
    figures = bench_serve(run, requests, Bars())
    return figures, serve_table(figures)


def _recipe(recipe: str, overrides: dict[str, Any], device: str | None) -> Measured:
    from reflect_rl.config import load_settings

    settings = load_settings(recipe, overrides)
    from reflect_rl.bench.taxi import bench as measure
    from reflect_rl.bench.taxi import bench_table

    figures = measure(settings.model_dump(), device or settings.compute.device, Bars())
    return figures, bench_table(figures)
