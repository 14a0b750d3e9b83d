"""`reflect-rl bench`: speed, and label efficiency."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import Overrides, Seeds, Workers, whole_numbers
from reflect_rl.runs.outputs import output_folder

Size = Annotated[int, Parameter(validator=validators.Number(gte=2))]


def bench(
    recipe: str = "taxi",
    /,
    *,
    device: Literal["cpu", "cuda", "mps"] | None = None,
    seeds: Seeds = "0,1,2",
    workers: Workers = 1,
    out: str = "runs/bench-labels",
    items: Size | None = None,
    picks: Size | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    overrides: Overrides,
) -> None:
    """Measure speed relative to a plain implementation of the same method, in one run.

    For example:

    - `reflect-rl bench taxi` — rollout and update
    - `reflect-rl bench alfworld` — the fast ALFWorld engine, against the real one if that is installed
    - `reflect-rl bench select` — selection, against plain numpy
    - `reflect-rl bench labels` — what a small model learns from the labels that each strategy picks

    Parameters
    ----------
    recipe
        The recipe whose players and world are measured; or alfworld, select or labels.
    device
        The device to measure on; the recipe's compute.device by default.
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
    json_
        Print all results as JSON.
    """
    from reflect_rl.config import load_settings, parse_settings

    if recipe == "alfworld":
        from reflect_rl.bench.alfworld import bench_engine, engine_table

        figures = bench_engine(parse_settings({}, overrides).env.options, Bars())
        print(json.dumps(figures, indent=2, allow_nan=False) if json_ else engine_table(figures))
        return
    if recipe == "select":
        from reflect_rl.bench.select import LARGE, bench_large, bench_select, measured_line, select_table

        parse_settings({}, overrides)  # raises for unknown settings
        if items or picks:
            figures = bench_large(Bars(), items or LARGE, picks or (items or LARGE) // 2)
            print(
                json.dumps(figures, indent=2, allow_nan=False) if json_ else measured_line("facility_location", figures)
            )
            return
        figures = bench_select(Bars())
        print(json.dumps(figures, indent=2, allow_nan=False) if json_ else select_table(figures))
        return
    if recipe == "labels":
        from reflect_rl.bench.labels import bench_labels, labels_table
        from reflect_rl.cli.tables import table

        parse_settings({}, overrides)
        folder = output_folder(out, "--out")
        figures = bench_labels(folder, Bars(), seeds=whole_numbers(seeds), workers=workers)
        told = f"{table(labels_table(figures))}\n\nreport  {folder / 'report.html'}"
        print(json.dumps(figures, indent=2, allow_nan=False) if json_ else told)
        return
    settings = load_settings(recipe, overrides)
    from reflect_rl.bench.taxi import bench as measure
    from reflect_rl.bench.taxi import bench_table

    figures = measure(settings.model_dump(), device or settings.compute.device, Bars())
    print(json.dumps(figures, indent=2, allow_nan=False) if json_ else bench_table(figures))
