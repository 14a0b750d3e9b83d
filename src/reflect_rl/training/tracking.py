"""Metrics to TensorBoard, Weights & Biases or trackio, beside metrics.jsonl, which is always written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from reflect_rl.errors import SettingsError
from reflect_rl.run_folder import RunFolder
from reflect_rl.settings import Settings

Tracker = Callable[[dict[str, Any]], None]


def open_tracker(run: RunFolder, settings: Settings, past: Sequence[dict[str, Any]]) -> Tracker:
    """A function that takes one line of metrics; `past` lines of a resumed run are logged first."""
    if settings.track == "none":
        return lambda row: None
    check_tracker(settings)
    log = _tensorboard(run) if settings.track == "tensorboard" else _service(run, settings)
    for row in past:
        log(row)
    return log


def check_tracker(settings: Settings) -> None:
    """Raise SettingsError if the library that `track` names is not installed."""
    if settings.track != "none" and find_spec(settings.track) is None:
        raise SettingsError(
            f"track: {settings.track} needs its library: pip install {settings.track}. metrics.jsonl is written anyway."
        )


def _numbers(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[f"{prefix}{name}"] = value
    return flat


def _tensorboard(run: RunFolder) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run / "tensorboard"))

    def log(row: dict[str, Any]) -> None:
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, row["iteration"])
        writer.flush()

    return log


def _service(run: RunFolder, settings: Settings) -> Tracker:
    """wandb and trackio share their interface."""
    import importlib

    service = importlib.import_module(settings.track)
    session = service.init(project="reflect-rl", name=run.path.name, config=settings.model_dump())

    def log(row: dict[str, Any]) -> None:
        session.log(_numbers(row))

    return log
