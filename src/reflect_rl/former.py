"""What a stage made before stays until the stage has made it anew: a stage that fails takes nothing away.

While a stage runs again, its former outputs and manifest lie in checkpoints/<stage>.former/. An error or an interrupt
puts them back; a kill leaves them there, for the attempt that continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reflect_rl.manifest import Stage
from reflect_rl.run_folder import RunFolder, remove


@contextmanager
def former_kept(run: RunFolder, stage: Stage) -> Iterator[None]:
    """Set the outputs of a finished stage aside for the time of the block; bring them back if it raises."""
    aside = run / former(stage)
    if (run / stage.manifest).exists():  # without it, what lies there is the unfinished work of a killed attempt
        for name in (*stage.outputs, stage.manifest):  # the manifest last: a kill in between is made good next time
            _move(run, name, f"{former(stage)}/{name}")
    try:
        yield
    except BaseException:
        if aside.exists():
            for name in (*stage.outputs, stage.manifest):
                remove(run / name)
                _move(run, f"{former(stage)}/{name}", name)
            remove(aside)
        raise


def former(stage: Stage) -> str:
    """Where a stage's former outputs lie while it runs."""
    return f"checkpoints/{stage.name}.former"


def _move(run: RunFolder, name: str, to: str) -> None:
    if (run / name).exists():
        remove(run / to)
        (run / to).parent.mkdir(parents=True, exist_ok=True)
        (run / name).rename(run / to)
