"""No content of any file of a run folder ends in a traceback, and nothing that was put there is lost.

Valid run folders, one mutation of one file, then a command that reads it, in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from conftest import TINY
from mutations import copy, mutate, trace, traces
from reflect_rl.__main__ import run_command
from reflect_rl.runs.stages import STAGES
from reflect_rl.training import rl

FUZZED: dict[str, Any] = {
    **TINY,
    "collect.episodes": 12,
    "annotate.actions": 20,
    "annotate.reflections": 20,
    "select.strategy": "facility-location",
    "reflector_sft.steps": 4,
    "policy_sft.steps": 4,
    "policy.gated_mixture": True,
    "rl.iterations": 2,
    "rl.checkpoint_every": 1,
    "rl.replay": 2,
    "rl.curriculum": "mix",
    "evaluate.sampled_episodes": 1,
    "evaluate.shown_episodes": 1,
}
OPTIONS = [f"--{key}={value}" for key, value in FUZZED.items()]
FINISHED = ("evaluate", "report", "report", "report", "annotate", "sft", "rl", "run")
BASES = ("finished", "finished", "interrupted")
OUTPUTS = {name for stage in STAGES for name in stage.outputs}


def command(name: str, run: Path) -> list[str]:
    """A command line that reads the run folder, whatever is done already."""
    if name == "run":
        return ["run", "min.yaml", "--out", str(run)]
    return [name, str(run), *(["--force"] if name != "report" else [])]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe, a finished run with a guard, and one that was interrupted in RL."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzz")
        patch.chdir(folder)
        write_runs(folder, patch)
        yield folder


def write_runs(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The recipe min.yaml and the run folders `finished` and `interrupted`."""
    import yaml

    from reflect_rl.config import parse_settings

    chosen = parse_settings({}, {**FUZZED, "guard": True}).model_dump(mode="json")
    (folder / "min.yaml").write_text(yaml.safe_dump(chosen))
    assert run_command(["run", "min.yaml", "--out", "finished"]) == 0
    real = rl._iterate

    def stop(*given: Any) -> Any:
        if given[3] == 1:
            raise KeyboardInterrupt
        return real(*given)

    with patch.context() as inner:
        inner.setattr(rl, "_iterate", stop)
        assert run_command(["run", "min.yaml", "--out", "interrupted"]) == 130


def fuzz(folder: Path, random: Random) -> str:
    """One mutation and one command; what was done. Raises whatever escapes, AssertionError if something is lost."""
    which = random.choice(BASES)
    run = copy(folder / which, folder / "mutated")
    files = sorted(path for path in run.rglob("*") if path.is_file())
    entry = random.choice(sorted({path.relative_to(run).parts[0] for path in files}))  # models have many files
    path = random.choice([path for path in files if path.relative_to(run).parts[0] == entry])
    name = "run" if which == "interrupted" else random.choice(FINISHED)
    done = f"{which}/{path.relative_to(run)}: {mutate(path, random)}; then {name}"
    put, output = trace(path), str(path.relative_to(run)).split("/")[0] in OUTPUTS
    try:
        code = run_command(command(name, run))
    except BaseException as error:
        error.add_note(done)
        raise
    assert code in (0, 2), done
    if output:
        assert put in traces(run), f"lost: {done}"
    return f"{done}: {code}"


@given(seed=st.integers(0, 2**32))
@settings(max_examples=12)
def test_no_content_of_a_run_folder_ends_in_a_traceback(world: Path, seed: int) -> None:
    note(fuzz(world, Random(seed)))


@pytest.mark.parametrize(
    ("file", "content", "name"),
    [
        ("config.yaml", b"\xff", "run"),
        ("config.yaml", b"[" * 5_000, "evaluate"),
        ("manifests/rl.json", b"[]", "evaluate"),
        ("manifests/rl.json", b'{"stage": "rl", "key": "", "settings": {"rl.lr": "x"}, "inputs": {}}', "evaluate"),
        ("metrics.jsonl", b'{"success": "x", "episodes": 3}', "report"),
        ("reflector.json", b'{"examples": 3}', "report"),
        ("evaluation.jsonl", b"[" * 400 + b"]" * 400, "report"),
        ("results.json", b"[" * 100_000, "report"),
        ("guard.json", b'{"folder": "../elsewhere"}', "evaluate"),
        ("guard.json", b"null", "evaluate"),
        ("selection.jsonl", b'{"id": []}', "annotate"),
        ("reflector.json", b'{"agreement": "all"}', "evaluate"),
        ("reflections.jsonl", b'{"state": "unknown", "text": "", "teacher": ""}', "sft"),
    ],
)
def test_content_that_is_not_what_it_should_be_is_told_of_its_file(
    world: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes, name: str
) -> None:
    run = copy(world / "finished", world / "mutated")
    (run / file).write_bytes(content)
    assert run_command(command(name, run)) == 2
    message = capsys.readouterr().err.rpartition("error: ")[2]
    assert file.split("/")[0] in message
    assert "elete" not in message
    assert (run / file).read_bytes() == content
