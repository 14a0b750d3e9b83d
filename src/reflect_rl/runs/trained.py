"""The settings with which the contents of a run folder were made.

config.yaml holds the settings that were requested last. After an interruption, the folder still holds earlier results
made with other settings; the manifests of the finished stages record those.
"""

from __future__ import annotations

from typing import Any

from reflect_rl.config import parse_settings, read_recipe, with_new_names
from reflect_rl.errors import RunFolderError
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import CONFIG, RunFolder
from reflect_rl.runs.manifest import Manifest, Stage, flat, hashes, read_manifest
from reflect_rl.runs.stages import STAGES
from reflect_rl.settings import Settings

BY_NAME = {stage.name: stage for stage in STAGES}
TRAINING = tuple(BY_NAME[name] for name in ("collect", "select", "annotate", "sft_reflector", "sft_policy", "rl"))


def read_config(run: RunFolder) -> Settings:
    """The settings last requested for a run folder. Raises RunFolderError if it is not one."""
    if not (run / CONFIG).is_file():
        raise RunFolderError(f"{run.path} is not a run folder (it has no {CONFIG}). `reflect-rl run` makes one.")
    return parse_settings(with_new_names(read_recipe(run / CONFIG)), source=str(run / CONFIG))


def trained_settings(run: RunFolder, progress: Progress) -> Settings:
    """The settings with which the folder's agent was trained. Warns if config.yaml differs.

    `compute`, which concerns the machine, and `evaluate` come from config.yaml. Raises RunFolderError if the reflector
    is not the one used to train the policy, or if the policy's training has not finished.
    """
    config, trained = read_config(run), _finished(run, BY_NAME["rl"])
    if trained is None:
        if _begun(run, "rl"):
            raise RunFolderError(f"The training of {run / 'policy'} was interrupted. {to_finish(run)}")
        return config
    measured = _measured(run, trained)
    guard = {"guard": measured.settings["guard"]} if measured and "guard" in measured.settings else {}
    settings = _with(run, config, _recorded(run, TRAINING) | guard)
    if settings.reflector.kind == "local":
        now = run.hash("reflector") if (run / "reflector").exists() else None
        if now != trained.inputs.get("reflector"):
            raise RunFolderError(
                f"{run / 'reflector'} is not the reflector that policy/ beside it was trained with. {to_finish(run)}"
            )
    _announce(run, config, settings, progress)
    return settings


def measured_settings(run: RunFolder, progress: Progress) -> Settings:
    """As `trained_settings`, but in the world of the agent's last evaluation, which may differ from training.

    Also raises RunFolderError if other labels have been bought since.
    """
    settings, trained = trained_settings(run, Progress()), _finished(run, BY_NAME["rl"])
    _check_labels(run, trained)
    if trained and (measured := _measured(run, trained)):
        world = {key: value for key, value in measured.settings.items() if not key.startswith("evaluate.")}
        settings = _with(run, settings, world)
    _announce(run, read_config(run), settings, progress)
    return settings


def is_measured(run: RunFolder) -> bool:
    """Whether results.json is there, as `evaluate` wrote it, and is about the agent that is there now."""
    if is_exported(run) or not (run / "results.json").is_file():
        return (run / "results.json").is_file()
    found = read_manifest(run, BY_NAME["evaluate"])
    return bool(found) and found.outputs.get("results.json") == run.hash("results.json") and not is_outdated(run)


def is_outdated(run: RunFolder) -> bool:
    """Whether the last evaluation was of another agent than the one that is there now."""
    found = read_manifest(run, BY_NAME["evaluate"])
    now = hashes(run, ("policy", "reflector", "guard.json"))
    return bool(found) and any(found.inputs.get(name) != digest for name, digest in now.items())


def is_exported(run: RunFolder) -> bool:
    """Whether the folder holds an agent without the record of its run, as `reflect-rl export` writes it."""
    return (run / CONFIG).is_file() and not (run / "manifests").is_dir()


def reported_settings(run: RunFolder) -> Settings:
    """The settings behind a report: for each finished stage, those that it ran with."""
    return _with(run, read_config(run), _recorded(run, (*TRAINING, BY_NAME["evaluate"])))


def _recorded(run: RunFolder, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """By dotted key, the value used by the last finished stage that depends on it."""
    found = [manifest for stage in stages if (manifest := read_manifest(run, stage))]
    return {key: value for manifest in found for key, value in manifest.settings.items()}


def _with(run: RunFolder, settings: Settings, recorded: dict[str, Any]) -> Settings:
    known = flat(settings)
    own = {key: value for key, value in recorded.items() if key in known and not key.startswith("compute.")}
    return parse_settings(settings.model_dump(), own, source=str(run / "manifests"))


def _finished(run: RunFolder, stage: Stage) -> Manifest | None:
    """The stage's manifest; None if it has not finished. Raises RunFolderError if the manifest is damaged."""
    return run.read_json(stage.manifest, Manifest.from_json) if (run / stage.manifest).exists() else None


def _measured(run: RunFolder, trained: Manifest) -> Manifest | None:
    """The manifest of the last evaluation, if it evaluated this policy."""
    found = read_manifest(run, BY_NAME["evaluate"])
    return found if found and found.inputs.get("policy") == trained.outputs.get("policy") else None


def _begun(run: RunFolder, stage: str) -> bool:
    return (run / f"checkpoints/{stage}.key").exists()


def _check_labels(run: RunFolder, trained: Manifest | None) -> None:
    """Raise RunFolderError if the labels, whose number is part of the results, were replaced after training."""
    warmed, bought = read_manifest(run, BY_NAME["sft_policy"]), read_manifest(run, BY_NAME["annotate"])
    if not trained or not warmed or warmed.outputs.get("policy-sft") != trained.inputs.get("policy-sft"):
        return
    names = BY_NAME["annotate"].outputs
    if bought and any(bought.outputs.get(name) != warmed.inputs.get(name) for name in names):
        raise RunFolderError(f"Other labels were bought since {run / 'policy'} was trained. {to_finish(run)}")


def to_finish(run: RunFolder) -> str:
    """What to do, for the end of a message."""
    return f"`reflect-rl run RECIPE --out {run.path}` finishes what was begun."


def _announce(run: RunFolder, config: Settings, used: Settings, progress: Progress) -> None:
    old, new = flat(config), flat(used)
    differ = [f"{key}: {new[key]} ({CONFIG}: {old[key]})" for key in new if new[key] != old[key]]
    if differ:
        progress.warn(f"{run / CONFIG} is not what the agent beside it was made with; used are {'; '.join(differ)}.")
