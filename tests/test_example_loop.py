"""examples/loop.py: short, on public names alone, and it learns."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import reflect_rl as rr
from conftest import TINY

LOOP = Path(__file__).parents[1] / "examples" / "loop.py"


@pytest.fixture
def loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loop", LOOP)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short_and_uses_public_names_alone() -> None:
    source = LOOP.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 120
    used = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    assert {node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == "rr"} <= set(rr.__all__)
    assert [node.attr for node in used if node.attr.startswith("_")] == []


def test_it_learns(loop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: dict[str, dict[str, object]] = {}
    for key, value in TINY.items():
        *sections, name = key.split(".")
        inner = recipe
        for section in sections:
            inner = inner.setdefault(section, {})  # type: ignore[assignment]
        inner[name] = value
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(loop, "EPISODES", 64)
    monkeypatch.setattr(loop, "LR", 5e-3)
    history = loop.main(str(tmp_path / "tiny.yaml"), 12, str(tmp_path / "run"))
    assert sum(history[-3:]) / 3 > sum(history[:3]) / 3 + 0.1
