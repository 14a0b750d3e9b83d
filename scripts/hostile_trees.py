"""Explore folders that try to make a reader leave them, and look for what lies outside in all that is told.

    TMPDIR=/dev/shm python scripts/hostile_trees.py --trees 10000    # in memory: several times as fast as on a disk
    python scripts/hostile_trees.py --case 17        # one tree again, with its traceback

Every tree is drawn from its number alone: odd names, links of all kinds, special files; and something is swapped for a
link, a FIFO or another folder while the tree is indexed, or while it is read. Exit code 1 if an explorer told what lies
outside of a tree, raised anything but a message, or took longer than SECONDS.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hostile_folders import HostileFolder, hostile_folder, read_everything, secrets, time_limit
from reflect_rl.envs.autoexplore.sources import repository_tree
from reflect_rl.envs.autoexplore.tree import Tree
from reflect_rl.envs.autoexplore.world import AutoExplore
from reflect_rl.envs.checked import advance, begin
from reflect_rl.errors import EnvironmentContractError

STEPS = 30
"""Steps of an episode."""
SECONDS = 20
"""The longest that one tree may take."""
Explorer = Callable[[HostileFolder], tuple[list[str], Counter[str]]]
"""Explores a tree, which may be swapped meanwhile: all that it told, and counts of what it met."""


def read_all(folder: HostileFolder) -> tuple[list[str], Counter[str]]:
    """Index, then read all names and files: swaps come before, during the one, during the other, or never."""
    random = folder.random
    only = folder.only() if random.random() < 0.3 else None
    try:
        if random.random() < 0.4:
            with folder.swapping():
                tree = Tree.index(folder.root, only=only)
        else:
            tree = Tree.index(folder.root, only=only)
    except EnvironmentContractError:  # the root was swapped
        return [], Counter({"root refused": 1})
    if random.random() < 0.6:
        with folder.swapping():
            return read_everything(tree)
    return read_everything(tree)


def play(folder: HostileFolder) -> tuple[list[str], Counter[str]]:
    """Walk at random through the world, whose tree was indexed before: all texts, facts and actions."""
    random = folder.random
    repository_tree.cache_clear()
    try:
        env = AutoExplore(
            root=str(folder.root),
            question="Where is the secret key kept?",
            horizon=STEPS,
            shown=random.choice(["page", "matches"]),
            listing=random.choice([1, 3, 50]),
            page=random.choice([1, 80, 20_000]),
        )
        observation, actions, _ = begin(env, 0, {})
    except EnvironmentContractError:  # the root's name is not text, or its folder is gone
        return [], Counter({"root refused": 1})
    told, met, stop = [observation, *actions], Counter[str](), None
    with folder.swapping() if random.random() < 0.6 else nullcontext():
        while stop is None:
            told.append(json.dumps(env.describe(), ensure_ascii=False))
            env.expert_set()
            moves = [index for index, action in enumerate(actions) if not action.startswith("id ")]
            choice = random.choice(moves or range(len(actions)))
            met[actions[choice].partition(" ")[0]] += 1
            observation, actions, _, stop = advance(env, choice)
            told += [observation, *actions]
    return told, met


EXPLORERS: dict[str, Explorer] = {"read all": read_all, "play": play}


def explore(explorer: Explorer, case: int) -> tuple[list[str], Counter[str], Counter[str]]:
    """Explore the tree of a number: the secrets that were told, counts of what was met, and of swaps."""
    with hostile_folder(Random(f"hostile tree {case}")) as folder:
        with time_limit(SECONDS):
            told, met = explorer(folder)
        return secrets(told), met, folder.swaps


def campaign(name: str, trees: int, seed: int) -> int:
    """Explore so many trees, and print a table; how many went wrong."""
    started, escapes, crashes, met, swaps = time.monotonic(), 0, 0, Counter[str](), Counter[str]()
    for case in range(seed * trees, (seed + 1) * trees):
        try:
            found, seen, swapped = explore(EXPLORERS[name], case)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
            crashes += 1
            told = [*traceback.format_exception_only(error), *traceback.format_tb(error.__traceback__)[-2:]]
            print(f"CRASH {name} --case {case}: {' '.join(''.join(told).split())[:900]}", flush=True)
            continue
        if found:
            escapes += 1
            print(f"ESCAPE {name} --case {case}: {found[:3]}", flush=True)
        met += seen
        swaps += swapped
    print(f"{name}: {trees:,} trees in {time.monotonic() - started:.0f} s")
    for title, counts in (("met", met), ("swaps", swaps)):
        print(f"  {title}: {', '.join(f'{what} {count:,}' for what, count in counts.most_common())}")
    print(f"  escapes: {escapes}, crashes: {crashes}", flush=True)
    return escapes + crashes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trees", type=int, default=10_000, help="trees for each explorer")
    parser.add_argument("--seed", type=int, default=0, help="another seed is other trees")
    parser.add_argument("--only", choices=sorted(EXPLORERS), help="one explorer")
    parser.add_argument("--case", type=int, help="the tree of this number alone, with its traceback")
    asked = parser.parse_args()
    names = [asked.only] if asked.only else list(EXPLORERS)
    if asked.case is not None:
        for name in names:
            print(name, *explore(EXPLORERS[name], asked.case), sep="\n  ")
        return 0
    return 1 if sum(campaign(name, asked.trees, asked.seed) for name in names) else 0


if __name__ == "__main__":
    sys.exit(main())
