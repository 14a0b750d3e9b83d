"""Embeddings stored next to their pool: a .npy file, and a JSON file that names the model.

Rows are written to a memory-mapped file as they are computed, so memory does not grow with the pool. Missing rows are
NaN, which shows a continuing process where to go on. The file gets its final name once all rows are there. After an
error it stays, unless it has no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reflect_rl.errors import ReflectRLError, SelectionError
from reflect_rl.pools.file import NO_ARRAY, read_array
from reflect_rl.pools.kept import kept_file
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder

States = Callable[[np.ndarray], Iterator[tuple[int, np.ndarray]]]
"""done_N -> (row, its embedding) for all rows that are not done."""
BLOCK = 4096


def kept_embeddings(
    path: Path, about: dict[str, Any], shape: tuple[int, int], states: States, progress: Progress
) -> np.ndarray:
    """(N, D) float32, memory-mapped: read from `path` if the file there matches `about`, else computed and stored.

    Each step is reported. Raises SelectionError if another process is writing the file, or if it cannot be written.
    """
    note = RunFolder(path.parent)
    if path.exists() and _fingerprint(path) == about["fingerprint"]:
        try:
            kept_ND = read_array(path, shape[0])
        except SelectionError:  # damaged
            kept_ND = None
        if kept_ND is not None and kept_ND.shape == shape:
            progress.say(f"embeddings: {path.name} is of this model and pool, and is used again")
            return kept_ND
    if path.exists():
        progress.say(f"embeddings: {path.name} is not what it should be, and is computed again")
    part = path.with_name(f"{path.name}.part")
    with kept_file(part, path, progress):
        some = False
        try:
            part_ND, done_N = _begun(part, shape)
            some = bool(done_N.any())
            if some:
                progress.say(f"embeddings: {int(done_N.sum()):,} of {shape[0]:,} are there already")
            for row, state_D in states(done_N):
                part_ND[row] = state_D
                some = True
        except BaseException:
            if not some:
                part.unlink()
            raise
        part_ND.flush()
        note.write_json(_note_path(path).name, about)
        part.replace(path)
    progress.say(f"embeddings: kept in {path}")
    return read_array(path, shape[0])


def _begun(part: Path, shape: tuple[int, int]) -> tuple[np.memmap, np.ndarray]:
    """The partly filled array, and (N,) bool: which rows are filled."""
    try:
        part_ND = np.lib.format.open_memmap(part, mode="r")  # r+ would extend a file that is too short
        begun = part_ND.shape == shape and part_ND.dtype == np.float32
    except NO_ARRAY:
        begun = False
    if not begun:
        _fill(part, shape)
    part_ND = np.lib.format.open_memmap(part, mode="r+")
    blocks = (part_ND[first : first + BLOCK] for first in range(0, shape[0], BLOCK))
    return part_ND, np.concatenate([~np.isnan(block_BD).any(1) for block_BD in blocks])


def _fill(part: Path, shape: tuple[int, int]) -> None:
    """Write an array of NaN into an existing file, which may be locked."""
    with part.open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        empty_BD = np.full((BLOCK, shape[1]), np.nan, "<f4")
        for first in range(0, shape[0], BLOCK):
            file.write(empty_BD[: shape[0] - first].tobytes())
        file.truncate()


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _fingerprint(path: Path) -> Any:
    """The fingerprint in the note next to the embeddings; None if there is no valid note."""
    try:
        note = RunFolder(path.parent).read_json(_note_path(path).name)
    except ReflectRLError:
        return None
    return note.get("fingerprint") if isinstance(note, dict) else None
