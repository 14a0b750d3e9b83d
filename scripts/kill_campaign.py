"""Kill small runs at random moments, again and again, and compare what they end with to an undisturbed run.

    python scripts/kill_campaign.py --kills 100 --runs 12

Each run is started, killed with SIGKILL after a random time, and started again until it ends; then every file of its
folder has to be that of the run nobody disturbed, byte by byte (times left out). Exit code 1 if one differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from end_to_end import differences, leftovers, options, reflect_rl

BETWEEN = 10
"""Kills of one run at the most, before it may end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="at the least")
    parser.add_argument("--runs", type=int, default=12, help="at the least")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    random, kills, runs, wrong, stages = Random(asked.seed), 0, 0, 0, Counter()
    with tempfile.TemporaryDirectory(prefix="reflect-rl-kills-") as place:
        whole = Path(place) / "whole"
        started = time.monotonic()
        run(whole, None)
        took = time.monotonic() - started
        while kills < asked.kills or runs < asked.runs:
            folder = Path(place) / f"run-{runs}"
            done = disturbed(folder, random, took / 3, stages)
            found = [*leftovers(folder), *differences(folder, whole)]
            kills, runs, wrong = kills + done, runs + 1, wrong + bool(found)
            print(f"run {runs}: {done} kills, {len(found)} differences {found[:3] if found else ''}", flush=True)
    where = ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items()))
    print(f"{kills} kills over {runs} runs ({where}): {wrong} runs ended otherwise")
    return 1 if wrong else 0


def run(folder: Path, after: float | None) -> bool:
    """Whether the run ended by itself."""
    ended = reflect_rl("run", "taxi", "--out", str(folder), *options(), after=after)
    if ended.code not in (0, -9):
        raise SystemExit(f"the run in {folder} ended with {ended.code}: {ended.err}")
    return ended.code == 0


def disturbed(folder: Path, random: Random, longest: float, stages: Counter[str]) -> int:
    """Kill a run a few times and let it end; the number of kills."""
    kills = 0
    while not run(folder, random.uniform(0.0, longest) if kills < BETWEEN else None):
        kills += 1
        keys = sorted(path.stem for path in folder.glob("checkpoints/*.key"))
        stages[keys[0] if keys else "between stages"] += 1
    return kills


if __name__ == "__main__":
    sys.exit(main())
