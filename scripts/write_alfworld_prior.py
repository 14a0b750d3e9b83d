"""Count where things are in ALFWorld's train games, and write src/reflect_rl/envs/alfworld/prior.json.

    python scripts/write_alfworld_prior.py [FOLDER OF THE GAMES]

It takes the 3,553 solvable train games; no game of a validation split takes part.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from reflect_rl.envs.alfworld.data import AlfworldData
from reflect_rl.envs.alfworld.prior import Prior

TARGET = Path(__file__).parents[1] / "src" / "reflect_rl" / "envs" / "alfworld" / "prior.json"
FACT = re.compile(r"\((\w+) ([\w ]+)\)")


def count_prior(games: Iterable[tuple[Mapping[str, Iterable[str]], Iterable[str]]]) -> Prior:
    """Count a prior. games: for each, {receptacle: names of the objects in it}, and the openable receptacles.

    Names begin with their class and a blank, such as "cabinet 10".
    """
    held: dict[str, dict[str, list[int]]] = {}
    shut: dict[str, list[int]] = {}
    for contents, openable in games:
        places = Counter(receptacle.partition(" ")[0] for receptacle in contents)
        closed = Counter(name.partition(" ")[0] for name in openable)
        within: dict[str, Counter[str]] = {}
        for receptacle, names in contents.items():
            for kind in {name.partition(" ")[0] for name in names}:
                within.setdefault(kind, Counter())[receptacle.partition(" ")[0]] += 1
        for place, total in places.items():
            _add(shut, place, closed[place], total)
            for kind, of in within.items():
                _add(held.setdefault(kind, {}), place, of[place], total)
    objects = {kind: {place: (pair[0], pair[1]) for place, pair in of.items()} for kind, of in held.items()}
    return Prior(objects, {place: round(pair[0] / pair[1], 3) for place, pair in shut.items() if pair[0]})


def furniture(problem: str) -> tuple[dict[str, list[str]], list[str]]:
    """What `count_prior` counts, from a problem file: what is in which receptacle at first, and what can be opened."""
    facts = [(found[1].lower(), found[2].lower().split()) for found in FACT.finditer(problem.partition("(:goal")[0])]
    placed = sorted({args[0] for name, args in facts if name == "receptacleatlocation"})
    contents: dict[str, list[str]] = {_named(each): [] for each in placed}
    for name, args in facts:
        if name == "inreceptacle" and args[1] in placed:
            contents[_named(args[1])].append(_named(args[0]))
    shut = {args[0] for name, args in facts if name == "openable"}
    return contents, [_named(each) for each in placed if each in shut]


def _named(identifier: str) -> str:
    """The id after the class that the texts name it by: basins are told from what they belong to."""
    return f"{identifier.partition('_bar_')[0]}{'basin' if 'basin' in identifier else ''} {identifier}"


def _add(counts: dict[str, list[int]], key: str, part: int, total: int) -> None:
    pair = counts.setdefault(key, [0, 0])
    pair[0] += part
    pair[1] += total


def written(prior: Prior) -> str:
    """A prior as the file holds it: a line for each object class."""
    kinds = [f' "{kind}": {json.dumps(dict(sorted(of.items())))}' for kind, of in sorted(prior.objects.items())]
    shut = json.dumps(dict(sorted(prior.shut.items())))
    return f'{{\n"shut": {shut},\n"objects": {{\n' + ",\n".join(kinds) + "\n}}\n"


if __name__ == "__main__":
    data = AlfworldData(sys.argv[1] if len(sys.argv) > 1 else None)
    TARGET.write_text(written(count_prior(furniture(data.load(game).problem) for game in data.games("train"))))
