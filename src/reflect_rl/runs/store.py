"""A shared store of finished stages: runs with a stage in common, such as arms of a comparison, compute it once.

Layout: `<store>/<stage>/<key>/` with the stage's outputs and its manifest. Entries appear by a single rename, so
several processes can use the same store.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from reflect_rl.errors import RunFolderError
from reflect_rl.runs.folder import RunFolder, hash_path, set_aside
from reflect_rl.runs.manifest import Hashes, Manifest, Stage

MANIFEST = "manifest.json"


class Store:
    """Stage outputs by key."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def take(self, run: RunFolder, stage: Stage, key: str) -> Manifest | None:
        """Copy a stage's outputs into a run and return its manifest; None if the store has no intact copy.

        A damaged entry is renamed to make room for an intact one.
        """
        entry = self._entry(stage, key)
        try:
            if not entry.is_dir():
                return None
            present = {name: hash_path(entry / name) for name in stage.outputs if (entry / name).exists()}
            manifest = _read(entry)
            if not manifest or manifest.key != key or _differ(present, manifest.outputs):
                set_aside(entry, "damaged")
                return None
        except OSError:  # another process may have set it aside
            return None
        for name in present:
            with run.replacing(name) as temporary:
                _copy(entry / name, temporary)
        return manifest

    def put(self, run: RunFolder, stage: Stage, manifest: Manifest) -> None:
        """Store a finished stage's outputs unless another process already has. Raises OSError (disk full)."""
        entry = self._entry(stage, manifest.key)
        if entry.exists():
            return
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=entry.parent, ignore_cleanup_errors=True) as folder:
            draft = Path(folder) / "entry"
            draft.mkdir()
            for name in stage.outputs:
                if (run / name).exists():
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    _copy(run / name, draft / name)
            (draft / MANIFEST).write_text(json.dumps(asdict(manifest), allow_nan=False), encoding="utf-8")
            try:
                draft.rename(entry)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # otherwise another process was first
                    raise

    def _entry(self, stage: Stage, key: str) -> Path:
        return self.path / stage.name / key


def _read(entry: Path) -> Manifest | None:
    try:
        return RunFolder(entry).read_json(MANIFEST, Manifest.from_json)
    except RunFolderError:
        return None


def _differ(present: Mapping[str, str], recorded: Hashes) -> bool:
    return any(present.get(name) != digest for name, digest in recorded.items())


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
