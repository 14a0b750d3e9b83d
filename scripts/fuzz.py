"""Try odd inputs for a while: recipes, pools, run folders, worlds, command lines; print what was tried and found.

    python scripts/fuzz.py --seconds 600
    python scripts/fuzz.py --only worlds --case 17        # one case again, with its traceback

Every case is drawn from its number alone. A finding is whatever is neither a result nor one message, or loses a file.
Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from fuzzing import FUZZERS, Fuzzer, prepare  # noqa: E402


def run_folders(folder: Path) -> Fuzzer:
    """The fuzzer of run folders, which needs finished runs to mutate."""
    import os
    from contextlib import redirect_stderr, redirect_stdout

    import pytest

    import test_run_folder_fuzz as mutated

    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        mutated.write_runs(folder, patch)

    def fuzz(_: Path, random: Random) -> str:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return mutated.fuzz(folder, random)

    return fuzz


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long; every kind gets an equal share")
    parser.add_argument("--only", help="one kind: recipes, pools, run folders, worlds, command lines")
    parser.add_argument("--case", type=int, help="this one case, with its traceback")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    asked = parser.parse_args()
    sys.stdin = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="reflect-rl-fuzz-") as place:
        kinds: dict[str, Any] = dict(FUZZERS)
        if asked.only in (None, "run folders"):
            runs = Path(place) / "runs"
            runs.mkdir()
            kinds["run folders"] = run_folders(runs)
        if asked.only:
            kinds = {asked.only: kinds[asked.only]}
        folders = {name: Path(place) / name for name in kinds}
        for folder in folders.values():
            prepare(folder)
        if asked.case is not None:
            for name, fuzz in kinds.items():
                print(fuzz(folders[name], Random(f"{name} {asked.case}")))
            return 0
        share = asked.seconds / len(kinds)
        findings = sum(campaign(name, fuzz, folders[name], share, asked.first) for name, fuzz in kinds.items())
    print(f"findings: {findings or 'none'}")
    return 1 if findings else 0


def campaign(name: str, fuzz: Fuzzer, folder: Path, seconds: float, first: int) -> int:
    """Cases of one kind for so long; how many findings there were."""
    ended, case, findings, tried = time.monotonic() + seconds, first, 0, Counter[str]()
    while time.monotonic() < ended:
        try:
            tried[fuzz(folder, Random(f"{name} {case}")).rpartition(": ")[2]] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            findings += 1
            told = [*traceback.format_exception_only(error), *traceback.format_tb(error.__traceback__)[-2:]]
            print(f"FOUND {name} --case {case}: {' '.join(''.join(told).split())[:900]}", flush=True)
        case += 1
    told = ", ".join(f"{outcome} {count:,}" for outcome, count in tried.most_common())
    print(f"{name}: {case - first:,} tried ({told}), {findings} found", flush=True)
    return findings


if __name__ == "__main__":
    sys.exit(main())
