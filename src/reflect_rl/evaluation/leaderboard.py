"""One table of results from anybody's files, made only of what can be compared: `reflect-rl leaderboard`.

A file is a results.json of ours (of a run, of `evaluate --agent`), or one in the form that docs/alfworld-protocol.md
describes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reflect_rl.envs.optional import tasks_hash
from reflect_rl.errors import ReflectRLError
from reflect_rl.intervals import wilson
from reflect_rl.records import finite_number

MAIN_PANELS = {"alfworld": "valid_seen"}
"""The panel of a world that is shown if none is named; "test" for others."""
TERMS: Mapping[str, Mapping[str, Any]] = {"alfworld": {"grammar": None, "goals": "template", "shuffle": False}}
"""The options that change what an agent reads, by world, with what files may leave out (None: nothing). All options of
a world that is not listed count."""
EXTRA = {"steps": "{:.1f}", "seconds": "{:.2f}", "tokens": "{:,.0f}", "invalid": "{:.1%}"}
"""Further figures and how they are shown: steps, seconds and tokens a game; share of answers that named no action."""
MOST_BYTES = 50_000_000

Warn = Callable[[str], None]


class LeaderboardError(ReflectRLError):
    """A file of results that cannot be read, or results that cannot be compared."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One agent on the panel.

    Attributes:
        agent: its name.
        mode: how it played: "greedy", "sampled", "played", "trial 1" and so on.
        wins: episodes won, of `episodes`.
        terms: what two results must share: the panel's hash, the horizon, and options of the world.
        engine: what the games ran on; engines that tell the same texts may differ.
        versions: of libraries.
        file: where it was read.
        extra: those of EXTRA that the file has.
    """

    agent: str
    mode: str
    wins: int
    episodes: int
    terms: Mapping[str, Any]
    engine: str
    versions: Mapping[str, str]
    file: str
    extra: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError or TypeError for what no panel gives."""
        wins, episodes = self.wins, self.episodes
        if not (isinstance(wins, int) and isinstance(episodes, int) and 0 <= wins <= episodes and episodes > 0):
            raise ValueError(f"{wins!r} wins in {episodes!r} episodes is not possible")
        if not isinstance(digest := self.terms["panel_sha256"], str):
            raise TypeError(f"panel_sha256 is {digest!r}, not the hash of the games' names")

    @property
    def success(self) -> float:
        return self.wins / self.episodes

    def row(self) -> dict[str, Any]:
        """Everything as JSON has it, with success and its Wilson interval."""
        return {**asdict(self), "success": self.success, "interval": wilson(self.wins, self.episodes)}


def leaderboard(world: str, files: Sequence[Path], panel: str | None, warn: Warn) -> list[Entry]:
    """The entries of files on a panel, the best first. A folder stands for its results.json.

    panel: its name; for ALFWorld that of the split. warn: told which files say nothing about it.

    Raises LeaderboardError if the world is a file, for a file that is no file of results or incomplete, for results
    that cannot be compared (and says in what they differ), and if nothing is left.
    """
    if Path(world).is_file():
        raise LeaderboardError(f"{world} is a file. Name the world before the files, such as alfworld.")
    panel = panel or MAIN_PANELS.get(world, "test")
    entries, listed = [], set[Path]()
    for file in files:
        file = file / "results.json" if file.is_dir() else file
        if (real := file.resolve()) in listed:
            warn(f"{file} is named twice: it is listed once")
            continue
        listed.add(real)
        data = _read(file)
        if data.get("world", world) != world:
            raise LeaderboardError(f"{file} holds results of the world {data['world']!r}, not of {world}.")
        try:
            own = list(_ours(data, file, panel) if "panels" in data else _others(data, file, world, panel))
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise LeaderboardError(
                f"{file} is not a complete file of results: {what}. docs/alfworld-protocol.md has the form."
            ) from error
        if not own:
            warn(f"{file} has no results on the panel {panel}")
        entries += own
    if not files:
        raise LeaderboardError("Name the files of results to compare, such as runs/*/results.json.")
    if not entries:
        raise LeaderboardError(f"No file has results on the panel {panel}. Name another one with --panel.")
    _check_comparable(entries)
    return sorted(entries, key=lambda entry: (-entry.success, entry.agent, entry.mode, entry.file))


def leaderboard_rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """A heading, and a row for each entry. Figures of EXTRA are columns if an entry has them."""
    extra = [name for name in EXTRA if any(name in entry.extra for entry in entries)]
    rows = [("agent", "success %", "95 % interval", "won", "mode", *extra, "engine", "versions", "file")]
    for entry in entries:
        low, high = wilson(entry.wins, entry.episodes)
        rows.append(
            (
                entry.agent,
                f"{100 * entry.success:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{entry.wins}/{entry.episodes}",
                entry.mode,
                *(EXTRA[name].format(entry.extra[name]) if name in entry.extra else "-" for name in extra),
                entry.engine,
                ", ".join(f"{name} {version}" for name, version in entry.versions.items()),
                entry.file,
            )
        )
    return rows


def terms_line(entries: Sequence[Entry], panel: str) -> str:
    """What all entries share, in a sentence."""
    terms = dict(entries[0].terms)
    digest = terms.pop("panel_sha256")
    return f"panel {panel} (sha256 {digest[:16]}), " + ", ".join(f"{name} {value}" for name, value in terms.items())


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise LeaderboardError(f"{file} has more than {MOST_BYTES / 1e6:.0f} MB: it is no file of results.")
        data = json.loads(file.read_text(encoding="utf-8-sig"), parse_constant=finite_number, parse_float=finite_number)
    except OSError as error:
        raise LeaderboardError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise LeaderboardError(f"{file} is not JSON ({error}).") from error
    if not isinstance(data, dict):
        raise LeaderboardError(f"{file} holds a {type(data).__name__}, not an object with results.")
    return data


def _ours(data: Mapping[str, Any], file: Path, panel: str) -> Iterator[Entry]:
    """The entries of a results.json: one for each mode in which the whole panel was played."""
    options, world = data["options"], data["world"]
    name = next((name for name in data["panels"] if panel in (name, _split(world, name, options))), None)
    if name is None:
        return
    if name not in data.get("panel_tasks", {}):
        raise LeaderboardError(f"{file} was written by an earlier version and does not name its tasks. Evaluate again.")
    tasks = data["panel_tasks"][name]
    for mode, figures in data["panels"][name].items():
        episodes = int(figures["episodes"])
        if not episodes or episodes % tasks["tasks"]:
            raise LeaderboardError(
                f"{file}: {episodes} episodes ({mode}) were played on a panel of {tasks['tasks']} tasks. Only the "
                f"whole panel can be compared: evaluate without --episodes."
            )
        yield Entry(
            agent=str(data.get("agent") or file.resolve().parent.name),
            mode=mode,
            wins=round(figures["success"] * episodes),
            episodes=episodes,
            terms={
                "panel_sha256": tasks["sha256"],
                "horizon": data["horizon"],
                **_terms(world, _with_contents(options, data.get("option_files", {}))),
            },
            engine=str(options.get("engine", "")),
            versions={"reflect-rl": data["versions"]["reflect_rl"]},
            file=str(file),
            extra=_extra(figures, data.get("panel_seconds", {}).get(name, {}).get(mode)),
        )


def _extra(figures: Mapping[str, Any], seconds: float | None) -> dict[str, float]:
    """The further figures of a panel. seconds: of all games, where the panel does not have them."""
    games, tokens = figures["episodes"], figures.get("prompt_tokens")
    found = {
        "steps": figures.get("steps_mean"),
        "seconds": (total := figures.get("seconds", seconds)) and total / games,
        "tokens": None if tokens is None else (tokens + figures["completion_tokens"]) / games,
        "invalid": figures["invalid"] / max(1, figures["steps"]) if "invalid" in figures else None,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _others(data: Mapping[str, Any], file: Path, world: str, panel: str) -> Iterator[Entry]:
    """The entry of a file in the short form."""
    if data["panel"] != panel:
        return
    if games := data.get("games"):
        won = list(games.values())
        if not all(isinstance(each, bool) for each in won):
            raise ValueError("games has to say true or false for each game")
        if twice := [name for name, count in Counter(map(_task, games)).items() if count > 1]:
            raise ValueError(f"games has {twice[0]} twice, under two names")
        wins, episodes, digest = sum(won), len(won), tasks_hash(map(_task, games))
    else:
        wins, episodes, digest = data["wins"], data["episodes"], data["panel_sha256"]
    yield Entry(
        agent=str(data["agent"]),
        mode=str(data.get("mode", "played")),
        wins=wins,
        episodes=episodes,
        terms={
            "panel_sha256": digest,
            "horizon": data["horizon"],
            **_terms(world, data if world in TERMS else data["options"]),
        },
        engine=str(data["engine"]),
        versions=dict(data["versions"]),
        file=str(file),
    )


def _split(world: str, name: str, options: Mapping[str, Any]) -> str:
    """What a panel of ours is called in the data."""
    if world != "alfworld":
        return name
    return {"test": options["test_split"], "valid": "valid_train"}.get(name, f"valid_{name}")


def _terms(world: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if world not in TERMS:
        return dict(options)
    return {name: options[name] if left is None else options.get(name, left) for name, left in TERMS[world].items()}


def _with_contents(value: Any, files: Mapping[str, str], name: str = "") -> Any:
    """Options in which the hash of a file stands for its path: what it holds counts, wherever it lies."""
    if name in files:
        return f"a file with sha256 {files[name][:16]}"
    inner = f"{name}." if name else ""
    if isinstance(value, Mapping):
        return {key: _with_contents(each, files, f"{inner}{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_with_contents(each, files, f"{inner}{place}") for place, each in enumerate(value)]
    return value


def _task(name: str) -> str:
    """A game's name as we have it, split/task/trial, also if it is given as the path of its file."""
    return "/".join(name.removesuffix("/game.tw-pddl").split("/")[-3:])


def _check_comparable(entries: Sequence[Entry]) -> None:
    """Raise LeaderboardError, saying in what they differ, unless all entries share their terms."""
    differ = []
    for name in dict.fromkeys(name for entry in entries for name in entry.terms):
        files: dict[str, list[str]] = {}
        for entry in entries:
            files.setdefault(str(entry.terms.get(name)), []).append(entry.file)
        if len(files) > 1:
            values = "; ".join(f"{value} in {', '.join(dict.fromkeys(its))}" for value, its in files.items())
            differ.append(f"{name} is {values}")
    if differ:
        raise LeaderboardError(f"These results cannot be compared. {'. '.join(differ)}. Make a table of each.")
