"""A game: the content of its file, and the interface of both engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reflect_rl.errors import ReflectRLError

MAX_GAME_BYTES = 20_000_000
"""Released games have 0.2 MB."""
CHARACTERS = frozenset(c for c in map(chr, (*range(0x20, 0x250), *range(0x2010, 0x2060))) if c.isprintable())
"""What a description may consist of: printable Latin letters, digits, symbols and punctuation."""


class GameFileError(ReflectRLError):
    """A game file that cannot be played: truncated, malformed, of another domain, too large."""


class TextGame(Protocol):
    """One game on either engine.

    `reset` and `step` return the engine's text, byte for byte; no string raises, admissible or not. admissible: the
    commands that do something now, sorted. won: the goal holds. done, score: it holds, and a command has been given.
    """

    task: str
    steps: int

    def reset(self) -> str: ...

    def step(self, command: str) -> str: ...

    @property
    def admissible(self) -> tuple[str, ...]: ...

    @property
    def won(self) -> bool: ...

    @property
    def score(self) -> int: ...

    @property
    def done(self) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class GameFile:
    """A game's content. problem: PDDL. traj: ALFRED's trajectory, of which task type and parameters are read.

    walkthrough: commands that win, where the release has them. domain, grammar: the rules that the game carries.
    """

    id: str
    problem: str
    traj: Mapping[str, Any] = field(default_factory=dict)
    walkthrough: tuple[str, ...] | list[str] | None = None
    domain: str | None = None
    grammar: str | None = None


def read_game(path: str | Path, id: str | None = None) -> GameFile:  # noqa: A002 - the record's own name
    """The game of a file game.tw-pddl, with traj_data.json beside it if there is one. Raises GameFileError."""
    file = Path(path)
    data = _json(file)
    problem = data.get("pddl_problem")
    if not isinstance(problem, str):
        raise GameFileError(f"{file} holds no 'pddl_problem', so it is no ALFWorld game. Give a file game.tw-pddl.")
    texts = {name: data.get(name) for name in ("pddl_domain", "grammar")}
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise GameFileError(f"{file} has {type(text).__name__} for '{name}', not text: it is damaged.")
    return GameFile(
        id=id or str(file),
        problem=problem,
        traj=read_trajectory(file),
        walkthrough=data.get("walkthrough"),
        domain=texts["pddl_domain"],
        grammar=texts["grammar"],
    )


def read_trajectory(game: Path) -> dict[str, Any]:
    """What traj_data.json beside a game file holds; empty if there is none. Raises GameFileError."""
    beside = game.parent / "traj_data.json"
    return _json(beside) if beside.is_file() else {}


def descriptions(traj: Mapping[str, Any]) -> tuple[str, ...]:
    """What people wrote to describe the task of a trajectory; empty if nobody did.

    The sentences are as they were typed, except that every character outside CHARACTERS (a line break, a control
    character) becomes a space, and spaces at both ends are removed.
    """
    try:
        written = [each["task_desc"] for each in traj["turk_annotations"]["anns"]]
    except (KeyError, TypeError):
        return ()
    lines = ("".join(c if c in CHARACTERS else " " for c in text).strip() for text in written if isinstance(text, str))
    return tuple(line for line in lines if line)


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_GAME_BYTES:
            size = file.stat().st_size / 1e6
            raise GameFileError(f"{file} has {size:,.0f} MB; a game has 0.2 MB. This is something else.")
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise GameFileError(f"{file} cannot be read ({error.strerror}). Give the path of a game.tw-pddl.") from error
    except (ValueError, RecursionError) as error:
        raise GameFileError(
            f"{file} is not a whole JSON file ({error}): truncated or damaged. Fetch it anew."
        ) from error
    if not isinstance(data, dict):
        raise GameFileError(f"{file} holds a {type(data).__name__}, not a game. Give a file game.tw-pddl.")
    return data
