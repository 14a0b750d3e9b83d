"""One mutation of one file, drawn from a `random.Random`: what an editor, a disk or a program may do to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 2.5, 10**30, 10**400, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "12", "left", "é中", "\ud800", [], {}, [[]], [None], ["x"], [1, 2], {"x": 1}, {"": None}),
)
BYTES = b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\x80", b"\n", b"\r\n", b"{}\n", b"[1]\n", b"null\n", b"x\n"
DEPTHS = 40, 400, 100_000
DEEP = "@deep@"
"""Stands for deep nesting until the text is written, which `json.dumps` cannot write itself."""


def mutate(path: Path, random: Random) -> str:
    """Change a file, or what is in its place, in one way; what was done, in words."""
    kinds = [truncate, flip, insert_bytes, empty, replace_by_folder, replace_by_link, double_line]
    if path.suffix in (".json", ".jsonl", ".yaml"):
        kinds += 3 * [change_field, drop_field]
    kind = random.choice(kinds)
    return f"{kind.__name__} {kind(path, random)}"


def truncate(path: Path, random: Random) -> str:
    content = path.read_bytes()
    size = random.randrange(len(content) + 1)
    path.write_bytes(content[:size])
    return f"to {size} bytes"


def flip(path: Path, random: Random) -> str:
    content = bytearray(path.read_bytes() or b"\0")
    place = random.randrange(len(content))
    content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    return f"a bit of byte {place}"


def insert_bytes(path: Path, random: Random) -> str:
    content = path.read_bytes()
    place = random.choice([0, random.randrange(len(content) + 1), len(content)])
    odd = random.choice(BYTES)
    path.write_bytes(content[:place] + odd + content[place:])
    return f"{odd!r} at {place}"


def empty(path: Path, random: Random) -> str:
    path.write_bytes(b"")
    return ""


def replace_by_folder(path: Path, random: Random) -> str:
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("mine")
    return ""


def replace_by_link(path: Path, random: Random) -> str:
    path.unlink()
    path.symlink_to("nowhere")
    return ""


def double_line(path: Path, random: Random) -> str:
    lines = path.read_bytes().splitlines(keepends=True) or [b"\n"]
    place = random.randrange(len(lines))
    path.write_bytes(b"".join([*lines[: place + 1], *lines[place:]]))
    return f"{place + 1}"


def change_field(path: Path, random: Random) -> str:
    return _edit(path, random, drop=False)


def drop_field(path: Path, random: Random) -> str:
    return _edit(path, random, drop=True)


def _edit(path: Path, random: Random, drop: bool) -> str:
    lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    number = random.randrange(max(1, len(lines)))
    text = lines[number] if lines else "{}"
    data = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    places = list(_places(data))
    if not places:
        return "nothing"
    holder, key = random.choice(places)
    if drop:
        done = f"line {number + 1}: {key}"
        del holder[key]
    else:
        holder[key] = random.choice([*VALUES, DEEP])
        done = f"line {number + 1}: {key} to {str(holder[key])[:40]!r}"
    text = yaml.safe_dump(data, allow_unicode=False) if path.suffix == ".yaml" else json.dumps(data)
    depth = random.choice(DEPTHS)
    text = text.replace(f'"{DEEP}"', "[" * depth + "]" * depth).replace(f"'{DEEP}'", "[" * depth + "]" * depth)
    ending = "\n" if path.suffix == ".jsonl" else ""
    lines[number : number + 1] = [text]
    path.write_text("\n".join(lines) + ending, encoding="utf-8", errors="surrogatepass")
    return done


def _places(data: Any) -> Any:
    """(holder, key) of every value in nested lists and dicts."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        yield data, key
        yield from _places(value)


def trace(path: Path) -> Any:
    """What of a mutated file has to be somewhere afterwards: its bytes, where its link leads, a folder's content."""
    if path.is_symlink():
        return "link", str(path.readlink())
    return ("folder", (path / "mine").read_bytes()) if path.is_dir() else ("file", path.read_bytes())


def traces(run: Path) -> list[Any]:
    """The same of everything in a run folder."""
    kinds = [path for path in run.rglob("*") if path.is_file() or path.is_symlink() or (path / "mine").exists()]
    return [trace(path) for path in kinds]


def copy(source: Path, target: Path) -> Path:
    """A run folder to mutate."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target)
