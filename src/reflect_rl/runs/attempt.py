"""An attempt at a stage: tells its own files in the run folder from the user's, and keeps the former outputs.

An output is the attempt's own if its hash was recorded before it was moved into place. Any other file in its place is
the user's; it is renamed, never overwritten. The stage's former outputs are kept in checkpoints/<stage>.former/ until
the re-run succeeds. An error or interrupt restores them; after a kill they stay there for the next attempt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reflect_rl.runs.folder import CONFIG, EDITED, RunFolder, hash_path, remove, set_aside
from reflect_rl.runs.manifest import Manifest, Stage, read_manifest


class Attempt(RunFolder):
    """The run folder as seen by a running stage.

    The file checkpoints/<stage>.key holds the attempt's key, followed by a line `sha256 name` per output.
    """

    def __init__(self, run: RunFolder, stage: Stage) -> None:
        super().__init__(run.path)
        self.stage = stage
        self.note = f"checkpoints/{stage.name}.key"
        self.former = f"checkpoints/{stage.name}.former"

    def begin(self, key: str) -> bool:
        """Begin with this key; return True if an interrupted attempt with the same key continues."""
        if self._notes()[0] == key:
            return True
        for name in (*self.stage.scratch, *self._outputs()):
            if self._is_own(name):
                remove(self / name)
        self.write_text(self.note, key)
        return False

    def keep_edited(self) -> list[tuple[Path, Path]]:
        """Rename the user's files where the stage writes; return pairs (path, new path)."""
        names = [name for name in (*self.stage.scratch, *self._outputs()) if os.path.lexists(self / name)]
        return [(self / name, set_aside(self / name, EDITED)) for name in names if not self._is_own(name)]

    @contextmanager
    def former_kept(self) -> Iterator[None]:
        """Set the stage's former outputs aside during the block; restore them if it raises."""
        former, manifest = self / self.former, self.stage.manifest
        if (self / manifest).exists() and (former / manifest).exists():
            remove(former)  # left by a successful attempt that was killed before its clean-up
        made = self._made()
        if made:
            for name in self._outputs():
                if self._hash(name) == made.outputs.get(name):
                    _move(self / name, former / name)
            _move(self / manifest, former / manifest)  # last, so that an interrupted move is completed next time
        try:
            yield
        except BaseException:
            if former.exists():
                for name in (*self._outputs(), manifest):
                    if name == manifest or self._is_own(name):
                        remove(self / name)
                    _move(former / name, self / name)
                remove(former)
            raise

    def end(self) -> None:
        """Remove the attempt's temporary files. The note comes last, since it marks the others as ours."""
        if (self / self.note).exists():
            for name in (*self.stage.scratch, self.former, self.note):
                remove(self / name)

    def _place(self, name: str, temporary: Path) -> None:
        if name in self.stage.outputs:
            with (self / self.note).open("a", encoding="utf-8") as file:
                file.write(f"\n{hash_path(temporary)} {name}")  # break first: a kill may have left half a line
                file.flush()
                os.fsync(file.fileno())
        super()._place(name, temporary)

    def _outputs(self) -> list[str]:
        """The stage's outputs, except those inside another run within this folder, which manages its own files."""
        return [name for name in self.stage.outputs if "/" not in name or not (self / name).with_name(CONFIG).exists()]

    def _is_own(self, name: str) -> bool:
        """Whether this attempt or the finished stage made the file."""
        if name in self.stage.scratch:
            return (self / self.note).exists()
        digest, made = self._hash(name), self._made()
        if digest is None:
            return False  # a dangling link
        return f"{digest} {name}" in self._notes()[1:] or (made is not None and digest == made.outputs.get(name))

    def _made(self) -> Manifest | None:
        """The manifest of the stage's former outputs, in place or set aside."""
        return read_manifest(self, self.stage) or read_manifest(RunFolder(self / self.former), self.stage)

    def _hash(self, name: str) -> str | None:
        return self.hash(name) if (self / name).exists() else None

    def _notes(self) -> list[str]:
        """The lines of the note: the attempt's key, then its outputs."""
        try:
            return (self / self.note).read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return [""]


def _move(path: Path, to: Path) -> None:
    """Rename `path` if it exists. A user's file at the target is set aside."""
    if os.path.lexists(path):
        if os.path.lexists(to):
            set_aside(to, EDITED)
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
