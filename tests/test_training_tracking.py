"""Where metrics go besides metrics.jsonl: every session is finished, and holds each iteration once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reflect_rl.errors import NonFiniteError
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training.rl import rl
from reflect_rl.training.tracking import open_tracker
from test_training_sft import KilledError, Killer

Tiny = Callable[..., Settings]

SERVICE = """
active, sessions = None, []

class Session:
    def __init__(self, name):
        self.name, self.rows, self.finished = name, [], 0
    def log(self, row):
        assert not self.finished
        self.rows.append(row["iteration"])
    def finish(self):
        global active
        self.finished += 1
        active = None

def init(project, name, config):
    '''As the real one does, it gives the session under way if there is one.'''
    global active
    if active is None:
        active = Session(name)
        sessions.append(active)
    return active
"""


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{request.param}.py").write_text(SERVICE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    yield request.param
    sys.modules.pop(request.param, None)


def sessions(service: str) -> list[tuple[str, list[int], int]]:
    return [(one.name, one.rows, one.finished) for one in sys.modules[service].sessions]


def copies(warmed: RunFolder, folder: Path, *names: str) -> list[RunFolder]:
    return [RunFolder(shutil.copytree(warmed.path, folder / name)) for name in names]


def test_every_arm_of_a_process_has_a_session_of_its_own(
    warmed: RunFolder, tiny: Tiny, tmp_path: Path, service: str
) -> None:
    for run in copies(warmed, tmp_path, "one", "two"):
        rl(run, Context(tiny({"track": service, "rl.iterations": 2})), Progress())
    assert sessions(service) == [("one", [0, 1], 1), ("two", [0, 1], 1)]


def test_a_session_is_finished_however_training_ends(
    warmed: RunFolder, tiny: Tiny, tmp_path: Path, service: str
) -> None:
    interrupted, diverged = copies(warmed, tmp_path, "interrupted", "diverged")
    with pytest.raises(KilledError):
        rl(interrupted, Context(tiny({"track": service})), Killer(1))
    with pytest.raises(NonFiniteError):
        rl(diverged, Context(tiny({"track": service, "rl.lr": 1e37})), Progress())
    rl(interrupted, Context(tiny({"track": service})), Progress())
    assert sessions(service) == [
        ("interrupted", [0, 1], 1),
        ("diverged", [], 1),
        ("interrupted", [0, 1, 2], 1),
    ]


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of every point in TensorBoard's files, duplicates included."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=False)
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


def shown(run: RunFolder) -> list[tuple[int, float]]:
    return [(row["iteration"], pytest.approx(row["success"])) for row in run.read_jsonl("metrics.jsonl", dict)]


@pytest.mark.parametrize("every", [1, 2])
def test_a_resumed_curve_holds_every_iteration_once(warmed: RunFolder, tiny: Tiny, every: int) -> None:
    pytest.importorskip("tensorboard")
    settings = tiny({"track": "tensorboard", "rl.iterations": 4, "rl.checkpoint_every": every})
    for updates in (0, 1):
        with pytest.raises(KilledError):
            rl(warmed, Context(settings), Killer(updates))
    rl(warmed, Context(settings), Progress())
    assert curve(warmed / "tensorboard", "success") == shown(warmed)
    assert [step for step, _ in curve(warmed / "tensorboard", "success")] == [0, 1, 2, 3]


def test_a_run_that_begins_anew_replaces_its_curve_and_no_other(warmed: RunFolder, tiny: Tiny) -> None:
    pytest.importorskip("tensorboard")
    rl(warmed, Context(tiny({"track": "tensorboard"})), Progress())
    folder = warmed / "tensorboard"
    (folder / "events.out.tfevents.1.mine").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    shutil.rmtree(warmed / "checkpoints/rl")
    rl(warmed, Context(tiny({"track": "tensorboard", "rl.iterations": 2})), Progress())
    assert curve(folder, "success") == shown(warmed)
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(list(folder.iterdir())) == 3


def test_the_file_of_a_finished_session_is_closed(tmp_path: Path, tiny: Tiny) -> None:
    pytest.importorskip("tensorboard")
    with (
        pytest.raises(KeyboardInterrupt),
        open_tracker(RunFolder(tmp_path), tiny({"track": "tensorboard"}), []) as log,
    ):
        log({"iteration": 0, "success": 0.5, "valid_success": None, "stop_reasons": {"success": 3}})
        raise KeyboardInterrupt
    assert curve(tmp_path / "tensorboard", "success") == [(0, 0.5)]
    assert curve(tmp_path / "tensorboard", "stop_reasons/success") == [(0, 3.0)]
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert str(file) not in [str(Path(link).resolve()) for link in Path("/proc/self/fd").glob("*") if link.exists()]
