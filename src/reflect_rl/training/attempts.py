"""A reflector that came out weak is trained on, and the best on held-out labels is kept.

Each further training begins from the weights of the best so far, with a fresh optimizer and the whole schedule of the
learning rate again (warm restarts: Loshchilov and Hutter 2017, arXiv 1608.03983). Beginning anew from other weights was
tried first, and helped less.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reflect_rl.data.pool import agreement_of
from reflect_rl.errors import RunFolderError
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ReflectorSftSettings

AGAIN = "checkpoints/sft-reflector-again"
"""Where further attempts at the reflector, and those that are done, are kept until one has been chosen."""
FIGURES = "figures.json"
WEIGHTS = "trained.safetensors"
"""The trained weights by name, adapters not merged, for a further training to begin from."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A reflector that has been trained: its figures, the trained weights, and what writes it into a folder."""

    figures: dict[str, Any]
    weights: Mapping[str, Tensor]
    save: Callable[[Path], None]


def best_attempt(
    run: RunFolder,
    part: ReflectorSftSettings,
    attempt: Callable[[int, Mapping[str, Tensor]], Attempt],
    progress: Progress,
) -> dict[str, Any]:
    """Write reflector/ by as many attempts as are needed; the best one's figures, with all agreements.

    attempt(number, start): trains the reflector, the weights named in `start` set to those first. Finished attempts are
    kept until the stage has ended, so that a killed run does not repeat them.
    """
    if part.attempts == 1:
        only = attempt(0, {})
        with run.replacing("reflector") as folder:
            only.save(folder)
        return only.figures
    done: list[dict[str, Any]] = []
    for number in range(part.attempts):
        name = f"{AGAIN}/done-{number}"
        if not (run / name).is_dir():
            start = _weights(run / f"{AGAIN}/done-{_best(done)}") if done else {}
            trained = attempt(number, start)
            with run.replacing(name) as folder:
                trained.save(folder)
                save_file(
                    {key: value.detach().cpu().clone() for key, value in trained.weights.items()}, folder / WEIGHTS
                )
                (folder / FIGURES).write_text(json.dumps(trained.figures, allow_nan=False), encoding="utf-8")
        done.append(run.read_json(f"{name}/{FIGURES}", _figures))
        agreements = [figures["agreement"] for figures in done]
        if agreements[-1] is None or agreements[-1] >= part.retry_below or number + 1 == part.attempts:
            break
        progress.say(
            f"Reflector agrees with the teacher on {agreements[-1]:.0%} of held-out states, less than "
            f"{part.retry_below:.0%}: trained on ({number + 2} of {part.attempts})."
        )
    best = _best(done)
    with run.replacing("reflector") as folder:
        shutil.copytree(run / f"{AGAIN}/done-{best}", folder, ignore=shutil.ignore_patterns(FIGURES, WEIGHTS))
    return {**done[best], "attempts": [figures["agreement"] for figures in done]}


def _weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"The attempt {folder} is damaged ({error}). Delete it to train it anew.") from error


def _figures(data: Any) -> dict[str, Any]:
    return {**data, "agreement": agreement_of(data)}


def _best(done: Sequence[dict[str, Any]]) -> int:
    """The first of those that agree the most."""
    return max(range(len(done)), key=lambda number: done[number]["agreement"] or 0)
