"""Log metrics to TensorBoard, Weights & Biases or trackio, in addition to metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from reflect_rl.errors import SettingsError
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings

Tracker = Callable[[dict[str, Any]], None]

SUFFIX = ".reflect-rl"
"""Suffix of the TensorBoard files that we may replace."""


@contextmanager
def open_tracker(run: RunFolder, settings: Settings, past: Sequence[dict[str, Any]]) -> Iterator[Tracker]:
    """Yield a function that logs one row of metrics; the session is finished when the block ends, also after an error.

    Each session holds every iteration once: the `past` rows of a resumed run are logged first.
    """
    if settings.track == "none":
        yield lambda row: None
        return
    check_tracker(settings)
    log, finish = _tensorboard(run) if settings.track == "tensorboard" else _service(run, settings)
    try:
        for row in past:
            log(row)
        yield log
    finally:
        finish()


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


def _tensorboard(run: RunFolder) -> tuple[Tracker, Callable[[], object]]:
    """Write one new file, replacing those that this run wrote earlier."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run / "tensorboard"
    for former in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
        former.unlink()
    # purge_step makes an open TensorBoard drop what it read from the former files.
    writer = SummaryWriter(str(folder), purge_step=0, filename_suffix=SUFFIX)

    def log(row: dict[str, Any]) -> None:
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, row["iteration"])
        writer.flush()

    return log, writer.close


def _service(run: RunFolder, settings: Settings) -> tuple[Tracker, Callable[[], object]]:
    """wandb and trackio share an interface."""
    service = import_module(settings.track)
    session = service.init(project="reflect-rl", name=run.path.name, config=settings.model_dump())
    return lambda row: session.log(_numbers(row)), session.finish
