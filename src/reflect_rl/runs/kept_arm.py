"""The arm of a run that acts: the run itself, or the arm without reflection if the guard kept that one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflect_rl.errors import RunFolderError
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import CONFIG, RunFolder
from reflect_rl.runs.manifest import read_manifest
from reflect_rl.runs.trained import BY_NAME, to_finish, trained_settings
from reflect_rl.settings import Settings

GUARD = "guard.json"
PLAIN_ARM = "no-reflection"


def kept_arm(run: RunFolder, settings: Settings) -> tuple[RunFolder, Settings]:
    """The folder and the settings of the run's final agent.

    Raises RunFolderError if the guard has not finished since the agent was trained.
    """
    if not settings.guard:
        return run, settings
    decided, trained = (read_manifest(run, BY_NAME[name]) for name in ("guard", "rl"))
    begun = not (run / GUARD).is_file() and (run / "checkpoints/guard.key").exists()
    if begun or (decided and trained and decided.inputs.get("policy") != trained.outputs.get("policy")):
        raise RunFolderError(f"The guard of {run.path} was interrupted. {to_finish(run)}")
    if not (run / GUARD).is_file() or run.read_json(GUARD, _folder) != PLAIN_ARM:
        return run, settings
    agent = f"{PLAIN_ARM}/policy"
    if decided and run.hash(agent) != decided.outputs.get(agent):
        raise RunFolderError(f"{run / agent} is not the agent that the guard kept. {to_finish(run)}")
    return RunFolder(run / PLAIN_ARM), plain_settings(settings)


def finished_agent(folder: Path, progress: Progress) -> tuple[RunFolder, Settings]:
    """The folder and the settings of the final agent in a run folder, or in a folder made by `reflect-rl export`.

    Warns as `trained_settings` does. Raises RunFolderError if there is no agent, or if its training was interrupted.
    """
    run = RunFolder(folder)
    if not (run / CONFIG).is_file() or not (run / "policy").is_dir():
        raise RunFolderError(
            f"{folder} holds no trained agent ({CONFIG} and policy/). Train one, or finish what was interrupted: "
            f"reflect-rl run RECIPE --out {folder}"
        )
    return kept_arm(run, trained_settings(run, progress))


def plain_settings(settings: Settings) -> Settings:
    """The same settings without reflection."""
    off = settings.policy_sft.model_copy(update={"text": "teacher"})
    reflector = settings.reflector.model_copy(update={"kind": "none"})
    return settings.model_copy(update={"guard": False, "reflector": reflector, "policy_sft": off})


def _folder(data: Any) -> str:
    """The folder of the kept agent, from guard.json."""
    if data["folder"] not in (".", PLAIN_ARM):
        raise ValueError(f"'folder' is {data['folder']!r}")
    return data["folder"]
