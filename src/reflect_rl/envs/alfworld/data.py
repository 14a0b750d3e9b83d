"""ALFWorld's games on disk: found, listed by split and task type, counted against the published figures, and read.

There are two layouts: the folder that `alfworld-download` makes, `json_2.1.1/<split>/<task>/<trial>/game.tw-pddl` with
`traj_data.json` beside it; and an archive `alfworld*_games.tar.xz` of `<split>/<task>/<trial>.json`, each with a
problem and its trajectory. A folder may hold both; a game in both is read from the first.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from reflect_rl.envs.alfworld.archive import Archive
from reflect_rl.envs.alfworld.game import MAX_GAME_BYTES, GameFile, descriptions, read_game, read_trajectory
from reflect_rl.envs.alfworld.rules import mask_task
from reflect_rl.envs.optional import tasks_hash
from reflect_rl.envs.simple import unknown
from reflect_rl.errors import ReflectRLError
from reflect_rl.paths import expanded

TASK_TYPES = {
    "pick_and_place_simple": "pick and place",
    "look_at_obj_in_light": "examine in light",
    "pick_clean_then_place_in_recep": "clean and place",
    "pick_heat_then_place_in_recep": "heat and place",
    "pick_cool_then_place_in_recep": "cool and place",
    "pick_two_obj_and_place": "pick two and place",
}
"""The six task types in the order in which ALFWorld numbers them, with readable names."""
TREATMENTS = {f"pick_{verb}_then_place_in_recep": verb for verb in ("clean", "heat", "cool")}
"""What is done to the object, in the types that do something to it."""
PUBLISHED: Mapping[str, tuple[int, ...]] = {
    "train": (790, 308, 650, 459, 533, 813),
    "valid_seen": (35, 13, 27, 16, 25, 24),
    "valid_unseen": (24, 18, 31, 23, 21, 17),
    "valid_train": (46, 19, 37, 25, 28, 44),
}
"""Solvable games by split and task type (Shridhar et al. 2021, table 1; valid_train counted from the release)."""
HASHES: Mapping[str, str] = {
    "train": "322e0964893b87bd60506c156c56b7e2ea8a5aeb9f11f8d68f7b94c9cc47525b",
    "valid_seen": "a3825f6938f4b21ffc846db9a4335d7245e9fdc97a45d1e36f45c8031de03843",
    "valid_unseen": "07ecc1cbf51299c2780b2e8e3379eace1a0e081269da85162e1de267c0d16a75",
    "valid_train": "50cb4dd6f80519c250b11b3d03ebbe6c5c1399452937819dee52f9dc281da46c",
}
"""The splits' games by `tasks_hash` of their names."""
SPLITS = tuple(PUBLISHED)
GAME = "game.tw-pddl"
SOLVABLE = re.compile(rb'(?<!\\)"solvable"\s*:\s*(true|false)\s*[,}]')
HOW_TO_GET = (
    'Get it by: pip install "reflect-rl[alfworld]" && alfworld-download (into $ALFWORLD_DATA, else ~/.cache/alfworld). '
    "If you have it elsewhere, give its path or set ALFWORLD_DATA."
)


class AlfworldDataError(ReflectRLError):
    """ALFWorld's game files are absent, incomplete or damaged."""


def find_data(path: str | Path | None = None) -> Path:
    """The folder (or archive) with the games: `path`, else $ALFWORLD_DATA, else ~/.cache/alfworld.

    Raises AlfworldDataError, saying where it looked and how to get the games, if there are none.
    """
    given = path if path is not None else os.environ.get("ALFWORLD_DATA") or Path.home() / ".cache" / "alfworld"
    place = expanded(given)
    if not place.exists():
        raise AlfworldDataError(f"ALFWorld's games are not at {place}: there is no such folder. {HOW_TO_GET}")
    if not split_folders(place) and find_archive(place) is None:
        raise AlfworldDataError(
            f"There are no ALFWorld games in {place}: neither json_2.1.1/ with the splits ({', '.join(SPLITS)}), nor "
            f"an archive alfworld*_games.tar.xz. {HOW_TO_GET}"
        )
    return place


def split_folders(place: Path) -> dict[str, Path]:
    """The folders of the splits that there are, in `place` or in a folder json_* of it (the last by name)."""
    for folder in (place, *sorted(place.glob("json_*"), reverse=True)):
        found = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
        if found:
            return found
    return {}


def find_archive(place: Path) -> Path | None:
    """The archive that `place` is or holds (the last by name), if any."""
    if place.is_file():
        return place if place.name.endswith(".tar.xz") else None
    return next(iter(sorted(place.glob("alfworld*_games.tar.xz"), reverse=True)), None)


class AlfworldData:
    """The solvable games of a data folder. An id reads split/task/trial.

    path: as for `find_data`. Listing reads the end of every game file once (some seconds for the full release); an
    archive is repacked once into a file in the cache, from which single games are read.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = find_data(path)
        found = find_archive(self.path)
        self.archive = Archive(found) if found is not None else None

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The game files of the folder layout by id, solvable ones of a known task type."""
        found: dict[str, Path] = {}
        for split, folder in split_folders(self.path).items():
            for file in sorted(folder.glob(f"*/*/{GAME}")):
                task, trial = file.parent.parent.name, file.parent.name
                if _playable(task, trial) and (file.parent / "traj_data.json").is_file() and is_solvable(file):
                    found[f"{split}/{task}/{trial}"] = file
        return found

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """All ids: split by split in the order of SPLITS, sorted within a split."""
        packed = () if self.archive is None else self.archive.ids
        known = {*self._files, *(each for each in packed if _playable(*each.split("/")[1:]))}
        return tuple(sorted(known, key=lambda each: (SPLITS.index(each.split("/")[0]), each)))

    @cached_property
    def known(self) -> frozenset[str]:
        """All ids, to look one up."""
        return frozenset(self.ids)

    @cached_property
    def described(self) -> frozenset[str]:
        """The ids of the games that people described. All trajectories are read once (the full release: seconds)."""
        found = {each for each, file in self._files.items() if descriptions(read_trajectory(file))}
        if self.archive is not None:
            packed = sorted(self.known - self._files.keys())
            records = zip(packed, self.archive.records(packed), strict=True)
            found |= {each for each, record in records if descriptions(record["traj"])}
        return frozenset(found)

    @cached_property
    def splits(self) -> frozenset[str]:
        """The splits of which there are games."""
        return frozenset(each.partition("/")[0] for each in self.ids)

    def games(self, split: str | None = None) -> tuple[str, ...]:
        """The ids of a split, or of all. Raises AlfworldDataError for an unknown split, and if it has no game here."""
        if split is not None and split not in SPLITS:
            raise AlfworldDataError(unknown("ALFWorld split", split, SPLITS))
        found = tuple(each for each in self.ids if split in (None, each.partition("/")[0]))
        if not found:
            raise AlfworldDataError(f"There is no solvable game of the split {split} in {self.path}. {HOW_TO_GET}")
        return found

    def load(self, game_id: str) -> GameFile:
        """Read one game. Raises AlfworldDataError for an unknown id or a damaged file."""
        if game_id in self._files:
            return read_game(self._files[game_id], id=game_id)
        if self.archive is None or game_id not in self.known:
            raise AlfworldDataError(unknown("ALFWorld game", game_id, self.ids))
        record = self.archive.read(game_id)
        return GameFile(game_id, record["pddl_problem"], record["traj"], record.get("walkthrough"), *self._old_rules)

    @cached_property
    def _old_rules(self) -> tuple[str | None, str | None]:
        """Domain and grammar for the archive's games, which have none: those of any game file, the task left open."""
        for game_id, file in self._files.items():
            game = read_game(file, id=game_id)
            if game.domain and (masked := mask_task(game.grammar or "")):
                return game.domain, masked
        return None, None

    def counts(self) -> dict[str, dict[str, int]]:
        """Games by split and task type."""
        counted = Counter((each.split("/")[0], task_type(each)) for each in self.ids)
        return {split: {kind: counted[split, kind] for kind in TASK_TYPES} for split in SPLITS}

    def table(self) -> list[tuple[str, ...]]:
        """Counts beside the published ones, and the hash of the names, heading first: a row a split."""
        rows = [("split", *TASK_TYPES.values(), "games", "published", "sha256 of the names", "")]
        for split, by_type in self.counts().items():
            counts = tuple(by_type.values())
            digest = tasks_hash(self.games(split)) if sum(counts) else ""
            verdict = _verdict(split, counts, digest)
            rows.append((split, *map(str, counts), str(sum(counts)), str(sum(PUBLISHED[split])), digest[:16], verdict))
        return rows


def _verdict(split: str, counts: tuple[int, ...], digest: str) -> str:
    """Whether these are the published games of a split."""
    total, published = sum(counts), sum(PUBLISHED[split])
    if total != published:
        return "more than published" if total > published else "incomplete" if total else "absent"
    return "complete" if counts == PUBLISHED[split] and HASHES[split] == digest else "other games"


def task_type(game_id: str) -> str:
    """The task type of a game, which its task's name begins with."""
    return game_id.split("/")[1].partition("-")[0]


def _playable(task: str, trial: str) -> bool:
    """Whether ALFWorld plays this task: one of the six types, nothing sliced, no movable receptacle."""
    name = f"{task}/{trial}"
    return task.partition("-")[0] in TASK_TYPES and "movable" not in name and "Sliced" not in name


def is_solvable(file: Path) -> bool:
    """Whether the file says that its game is solvable. The flag stands at the end: the rest is read only if needed."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            if size > MAX_GAME_BYTES:
                raise AlfworldDataError(f"{file} has {size / 1e6:,.0f} MB; ALFWorld's games have 0.2 MB. Remove it.")
            stream.seek(max(0, size - 512))
            found = SOLVABLE.findall(stream.read())
            if not found:
                stream.seek(0)
                found = SOLVABLE.findall(stream.read())
    except OSError as error:
        raise AlfworldDataError(f"{file} cannot be read ({error.strerror}).") from error
    return bool(found) and found[-1] == b"true"
