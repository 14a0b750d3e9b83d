"""Odd inputs of every kind, drawn from a seed: whatever a user gives, the answer is a result or one message.

A fuzzer is a function `(folder, random) -> what was tried`. It raises whatever escapes from the program, and
AssertionError where something was lost or wrong. `folder` holds what all cases of its kind share.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import yaml

from conftest import TINY
from mutations import VALUES, mutate
from odd_worlds import Stairs
from reflect_rl.__main__ import run_command
from reflect_rl.config import RECIPES, load_settings, parse_settings, recipe_names
from reflect_rl.core_yaml import dump_yaml
from reflect_rl.envs.check import check
from reflect_rl.envs.registry import register
from reflect_rl.errors import ReflectRLError
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.settings import setting_keys

TEXTS = (
    *(
        "",
        " ",
        "a",
        "left",
        "向左",
        "👩‍👩‍👧",
        "e\u0301",
        "שלום",
        "\u2028",
        "\x00",
        "\ud800",
        "NO",
        "12:30",
        "2024-01-02",
    ),
    *("1e3", "<eos>", "{{x}}", "../up", "/dev/null", "-", "--", "*", "a" * 300, "\r\n", "\ufeffx", "1" * 5000),
)
Fuzzer = Callable[[Path, Random], str]


def command(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command line in this process. A traceback is an exception here."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_command(list(arguments))
    return code, out.getvalue(), err.getvalue()


def recipes(folder: Path, random: Random) -> str:
    """A recipe that ships, changed in a few places: settings that survive a file, or one message."""
    path = folder / "recipe.yaml"
    path.write_bytes((RECIPES / f"{random.choice(recipe_names())}.yaml").read_bytes())
    done = []
    for _ in range(random.randint(1, 3)):
        try:
            done.append(mutate(path, random))
        except (yaml.YAMLError, OSError, ValueError, RecursionError):  # it had been spoilt before
            break
    if path.is_dir() and not path.is_symlink():
        (path / "mine").unlink()
        path.rmdir()
        return f"{'; '.join(done)}: a folder"
    overrides = {
        random.choice(list(setting_keys())): random.choice([*VALUES, *TEXTS]) for _ in range(random.randint(0, 2))
    }
    try:
        settings = load_settings(path, overrides)
    except ReflectRLError:
        return f"{'; '.join(done)}, {overrides}: refused"
    finally:
        path.unlink(missing_ok=True)
    (folder / "again.yaml").write_text(dump_yaml(settings.model_dump(mode="json")), encoding="utf-8")
    assert load_settings(folder / "again.yaml") == settings, f"other settings after a file: {done}, {overrides}"
    return f"{'; '.join(done)}, {overrides}: used"


def _odd(random: Random) -> Any:
    return random.choice([random.choice(VALUES), random.choice(TEXTS), random.random(), [random.random()] * 3])


def pools(folder: Path, random: Random) -> str:
    """A pool with odd values: picks of its own ids, or one message; the pool stays as it is."""
    size = random.randint(0, 8)
    rows = [
        {"id": f"p{number}", "text": f"{random.choice(['red', 'blue'])} {number}", "emb": [random.random(), 1.0]}
        | {"score": random.random(), "group": random.choice("ab"), "entropies": [random.random()]}
        for number in range(size)
    ]
    for _ in range(random.randint(0, 2)):
        if rows:
            random.choice(rows)[random.choice([*rows[0], "new"])] = _odd(random)
    path = folder / random.choice(["pool.jsonl", "pool.ndjson", "POOL.JSONL"])
    path.write_bytes(b"\n".join(json.dumps(row).encode() for row in rows))
    done = [mutate(path, random)] if random.random() < 0.3 else []
    before = path.read_bytes() if path.is_file() else None
    options = [
        *("--strategy", random.choice(["random", "k-center", "facility-location", "mean-entropy", "equal-budget"])),
        *("--budget", random.choice(["1", "2", "50%", "0", "-1", "10%", "١", "1e3", "200%"])),
        *random.choice([[], ["--id-column", "id"]]),
        *random.choice([[], ["--embeddings", "emb"], ["--embeddings", "emb", "--metric", "euclidean"]]),
        *random.choice([[], ["--quota-column", "group"], ["--score-column", "score"]]),
    ]
    code, out, err = command("select", str(path), *options)
    assert code in (0, 2), (done, rows, options)
    assert (path.read_bytes() if path.is_file() else None) == before, "the pool was changed"
    if code == 2:
        assert "error: " in err, (rows, options, err)
        assert not out, (rows, options, out)
    else:
        picks = [json.loads(line) for line in out.split("\n") if line]  # an id may hold U+2028
        assert len({str(pick["id"]) for pick in picks}) == len(picks), (rows, options)
    if path.is_dir() and not path.is_symlink():
        (path / "mine").unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    return f"{size} rows {done} {' '.join(options)}: {code}"


class Fuzzed(Stairs):
    """A world of which one method, drawn by `draw`, gives something else now and then, the same in every instance."""

    oddity: tuple[str, int, Any] = ("", 0, None)
    """(method, from which call of an episode on, what it gives instead; an exception is raised)."""

    def __init__(self, horizon: int = 6) -> None:
        super().__init__(horizon)
        self.calls = 0

    def begin(self, task: str, stage: str | None) -> None:
        self.calls = 0
        self._odd("begin", super().begin(task, stage))

    def observe(self) -> Any:
        return self._odd("observe", super().observe())

    def act(self, choice: int) -> Any:
        return self._odd("act", super().act(choice))

    def admissible(self) -> Any:
        return self._odd("admissible", super().admissible())

    def expert(self) -> Any:
        return self._odd("expert", super().expert())

    def describe(self) -> Any:
        return self._odd("describe", super().describe())

    def tasks(self, split: str) -> Any:
        return self._odd("tasks", super().tasks(split))

    def kind(self, task: str) -> Any:
        return self._odd("kind", super().kind(task))

    def close(self) -> None:
        self._odd("close", None)

    @classmethod
    def teach(cls, facts: Any, style: str) -> Any:
        method, _, value = cls.oddity
        return _given(value) if method == "teach" else super().teach(facts, style)

    def _odd(self, method: str, value: Any) -> Any:
        name, after, other = type(self).oddity
        if name != method:
            return value
        self.calls += method in ("act", "observe", "expert", "describe", "admissible")
        return _given(other) if self.calls > after or method in ("tasks", "kind", "close", "begin") else value


def _given(value: Any) -> Any:
    if isinstance(value, type) and issubclass(value, BaseException):
        raise value("the fuzzer")
    return value


METHODS = ("observe", "act", "admissible", "expert", "describe", "teach", "tasks", "kind", "close", "begin")
RAISED = (ValueError, SystemExit, OSError, RecursionError, StopIteration, MemoryError, AssertionError)
SHAPES = (
    (1.0, None),
    (None, None),
    (float("inf"), None),
    (0.5,),
    ("up", "up"),
    ("up",),
    ("",),
    ("up", 3),
    b"up",
    0,
    1,
    7,
)


def worlds(folder: Path, random: Random) -> str:
    """A world with one oddity: `check` raises nothing, and what a run refuses as a broken promise it has found."""
    chosen = [*VALUES, *TEXTS, *RAISED, *SHAPES]
    Fuzzed.oddity = random.choice(METHODS), random.randint(0, 3), random.choice(chosen)
    register("fuzzed", Fuzzed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        broken = [finding for finding in check(Fuzzed) if not finding.ok]
        settings = parse_settings({}, SMALLEST | {"env.name": "fuzzed", "seed": random.randint(0, 99)})
        run = folder / f"run-{random.getrandbits(48):x}"
        try:
            run_pipeline(settings, run, until="annotate")
            said = ""
        except ReflectRLError as error:
            said = str(error)
        finally:
            shutil.rmtree(run, ignore_errors=True)
    done = f"{Fuzzed.oddity!r:.100}"
    assert not said or broken or "expert()" in said, f"run refuses what check passes: {done}: {said}"
    return f"{done}: {'broken' if broken else 'kept'}, {'refused' if said else 'played'}"


SMALLEST: dict[str, Any] = TINY | {
    "env.options": {},
    "env.horizon": 6,
    "collect.episodes": 6,
    "annotate.teacher": "plain",
    "annotate.actions": 10,
    "annotate.reflections": 10,
}

QUICK = ("recipes", "settings", "envs", "check", "play", "select", "report", "evaluate", "collect", "annotate", "rl")
NAMED = (
    "taxi",
    "runs",
    ".",
    "..",
    "",
    "canary.txt",
    "keep",
    "nothing",
    "odd_worlds:Stairs",
    "odd_worlds:None",
    ":",
    "a:b",
)
OPTIONS = (
    *("--help", "--seed", "--out", "-o", "--until", "--budget", "--task", "--agent", "--force", "--rl.lr", "--guard"),
    *(
        "--env.options.day",
        "--nonsense",
        "--seeds",
        "--workers",
        "--version",
        "--strategy",
        "--env.horizon",
        "--no-guard",
    ),
)


def command_lines(folder: Path, random: Random) -> str:
    """Words of the command line in any order: an exit code, one message, and the folder as it was."""
    words = [random.choice(QUICK)]
    for _ in range(random.randint(0, 5)):
        words.append(random.choice([*NAMED, *OPTIONS, *OPTIONS, *map(str, TEXTS)]))
    words = [word for word in words if "\x00" not in word and "\ud800" not in word]
    before, here = _files(folder), Path.cwd()
    os.chdir(folder)
    try:
        code, _, err = command(*words)
    except SystemExit as ended:  # --help and --version
        code, err = int(ended.code or 0), ""
    finally:
        os.chdir(here)
    shown = " ".join(word[:30] for word in words)
    assert code in (0, 1, 2), f"exit code {code}: {shown}"
    assert "Traceback" not in err, shown
    assert _files(folder).items() >= before.items(), f"something was lost: {shown}"
    return f"{shown}: {code}"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FUZZERS: dict[str, Fuzzer] = {
    "recipes": recipes,
    "pools": pools,
    "worlds": worlds,
    "command lines": command_lines,
}


def prepare(folder: Path) -> None:
    """What command lines may meet in their folder."""
    (folder / "keep").mkdir(parents=True)
    for name in ("canary.txt", "keep/canary.txt"):
        (folder / name).write_text("years of work\n")
