"""A reflector that came out weak is trained again from other weights, and the best on held-out labels is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflect_rl.progress import Progress
from reflect_rl.run_folder import RunFolder
from reflect_rl.settings import ReflectorSftSettings

AGAIN = "checkpoints/sft-reflector-again"
"""Where further attempts at the reflector, and those that are done, are kept until one has been chosen."""
FIGURES = "figures.json"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A reflector that has been trained: its figures, and what writes it into a folder."""

    figures: dict[str, Any]
    save: Callable[[Path], None]


def best_attempt(
    run: RunFolder,
    part: ReflectorSftSettings,
    attempt: Callable[[int], Attempt],
    progress: Progress,
) -> dict[str, Any]:
    """Write reflector/ by as many attempts as are needed; the best one's figures, with all agreements.

    attempt: trains the reflector of a number. Finished attempts are kept until the stage has ended, so that a killed
    run does not repeat them.
    """
    if part.attempts == 1:
        only = attempt(0)
        with run.replacing("reflector") as folder:
            only.save(folder)
        return only.figures
    done: list[dict[str, Any]] = []
    for number in range(part.attempts):
        name = f"{AGAIN}/done-{number}"
        if not (run / name).is_dir():
            trained = attempt(number)
            with run.replacing(name) as folder:
                trained.save(folder)
                (folder / FIGURES).write_text(json.dumps(trained.figures), encoding="utf-8")
        done.append(run.read_json(f"{name}/{FIGURES}"))
        agreements = [figures["agreement"] for figures in done]
        if agreements[-1] is None or agreements[-1] >= part.retry_below or number + 1 == part.attempts:
            break
        progress.say(
            f"Reflector agrees with the teacher on {agreements[-1]:.0%} of held-out states, less than "
            f"{part.retry_below:.0%}: trained again from other weights ({number + 2} of {part.attempts})."
        )
    best = max(range(len(done)), key=lambda number: done[number]["agreement"] or 0)
    with run.replacing("reflector") as folder:
        shutil.copytree(run / f"{AGAIN}/done-{best}", folder, ignore=shutil.ignore_patterns(FIGURES))
    return {**done[best], "attempts": [figures["agreement"] for figures in done]}
