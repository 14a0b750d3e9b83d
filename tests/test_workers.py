"""Worker processes do not outlive the process that started them, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import os, sys, time
from pathlib import Path
from reflect_rl.pipeline.workers import worker_pool

def work(place):
    Path(place).write_text(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    with worker_pool(1) as pool:
        pool.submit(work, sys.argv[1]).result()
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script, place = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script), str(place)])
    try:
        worker = int(wait_for(lambda: place.exists() and place.read_text()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_for(lambda: not alive(worker)), "the worker is still there"
    finally:
        parent.kill()


def wait_for(answer, seconds: float = 60):
    """The first true answer; the last one after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := answer()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
