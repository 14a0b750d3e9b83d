"""Compare the arms of the method over seeds and label regimes.

Each (regime, arm, seed) has its own run folder, so an interrupted comparison continues. Arms share common stages
through a store. Arms and regimes are defined in YAML: the files of recipes/plans, or the user's own.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import takewhile
from pathlib import Path
from typing import Any

from reflect_rl.errors import ReflectRLError, RunFolderError, SettingsError
from reflect_rl.pipeline.gather import arm_settings, gather, is_finished, place_of, trained_arms
from reflect_rl.pipeline.plan import read_plan
from reflect_rl.pipeline.workers import worker_pool
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.outputs import claim_folder
from reflect_rl.runs.stages import STAGES
from reflect_rl.settings import Settings

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
                arm: arm_settings(recipe, chosen_plan, regime, arm, seed, overrides)
                for arm in trained_arms(chosen_plan, chosen)
            },
        )
        for regime, chosen in chosen_plan["chosen"].items()
        for seed in seeds
    ]
    if not gather_only:
        claim_folder(folder.path, *HOLDS)
        _run_groups(groups, folder.path, workers, progress)
    data = gather(folder, recipe, chosen_plan, seeds, command, overrides, progress)
    if not data["regimes"]:
        raise RunFolderError(
            f"Nothing is finished in {folder.path} of these arms, regimes and seeds. Check --out, or leave out "
            f"--gather-only to train."
        )
    claim_folder(folder.path, *HOLDS)
    folder.write_json("compare.json", data)
    _publish(folder, data)
    return folder / "compare.json"


def _run_groups(groups: Sequence[Group], out: Path, workers: int, progress: Progress) -> None:
    """Train every run in a process of its own, `workers` at a time; the runs of a group one after the other."""
    waiting = deque(
        deque((regime, arm, seed, settings) for arm, settings in arms.items()) for regime, seed, arms in groups
    )
    every = [run for group in waiting for run in group]
    # Those that are done take no time, so they would flatter the rate.
    before = {run[:3] for run in every if is_finished(RunFolder(place_of(out, *run[:3])), run[3], Progress(), {})}
    warned: list[tuple[Run, str]] = []
    active: dict[Future[list[str]], tuple[Run, deque[Run]]] = {}
    with (
        progress.bar("compare", len(every), "runs", done=len(before)) as bar,
        worker_pool(workers) as pool,
    ):

        def begin(group: deque[Run]) -> None:
            run = group.popleft()
            active[pool.submit(train, *run, out)] = run, group

        for _ in range(min(workers, len(waiting))):
            begin(waiting.popleft())
        run: Run | None = None
        try:
            while active:
                done, _ = wait(active, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                finished = 0
                for future in done:
                    run, group = active.pop(future)
                    warned += [(run, text) for text in future.result()]
                    finished += run[:3] not in before
                    if group or waiting:
                        begin(group or waiting.popleft())
                bar.note(running=under_way([place_of(out, *each[:3]) for each, _ in active.values()]))
                bar.update(finished)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if run and isinstance(error, ReflectRLError):
                _pass_on(warned, progress)
                others = f" Those under way are finished first. {error}" if active else ""
                progress.warn(f"{_name(run)} cannot go on.{others}")
            raise
    _pass_on(warned, progress)


def under_way(places: Sequence[Path]) -> str:
    """The runs that are being trained, with the last stage that each has done."""
    return ", ".join(f"{place.parent.name} {place.name}{_last_stage(place)}" for place in places) or "none"


def _last_stage(place: Path) -> str:
    """Of a run that is trained again with other settings, later stages have the manifests of before."""
    always = (stage for stage in STAGES if not stage.when)
    done = [stage.name for stage in takewhile(lambda stage: (place / stage.manifest).is_file(), always)]
    return f" after {done[-1]}" if done else ""


def _name(run: Run) -> str:
    regime, arm, seed, _ = run
    return f"{regime}, {arm}, seed {seed}"


def _pass_on(warned: Sequence[tuple[Run, str]], progress: Progress) -> None:
    """Warn of what was warned of in the runs: once of what differs in its figures alone."""
    alike: dict[str, list[tuple[Run, str]]] = {}
    for run, text in warned:
        alike.setdefault(re.sub(r"\d+", "#", text), []).append((run, text))
    for (run, text), *others in alike.values():
        more = f" and {len(others)} more" if others else ""
        progress.warn(f"{_name(run)}{more}: {text}")


class _Heard(Progress):
    """Keeps the warnings of a run for the process that shows them."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


def train(regime: str, arm: str, seed: int, settings: dict[str, Any], out: Path) -> list[str]:
    """Train and evaluate one run; return its warnings."""
    from reflect_rl.pipeline.run import run_pipeline

    heard, where = _Heard(), place_of(out, regime, arm, seed)
    run_pipeline(Settings.model_validate(settings), where, heard, store=out / "store", until="evaluate")
    return heard.warned


def _publish(folder: RunFolder, data: Mapping[str, Any]) -> None:
    from reflect_rl.evaluation.report import report_compare
    from reflect_rl.evaluation.tables import compare_markdown

    folder.write_text("compare.md", compare_markdown(json.loads(json.dumps(data, allow_nan=False))))
    report_compare(folder.path)
