"""A real model behind a real server: `transformers serve` in a process of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import pytest

from ports import free_port

STARTS_WITHIN = 120
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Served:
    """Where a model is served. model: its name at the server, which is its folder."""

    base_url: str
    model: str


@contextmanager
def serving(folder: str | Path) -> Iterator[Served]:
    """Serve a model folder; skip the test, with the reason, if the server does not start here."""
    for needed in ("fastapi", "uvicorn"):
        if find_spec(needed) is None:
            pytest.skip(f"transformers serve needs {needed} (pip install 'transformers[serving]')")
    port = free_port()
    program = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    environment.pop("OPENAI_API_KEY", None)
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([*command, "--device", "cpu"], env=environment, stdout=log, stderr=log)
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", log)
            yield Served(f"http://127.0.0.1:{port}/v1", str(folder))
        finally:
            server.kill()
            server.wait(30)


def _wait(server: subprocess.Popen[bytes], address: str, log: IO[bytes]) -> None:
    """Until the server answers."""
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until:
        if server.poll() is not None:
            log.seek(0)
            pytest.skip(f"transformers serve ended at once: {log.read().decode(errors='replace').strip()[-300:]}")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.skip(f"transformers serve did not answer within {STARTS_WITHIN} s")
