"""Manifests: the record of a finished stage, and the reasons why a stage has to run.

A stage is done if `manifests/<stage>.json` holds the key of what would run now (the settings it depends on, sha256 of
its inputs and of the files that options of its world name, and the library version), and its outputs are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reflect_rl import __version__
from reflect_rl.errors import RunFolderError
from reflect_rl.paths import expanded
from reflect_rl.records import CHECKED, read_record
from reflect_rl.runs.folder import RunFolder, hash_path
from reflect_rl.settings import Settings, setting_keys

WORLD_OPTIONS = "env.options"
OWN_EPISODES = "collect.file"
WORLD_CODE = "world"
"""The name, among a manifest's versions, of the file that defines a world of one's own."""

Hashes = dict[str, str | None]
"""sha256 by file or folder name; None if it does not exist."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline. It reads and writes files of the run folder.

    settings: the dotted keys or sections that it depends on. optional: inputs and outputs that some settings do
    without. scratch: files from which a killed stage continues. when: a setting that must be true for the stage to be
    part of a run. parallel: all processes of a launcher take part; other stages run in the first process only.
    """

    name: str
    settings: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    when: str = ""
    parallel: bool = False

    @property
    def manifest(self) -> str:
        return f"manifests/{self.name}.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The inputs, settings and outputs of a finished stage.

    seconds, peak_memory_mb: wall time of the process that finished the stage, and its peak memory up to then.
    """

    __pydantic_config__ = CHECKED

    stage: str
    key: str
    settings: dict[str, Any]
    inputs: Hashes
    outputs: Hashes = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def write(self, run: RunFolder) -> None:
        run.write_json(f"manifests/{self.stage}.json", asdict(self))

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """Raises ValueError, which names the first invalid field."""
        return read_record(cls, data)


def wanted(run: RunFolder, stage: Stage, settings: Settings) -> Manifest:
    """The manifest (without results) that a stage would get if it ran now."""
    used = select(flat(settings), stage.settings)
    inputs = hashes(run, stage.inputs) | named_files(used)
    content = {"stage": stage.name, "settings": used, "inputs": inputs, "version": __version__}
    key = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return Manifest(stage.name, key, used, inputs, versions=versions())


def read_manifest(run: RunFolder, stage: Stage) -> Manifest | None:
    """The manifest of a finished stage; None if it is missing or damaged, so that the stage runs again."""
    try:
        return run.read_json(stage.manifest, Manifest.from_json)
    except RunFolderError:
        return None


def reason_to_run(
    run: RunFolder, stage: Stage, found: Manifest | None, now: Manifest, former: Mapping[str, Any] | None = None
) -> str | None:
    """Why a stage has to run, as a phrase for the user; None if it is done. former: see `recorded_changes`."""
    if found is None:
        return "not done yet"
    if found.key != now.key:
        if changed := [*recorded_changes(found, now.settings, former), *_changed_inputs(found, now)]:
            return "; ".join(changed)
        if (made := found.versions.get("reflect_rl", "another version")) != __version__:
            return f"made by reflect-rl {made}, this is {__version__}"
    edited = edited_outputs(run, stage, found)
    return f"{', '.join(edited)} was changed or removed since" if edited else None


def _changed_inputs(found: Manifest, now: Manifest) -> Iterator[str]:
    """A phrase for each input that differs.

    Of files in lists of options, earlier versions recorded nothing: those are taken as unchanged. Episodes of one's own
    may be moved away afterwards: the run has a copy.
    """
    for name in dict.fromkeys((*now.inputs, *found.inputs)):
        in_list = name.startswith(f"{WORLD_OPTIONS}.") and "." in name.removeprefix(f"{WORLD_OPTIONS}.")
        missing = (in_list and name not in found.inputs) or (name == OWN_EPISODES and name not in now.inputs)
        if not missing and found.inputs.get(name) != now.inputs.get(name):
            yield f"{name} changed"


def recorded_changes(
    found: Manifest, settings: Mapping[str, Any], former: Mapping[str, Any] | None = None
) -> list[str]:
    """`changes` to the settings with which a stage ran.

    former: the settings requested before, which stand for those that an earlier version did not record. Without them,
    these are taken as unchanged.
    """
    known = {**(former or {}), **found.settings}
    both = known.keys() & settings.keys()
    return changes(*({key: value for key, value in each.items() if key in both} for each in (known, settings)))


def edited_outputs(run: RunFolder, stage: Stage, found: Manifest) -> list[str]:
    """The outputs that changed since the stage wrote them."""
    present = hashes(run, stage.outputs)
    return [name for name in stage.outputs if present[name] != found.outputs.get(name)]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A phrase such as 'rl.lr: 0.0005 -> 0.001' for each key that differs; other versions have other keys."""
    keys = [*new, *(key for key in old if key not in new)]
    unset = "not set"
    return [f"{key}: {old.get(key, unset)} -> {new.get(key, unset)}" for key in keys if old.get(key) != new.get(key)]


def hashes(run: RunFolder, names: tuple[str, ...]) -> Hashes:
    return {name: run.hash(name) if (run / name).exists() else None for name in names}


def option_files(options: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of the files that options of a world name, such as a file of tasks, by option; `files.0` in a list."""
    paths = {name: expanded(value) for name, value in leaves(options) if isinstance(value, str)}
    files = {name: path for name, path in paths.items() if os.path.isfile(path) and os.access(path, os.R_OK)}
    return {name: hash_path(path) for name, path in files.items()}


def named_files(settings: Mapping[str, Any]) -> Hashes:
    """sha256 of the files of the user's that settings name, by dotted key."""
    return dict(option_files({key: settings[key] for key in (WORLD_OPTIONS, OWN_EPISODES) if key in settings}))


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What lists and mappings hold, with dotted names: ("files.0", "a.txt")."""
    if not isinstance(value, Mapping | list | tuple):
        yield name, value
        return
    for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from leaves(each, f"{name}.{key}" if name else str(key))


def flat(settings: Settings) -> dict[str, Any]:
    """Settings by dotted key. Free-form dictionaries (env.options) are single values."""
    data = settings.model_dump(mode="json")
    return {key: _at(data, key) for key in setting_keys()}


def select(values: Mapping[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    """The items whose key equals, or lies below, one of `sections`."""
    return {key: value for key, value in values.items() if any(f"{key}.".startswith(f"{s}.") for s in sections)}


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, read without importing them."""
    found = {"reflect_rl": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "numpy", "gymnasium"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def total_seconds(run: RunFolder) -> dict[str, float]:
    """Wall time by finished stage."""
    paths: list[Path] = sorted((run / "manifests").glob("*.json"))
    return {path.stem: run.read_json(f"manifests/{path.name}", _seconds) for path in paths}


def _seconds(data: Any) -> float:
    seconds = float(data.get("seconds", 0.0))
    if not math.isfinite(seconds):
        raise ValueError(f"'seconds' is {seconds}")
    return seconds


def _at(data: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        data = data[name]
    return data
