"""What is checked before a stage runs: the machine, servers, teachers, models, and whether the world was edited."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from reflect_rl.envs.optional import check_teacher
from reflect_rl.envs.registry import code_of, load
from reflect_rl.errors import ReflectRLError, SettingsError
from reflect_rl.paths import expanded
from reflect_rl.progress import Progress
from reflect_rl.ranks import Ranks
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import WORLD_CODE, Manifest, Stage, read_manifest
from reflect_rl.settings import Settings


class WorldCode:
    """The file of a world of one's own, which its author may edit while a run folder holds what was played before.

    Nothing runs again on its own: only the author knows whether an edit changes what is played.
    """

    def __init__(self, name: str, progress: Progress) -> None:
        self.name = name
        self.progress = progress
        self._told = False

    @cached_property
    def version(self) -> dict[str, str]:
        """What manifests record of it; {} for the worlds that ship, and where the file is not at hand."""
        try:
            code = code_of(self.name)
        except ReflectRLError:
            code = None
        return {WORLD_CODE: code} if code else {}

    def compare(self, stage: Stage, found: Manifest | None) -> None:
        """Warn, once, if a stage that is done ran before the file was edited."""
        before = found.versions.get(WORLD_CODE) if found and "env.name" in stage.settings else None
        if not self._told and before and before != self.version.get(WORLD_CODE, before):
            self._told = True
            self.progress.warn(
                f"The file of {self.name} was edited since {stage.name} ran, whose outputs are used as they are. If "
                f"the edit changes what is played, run anew in another folder (--out)."
            )


def check_own_episodes(run: RunFolder, settings: Settings) -> None:
    """Raise SettingsError for episodes of one's own in the run folder: its stages write there."""
    file = settings.collect.file
    if file and expanded(file).resolve().is_relative_to(run.path.resolve()):
        raise SettingsError(f"collect.file is {file}, which lies in the run folder itself. Move it elsewhere first.")


def check_machine(settings: Settings, ranks: Ranks) -> None:
    """Raise SettingsError if this machine lacks something, before anything is written."""
    from reflect_rl.training.tracking import check_tracker

    check_tracker(settings)
    if settings.guard and ranks.count > 1:
        raise SettingsError(
            f"guard: true trains a second arm, which {ranks.count} processes cannot share. Run without a launcher, or "
            f"train the arm without reflection as a run of its own (--reflector.kind none)."
        )
    if settings.compute.shard and ranks.count == 1:
        raise SettingsError(
            "compute.shard shares a model between processes, and there is only one. Start several: "
            "torchrun --nproc-per-node 2 -m reflect_rl ..., or drop compute.shard."
        )
    if settings.compute.device == "mps" and ranks.count > 1:
        raise SettingsError(f"{ranks.count} processes cannot share compute.device: mps. Run without a launcher.")
    if settings.compute.device != "cpu":
        from reflect_rl.lm.torch_setup import check_device

        check_device(settings.compute.device)


def check_servers(run: RunFolder, settings: Settings, chosen: Sequence[Stage]) -> None:
    """Raise SettingsError if a later stage needs a model server that cannot be asked, before the first one runs."""
    from reflect_rl.model_servers.model import check_server

    teacher = settings.teacher if settings.served_teacher else None
    reflector = settings.reflector.asked if settings.reflector.is_served else None
    for stage in chosen:
        server = {"annotate": teacher, "sft_policy": reflector}.get(stage.name)
        if server and read_manifest(run, stage) is None:
            check_server(server)


def check_teacher_of(run: RunFolder, settings: Settings, chosen: Sequence[Stage]) -> None:
    """Raise TeacherError for a scripted teacher that the world does not have, before anything is collected."""
    asked = settings.annotate.reflections and not settings.served_teacher
    needed = settings.reflector.kind == "scripted" or (asked and settings.reflector.kind not in ("none", "prompted"))
    if needed and any(stage.name == "annotate" and read_manifest(run, stage) is None for stage in chosen):
        check_teacher(load(settings.env.name), settings.annotate.teacher)


def check_models(run: RunFolder, settings: Settings, chosen: Sequence[Stage]) -> None:
    """Raise ModelError if a later stage needs a model of this machine that is not there, before the first one runs."""
    from reflect_rl.lm.sources import found

    reflector = [settings.reflector.model] if settings.reflector.is_loaded else []
    needed = {"sft_reflector": reflector, "sft_policy": [*reflector, settings.policy.model]}
    for stage in chosen:
        if stage.name in needed and read_manifest(run, stage) is None:
            for model in needed[stage.name]:
                if model.source != "scratch":
                    found(model.source)
