"""Which arm of a run acts: the run itself, or what --guard kept instead."""

from __future__ import annotations

from reflect_rl.run_folder import RunFolder
from reflect_rl.settings import Settings

GUARD = "guard.json"
PLAIN_ARM = "no-reflection"


def kept_arm(run: RunFolder, settings: Settings) -> tuple[RunFolder, Settings]:
    """The folder and the settings of the agent that a run ends with."""
    if not settings.guard or not (run / GUARD).is_file():
        return run, settings
    folder = run.read_json(GUARD)["folder"]
    if folder != PLAIN_ARM:
        return run, settings
    return RunFolder(run / PLAIN_ARM), plain_settings(settings)


def plain_settings(settings: Settings) -> Settings:
    """The same settings without reflection."""
    off = settings.policy_sft.model_copy(update={"text": "teacher"})
    reflector = settings.reflector.model_copy(update={"kind": "none"})
    return settings.model_copy(update={"guard": False, "reflector": reflector, "policy_sft": off})
