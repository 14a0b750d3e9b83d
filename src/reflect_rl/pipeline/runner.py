"""Run the stages in order: finished stages are skipped, and interrupted ones continue."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reflect_rl.core_yaml import dump_yaml, parse_yaml
from reflect_rl.errors import OutputError, ReflectRLError, RunFolderError
from reflect_rl.memory import give_back_memory, peak_memory_mb
from reflect_rl.pipeline.checks import (
    WorldCode,
    check_machine,
    check_models,
    check_own_episodes,
    check_servers,
    check_teacher_of,
)
from reflect_rl.players.context import Context, StageFunction
from reflect_rl.progress import Progress
from reflect_rl.runs.attempt import Attempt
from reflect_rl.runs.folder import CONFIG, EDITED, RunFolder, set_aside
from reflect_rl.runs.manifest import (
    Manifest,
    Stage,
    changes,
    flat,
    hashes,
    read_manifest,
    reason_to_run,
    recorded_changes,
    select,
    wanted,
)
from reflect_rl.runs.outputs import claim_folder
from reflect_rl.runs.stages import STAGES
from reflect_rl.runs.store import Store
from reflect_rl.runs.trained import read_config
from reflect_rl.settings import Settings

AGENT = "policy"
OF_THE_RUN_ALONE = (
    *("checkpoints", "results.json", "evaluation.jsonl", "report.html", "teacher.sqlite*"),
    *("evaluate.json", "report.json"),
)
"""What a copy of the agent leaves out, as patterns; the last two are manifests."""
LABELLING = "annotate."
"""Settings that collecting depends on only where the expert knows no way: it runs again, and mostly gives the same."""


def run_stages(
    settings: Settings,
    out: str | Path,
    progress: Progress,
    function_of: Callable[[str], StageFunction],
    *,
    store: str | Path | None = None,
    until: str | None = None,
    only: Sequence[str] = (),
    force: bool = False,
    stages: Sequence[Stage] = STAGES,
    config: Settings | None = None,
    rollouts: Path | None = None,
) -> RunFolder:
    """Run stages in the folder `out`, skipping finished ones; return the run folder.

    function_of: gives the function of a stage by name. store: a folder of finished stages, shared between runs. until:
    the last stage to run. only: run these stages only, whatever their inputs were made with. force: run finished stages
    too. config: the settings for config.yaml, if they differ from `settings`. rollouts: a file for all episodes played.

    Raises RunFolderError (the folder is in use, or its settings leave nothing to keep; a file is missing, damaged or
    not writable) and any error of the stages.
    """
    chosen = [stage for stage in _chosen(stages, until, only) if not stage.when or getattr(settings, stage.when)]
    context = Context(settings, rollouts)
    check_machine(settings, context.ranks)
    run = RunFolder(out)
    check_teacher_of(run, settings, chosen)
    check_own_episodes(run, settings)
    if store is None:  # which may have what a server or a model would be asked for
        check_servers(run, settings, chosen)
        check_models(run, settings, chosen)
    code = WorldCode(settings.env.name, progress)
    runner = Runner(run, context, progress, code, function_of, Store(store) if store else None, force)
    if not context.ranks.first:
        for stage in chosen:
            runner.help_with(stage)
        return run
    _check_folder(run)
    with run.lock(runner.progress):
        run.tidy()
        if (run / CONFIG).is_file():
            runner = replace(runner, former=_as_json(flat(read_config(run))))
        former_config = _claim(run, config or settings, stages, runner.progress, whole=not only)
        went_on = False
        try:
            for stage in chosen:
                went_on = runner.bring_up_to_date(stage) or went_on
        except ReflectRLError:
            if former_config and not went_on:  # refused settings leave the folder as it was
                with suppress(RunFolderError):  # report the first error
                    run.write_text(CONFIG, former_config)
            raise
    return run


def copy_agent(run: RunFolder, out: RunFolder) -> None:
    """Copy a run with a trained agent to another folder, without its results, to evaluate the agent there.

    A folder that already holds a copy of this agent is left unchanged. Raises RunFolderError (the run is in use, disk
    full) and OutputError (the folder holds something else).
    """
    claim_folder(out.path, "copy of an agent", known_by=CONFIG)
    if (out / CONFIG).exists():  # copied last
        if (out / AGENT).is_dir() and out.hash(AGENT) == run.hash(AGENT):
            return
        raise OutputError(f"{out.path} holds another agent or run. Choose another folder with --out.")
    with run.lock_to_read():
        entries = sorted(run.path.iterdir(), key=lambda path: (path.name == CONFIG, path.name))
        for source in [path for path in entries if not any(map(path.match, (".*", *OF_THE_RUN_ALONE)))]:
            with out.replacing(source.name) as draft:
                if source.is_dir():
                    shutil.copytree(source, draft, ignore=shutil.ignore_patterns(".*", *OF_THE_RUN_ALONE))
                else:
                    shutil.copyfile(source, draft)


@dataclass(frozen=True, slots=True)
class Runner:
    """Brings the stages of one run up to date. former: the settings that were requested before, by dotted key."""

    run: RunFolder
    context: Context
    progress: Progress
    code: WorldCode
    function_of: Callable[[str], StageFunction]
    store: Store | None = None
    force: bool = False
    former: Mapping[str, Any] = field(default_factory=dict)

    def help_with(self, stage: Stage) -> None:
        """On all ranks but the first: take part in parallel stages that have to run, and write nothing."""
        ranks = self.context.ranks
        if stage.parallel and ranks.agree():
            self.function_of(stage.name)(self.run, self.context, OfOtherRank(ranks.rank, self.progress))

    def bring_up_to_date(self, stage: Stage) -> bool:
        """Return False if the stage is done; otherwise take its outputs from the store, or run it, and return True."""
        self._check_inputs(stage)
        attempt = Attempt(self.run, stage)
        now = wanted(self.run, stage, self.context.settings)
        found = read_manifest(self.run, stage)
        reason = reason_to_run(self.run, stage, found, now, self.former)
        if reason is None and not self.force:
            attempt.end()
            self.progress.say(f"{stage.name}: done before")
            self.code.compare(stage, found)
            self._tell(stage, False)
            return False
        if found:
            self.progress.say(f"{stage.name}: runs again ({reason or 'asked to'})")
        for path, aside in attempt.keep_edited():
            how = "was changed by hand" if found else f"was not written by {stage.name}"
            self.progress.warn(f"{path} {how}; it is kept as {aside.name}.")
        with attempt.former_kept():
            if attempt.begin(now.key):
                self.progress.say(f"{stage.name}: continues")
            taken = self._take(attempt, now)
            self._tell(stage, not taken)
            if not taken:
                self._execute(attempt, now)
        attempt.end()
        return True

    def _tell(self, stage: Stage, runs: bool) -> None:
        if stage.parallel:
            self.context.ranks.agree(runs)

    def _check_inputs(self, stage: Stage) -> None:
        for name in stage.inputs:
            if name not in stage.optional and not (self.run / name).exists():
                raise RunFolderError(
                    f"{stage.name} needs {self.run / name}, which does not exist. Run the stage that writes it, or "
                    f"`reflect-rl run`, first."
                )

    def _take(self, attempt: Attempt, now: Manifest) -> bool:
        stage = attempt.stage
        manifest = self.store and not self.force and self.store.take(attempt, stage, now.key)
        if not manifest:
            return False
        manifest.write(self.run)
        self.progress.say(f"{stage.name}: taken from another run")
        return True

    def _execute(self, attempt: Attempt, now: Manifest) -> None:
        started, stage = time.perf_counter(), attempt.stage
        try:
            counts = self.function_of(stage.name)(attempt, self.context, self.progress)
        finally:
            self.context.end_worlds()
        seconds = round(time.perf_counter() - started, 3)
        give_back_memory()
        outputs = hashes(self.run, stage.outputs)
        for name, digest in outputs.items():
            if digest is None and name not in stage.optional:
                raise RunFolderError(f"{stage.name} ended without writing {self.run / name}.")
        made = replace(now, outputs=outputs, counts=counts, versions=now.versions | self.code.version)
        manifest = replace(made, seconds=seconds, peak_memory_mb=peak_memory_mb())
        manifest.write(self.run)
        if self.store:
            with _announced(self.progress, f"{stage.name} could not be shared with other runs"):
                self.store.put(self.run, stage, manifest)


class OfOtherRank(Progress):
    """Progress of a rank other than the first: silent, but for warnings about this process alone."""

    def __init__(self, rank: int, shown: Progress) -> None:
        self.rank = rank
        self.shown = shown

    def warn_here(self, text: str) -> None:
        self.shown.warn(f"Rank {self.rank}: {text}")


def _chosen(stages: Sequence[Stage], until: str | None, only: Sequence[str]) -> list[Stage]:
    names = [stage.name for stage in stages]
    for name in (*only, *([until] if until else [])):
        if name not in names:
            raise RunFolderError(f"There is no stage '{name}'; the stages are {', '.join(names)}.")
    last = names.index(until) if until else len(names)
    return [stage for index, stage in enumerate(stages) if index <= last and (not only or stage.name in only)]


def _check_folder(run: RunFolder) -> None:
    """Raise RunFolderError for a folder that holds something else, before even a lock is written."""
    if not run.path.is_dir() or (run / CONFIG).is_file():
        return
    others = sorted(path.name for path in run.path.iterdir() if path.name[0] != ".")
    if others:
        raise RunFolderError(
            f"{run.path} is no run folder: it has no {CONFIG}, but {', '.join(others[:3])}. Choose another with --out."
        )


def _claim(run: RunFolder, settings: Settings, stages: Sequence[Stage], progress: Progress, whole: bool) -> str | None:
    """Write config.yaml unless it is up to date; return the text of the former one, if any.

    A folder with other settings may continue if part of it can be kept: if its first stage is unaffected, or if only
    single stages were requested. If the user edited config.yaml by hand, it is set aside.
    """
    former_text = None
    if (run / CONFIG).is_file():
        old = read_config(run)
        changed = changes(flat(old), flat(settings))
        former_text = (run / CONFIG).read_text(encoding="utf-8")
        made = read_manifest(run, stages[0])
        asked = _as_json(select(flat(settings), stages[0].settings))
        asked = {key: value for key, value in asked.items() if not key.startswith(LABELLING)}
        first = recorded_changes(made, asked) if made else []
        if whole and first:
            raise RunFolderError(
                f"{run.path} was made with other settings ({'; '.join(first)}), and nothing of it could be kept. "
                f"Choose another folder with --out, or move this one away."
            )
        if not changed:
            return former_text
        progress.say(f"{run.path} goes on with changed settings: {'; '.join(changed)}")
        if former_text != dump_yaml(parse_yaml(former_text)):
            aside = set_aside(run / CONFIG, EDITED)
            progress.warn(f"{run / CONFIG} was changed by hand; it is kept as {aside.name}.")
    run.write_text(CONFIG, _config_text(settings))
    return former_text


def _config_text(settings: Settings) -> str:
    return dump_yaml(settings.model_dump(mode="json"))


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a manifest stores them."""
    return json.loads(json.dumps(values, allow_nan=False))


@contextmanager
def _announced(progress: Progress, what: str) -> Iterator[None]:
    """Warn about an OSError in a step that only saves time."""
    try:
        yield
    except OSError as error:
        progress.warn(f"{what}: {error}.")
