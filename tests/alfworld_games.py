"""What the tests of the ALFWorld data and engines share: where the games are, and small ones of them."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest

from reflect_rl.envs.alfworld.data import AlfworldData, AlfworldDataError, split_folders
from reflect_rl.envs.alfworld.game import GameFile
from reflect_rl.envs.alfworld.generator import generate
from reflect_rl.envs.alfworld.real_process import missing_packages
from reflect_rl.seeding import stream

PLACE = Path(os.environ.get("ALFWORLD_DATA") or Path(__file__).parents[2] / "shared" / "data" / "alfworld")

needs_data = pytest.mark.skipif(not split_folders(PLACE), reason=f"ALFWorld's games are not at {PLACE} (ALFWORLD_DATA)")
needs_real_engine = pytest.mark.skipif(
    bool(missing_packages()),
    reason=f"ALFWorld's own engine is not installed (missing: {', '.join(missing_packages())})",
)


@cache
def folder_data() -> AlfworldData:
    """The games in the folder layout alone, so that no archive is unpacked."""
    folders = split_folders(PLACE)
    if not folders:
        raise AlfworldDataError("skipped tests do not come here")
    return AlfworldData(next(iter(folders.values())).parent)


@cache
def small_games(kind: str = "", count: int = 2) -> tuple[str, ...]:
    """The ids of the smallest games whose task begins with `kind`: they load fastest."""
    data = folder_data()
    ids = [each for each in data.ids if each.split("/")[1].startswith(kind)]
    return tuple(sorted(ids, key=lambda each: len(data.load(each).problem))[:count])


@cache
def example(kind: str, seed: int = 0) -> GameFile:
    """A generated game of this task type."""
    return generate(kind, stream(seed, f"alfworld example {kind}"), f"generated/example/{kind}/{seed}")


def write(game: GameFile, folder: Path, domain: str, grammar: str) -> Path:
    """Write a game with these rules as a release lays it out: game.tw-pddl and traj_data.json; the game's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "traj_data.json").write_text(json.dumps(game.traj), encoding="utf-8")
    content = {"pddl_domain": domain, "grammar": grammar, "pddl_problem": game.problem, "solvable": True}
    (folder / "game.tw-pddl").write_text(json.dumps(content), encoding="utf-8")
    return folder / "game.tw-pddl"
