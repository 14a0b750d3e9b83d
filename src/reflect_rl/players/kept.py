"""Which arm of a run acts: the run itself, or what --guard kept instead."""

from __future__ import annotations

from reflect_rl.config import load_settings
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
    arm = RunFolder(run / PLAIN_ARM)
    return arm, load_settings(arm / "config.yaml")
