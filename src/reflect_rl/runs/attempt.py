"""An attempt at a stage: which files in the run folder are its own, and what the stage had made before.

An output is the attempt's own if its hash was noted before it took its place. Anything else that lies there is the
user's, and is renamed, never overwritten. What the stage had made before stays until it has been made anew: it lies in
checkpoints/<stage>.former/ meanwhile. An error or an interrupt puts it back; a kill leaves it there, for the attempt
that continues.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reflect_rl.runs.folder import CONFIG, RunFolder, hash_path, remove, set_aside
from reflect_rl.runs.manifest import Manifest, Stage, read_manifest

EDITED = "edited"
"""How the names of files end that are the user's and were in the way: NAME.edited, NAME.edited-2, ..."""


class Attempt(RunFolder):
    """The run folder as a stage sees it while it runs.

    The file checkpoints/<stage>.key holds the attempt's key, and after it a line `sha256 name` for every output.
    """

    def __init__(self, run: RunFolder, stage: Stage) -> None:
        super().__init__(run.path)
        self.stage = stage
        self.note = f"checkpoints/{stage.name}.key"
        self.former = f"checkpoints/{stage.name}.former"

    def begin(self, key: str) -> bool:
        """Start with this key; True if an attempt with it was interrupted before, and goes on."""
        if self._notes()[0] == key:
            return True
        for name in (*self.stage.scratch, *self._outputs()):
            if self._is_own(name):
                remove(self / name)
        self.write_text(self.note, key)
        return False

    def keep_edited(self) -> list[tuple[Path, Path]]:
        """Rename what is the user's where the stage writes; pairs (path, new path)."""
        names = [name for name in (*self.stage.scratch, *self._outputs()) if os.path.lexists(self / name)]
        return [(self / name, set_aside(self / name, EDITED)) for name in names if not self._is_own(name)]

    @contextmanager
    def former_kept(self) -> Iterator[None]:
        """Set what the stage had made before aside for the time of the block; bring it back if the block raises."""
        former, manifest = self / self.former, self.stage.manifest
        if (self / manifest).exists() and (former / manifest).exists():
            remove(former)  # of an attempt that ended well, and was killed before it could do this
        made = self._made()
        if made:
            for name in self._outputs():
                if self._hash(name) == made.outputs.get(name):
                    _move(self / name, former / name)
            _move(self / manifest, former / manifest)  # last: a kill in between is made good next time
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
        """Remove what only served the attempt; its note last, by which all of it is known to be ours."""
        if (self / self.note).exists():
            for name in (*self.stage.scratch, self.former, self.note):
                remove(self / name)

    def _place(self, name: str, temporary: Path) -> None:
        if name in self.stage.outputs:
            with (self / self.note).open("a", encoding="utf-8") as file:
                file.write(f"\n{hash_path(temporary)} {name}")  # the line break first: a kill may leave half a line
                file.flush()
                os.fsync(file.fileno())
        super()._place(name, temporary)

    def _outputs(self) -> list[str]:
        """Without those that lie in another run inside of this one, which looks after them itself."""
        return [name for name in self.stage.outputs if "/" not in name or not (self / name).with_name(CONFIG).exists()]

    def _is_own(self, name: str) -> bool:
        """Whether we made what lies there: in this attempt, or when the stage was finished before."""
        if name in self.stage.scratch:
            return (self / self.note).exists()
        digest, made = self._hash(name), self._made()
        if digest is None:
            return False  # a link to nothing
        return f"{digest} {name}" in self._notes()[1:] or (made is not None and digest == made.outputs.get(name))

    def _made(self) -> Manifest | None:
        """The manifest of what the stage had made before, wherever that is now."""
        return read_manifest(self, self.stage) or read_manifest(RunFolder(self / self.former), self.stage)

    def _hash(self, name: str) -> str | None:
        return self.hash(name) if (self / name).exists() else None

    def _notes(self) -> list[str]:
        """The attempt's key, and the lines after it."""
        try:
            return (self / self.note).read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return [""]


def _move(path: Path, to: Path) -> None:
    """Rename what is there, if anything is; what is in the way is the user's, and stays beside it."""
    if os.path.lexists(path):
        if os.path.lexists(to):
            set_aside(to, EDITED)
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
