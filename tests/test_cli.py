"""What the command line promises: help at once, settings by name, one message and code 2 for a mistake."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reflect_rl.__main__ import run_command
from reflect_rl.bars import Bars
from reflect_rl.cli.app import app
from reflect_rl.cli.overrides import env_options, split_overrides
from reflect_rl.cli.tables import table
from reflect_rl.config import load_settings
from reflect_rl.pipeline import run as run_module
from reflect_rl.pipeline import runner
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import Stage
from reflect_rl.settings import setting_keys

COMMANDS = (
    "alfworld autoexplore run collect annotate sft rl evaluate report compare export export-rollouts serve serve-env "
    "bench play prompt envs recipes check settings select leaderboard"
).split()


def in_own_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reflect_rl", *arguments], capture_output=True, text=True, timeout=60, **options
    )


def test_help_lists_every_command() -> None:
    shown = in_own_process("--help")
    assert shown.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "whose"),
    [
        (["taxi", "--model", "gpt2"], "bench lm"),
        (["worlds", "--device", "cuda"], "bench lm and recipes"),
        (["alfworld", "--peer-python", "python"], "bench lm"),
        (["taxi", "--out", "runs/speed"], "bench labels"),
    ],
)
def test_bench_refuses_options_that_would_change_nothing(
    arguments: list[str], whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["bench", *arguments]) == 2
    assert f"{arguments[1]} is for {whose}, and changes nothing in bench {arguments[0]}." in capsys.readouterr().err


HEAVY = {"torch", "transformers", "gymnasium", "pydantic", "numpy", "yaml", "markdown_it", "matplotlib"}
"""Each takes longer to import than all that help needs; help is there in half a second without them."""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["select", "--help"], ["bench", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        f"import sys; from reflect_rl.__main__ import run_command; run_command({arguments});"
        f"print({HEAVY} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([command, "--help"]) == 0
    assert f"reflect-rl {command}" in capsys.readouterr().out


OWN = {"out", "until"}


@pytest.mark.parametrize(
    ("line", "rest", "overrides"),
    [
        ("taxi", "taxi", {}),
        ("taxi --out a", "taxi --out a", {}),
        ("taxi --rl.iterations 30", "taxi", {"rl.iterations": 30}),
        ("--rl.iterations=30 taxi", "taxi", {"rl.iterations": 30}),
        ("--rl.iterations 30 taxi --out a", "taxi --out a", {"rl.iterations": 30}),
        ("--out a taxi --seed 3", "--out a taxi", {"seed": 3}),
        ("--out=a taxi --rl.lr 1e-3", "--out=a taxi", {"rl.lr": 1e-3}),
        ("--guard taxi", "taxi", {"guard": True}),
        ("taxi --guard false --seed 1", "taxi", {"guard": False, "seed": 1}),
        ("taxi --no-guard", "taxi", {"guard": False}),
        ("taxi --annotate.distinct --out a", "taxi --out a", {"annotate.distinct": True}),
        ("taxi --policy-sft.lr .1", "taxi", {"policy_sft.lr": 0.1}),
        ("taxi --rl.baseline none", "taxi", {"rl.baseline": "none"}),
        ("taxi --env.options {size:\\ 5}", "taxi", {"env.options": {"size": 5}}),
        ("taxi --rl.lr -1", "taxi", {"rl.lr": -1}),
        ("taxi --rl.lr", "taxi", {"rl.lr": True}),
        ("taxi --env.name a:B", "taxi", {"env.name": "a:B"}),
        ("taxi --env.name [", "taxi", {"env.name": "["}),
        ('taxi --prompt.act "Answer: A or B?"', "taxi", {"prompt.act": "Answer: A or B?"}),
        ('taxi --prompt.act "" --prompt.reflect "- think"', "taxi", {"prompt.act": "", "prompt.reflect": "- think"}),
        ("taxi --prompt.act '\"a: b\"'", "taxi", {"prompt.act": "a: b"}),
        ("taxi --prompt.act 123 --prompt.reflect !a", "taxi", {"prompt.act": "123", "prompt.reflect": "!a"}),
    ],
)
def test_settings_are_read_from_options(line: str, rest: str, overrides: dict[str, Any]) -> None:
    import shlex

    assert split_overrides(shlex.split(line), OWN) == (shlex.split(rest), overrides)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("--env.horizon 9 --env.options.size 5", {"horizon": 9, "size": 5}),
        ("--env.options '{size: 5}' --env.options.map 4x4", {"size": 5, "map": "4x4"}),
        ("--env.options.settings '{level: 5}'", {"settings": {"level": 5}}),
        ("--env.options.settings.level 5", {"settings": {"level": 5}}),
        ("--env.options.question 'horizon: 3'", {"question": {"horizon": 3}}),
    ],
)
def test_options_of_a_world_are_what_they_are_in_a_recipe(line: str, options: dict[str, Any]) -> None:
    import shlex

    _, overrides = split_overrides(shlex.split(line), set())
    assert env_options("play", overrides) == options


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("play taxi --env.options 5", "--env.options is 5; it is a mapping"),
        ("play taxi --env.optionsize 5", "no option --env.optionsize"),
        ("run taxi --rl.iteratons 3", "Did you mean 'rl.iterations'?"),
        ("run taxi --iterations 3", "Did you mean 'rl.iterations'?"),
        ("run taxi --rl.iterations many", "rl.iterations is 'many'"),
        ("run taxi --rl.lr", "rl.lr is True"),
        ("run taxy", "Did you mean 'taxi'?"),
        ("run", "RECIPE"),
        ("run taxi extra", "extra"),
        ("rnu taxi", "rnu"),
        ("run taxi --until lunch --out {tmp}/x", "the stages are collect, select, annotate"),
        ("evaluate {tmp}/missing", "is not a run folder"),
        ("collect {tmp}/missing --seed 3", "is not a run folder"),
        ("play taxi --seed x", "seed"),
        ("compare taxi --seeds 0,x", "whole numbers"),
        ("compare taxi --seeds 0,-1", "whole numbers from 0 up"),
        ("compare taxi --seeds 1,0,1", "names 1 twice"),
        ("compare taxi --seeds " + "1" * 5000, "whole numbers"),
        ("compare taxi --seeds ,", "whole numbers"),
        ("compare taxi --arms=", "--arms is empty"),
        ("compare taxi --regimes ,", "--regimes is empty"),
        ("evaluate taxi --agent random --panel , --out {tmp}/x", "--panel is empty"),
        ("compare taxi --workers 0", "Must be >= 1"),
        ("bench labels --workers -1", "--workers"),
        ("bench lm", "measures a pretrained model"),
        ("bench lm --model scratch", "measures a pretrained model"),
        ("bench lm --model {tmp}/none", "There is no model folder"),
        ("bench lm --model x --episodes 16,0", "whole numbers from 1 up"),
        ("bench lm --model x --peer trl --episodes 12", "give for example --episodes 16"),
        ("bench lm --model x --peer trl --peer-python {tmp}/none", "There is no Python at"),
        ("play taxi --seed -1", "Must be >= 0"),
        ("play taxi --seed 2147483648", "Must be < 2147483648"),
        ("play taxi --seed " + "1" * 5000, "--seed"),
        ("play taxi --task \ud800", "There is no task"),
        ("alfworld verify --games 0", "Must be >= 1"),
        ("alfworld experts --horizon -3", "--horizon"),
        ("run taxi --compute.threads 99999999999", "less than or equal to 1024"),
        ("run taxi --seed " + "1" * 5000, "5,000 digits"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(line.format(tmp=tmp_path).split()) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_a_real_process_has_no_traceback() -> None:
    shown = in_own_process("run", "taxi", "--rl.iteratons", "3")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("error: ")
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_of_torch_wait_without_spinning(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that spin for long, the default, took nine times as long beside another process (docs/running.md)."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = "import os, sys; from reflect_rl.__main__ import main; sys.argv[1:] = ['recipes']\n"
    code += "try: main()\nexcept SystemExit: print(os.environ.get('GOMP_SPINCOUNT'))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == str(spins)


def test_every_setting_is_listed_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["settings"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(rows) == list(setting_keys())
    assert " 0.0005 " in rows["rl.lr"]
    assert "none|switch|mix" in rows["rl.curriculum"]


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipes"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("taxi  DangerousTaxi") for line in listed)
    assert all(line.endswith(".") for line in listed), "one whole sentence a recipe"


def test_output_into_a_closed_pipe_is_no_error() -> None:
    command = [sys.executable, "-m", "reflect_rl", "settings"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


RESULTS = {
    "horizon": 20,
    "labels": {"actions": 1000, "reflections": 2000},
    "panels": {
        "all": {
            "greedy": {
                "episodes": 300,
                "success": 0.99,
                "interval": [0.97, 0.997],
                "return_mean": 1.5,
                "steps_mean": 13.25,
                "stop_reasons": {"success": 297, "horizon": 3},
            }
        }
    },
}


def toy_evaluate(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    run.write_json("results.json", RESULTS)
    return {}


def toy_interrupted(run: RunFolder, context: Context, progress: Progress) -> dict[str, Any]:
    raise KeyboardInterrupt


@pytest.fixture
def toy_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The commands work on one toy stage, in an empty current folder."""
    stages = (Stage("evaluate", ("evaluate",), outputs=("results.json",)),)
    monkeypatch.setitem(runner.run_stages.__kwdefaults__, "stages", stages)
    monkeypatch.setattr(run_module, "stage_function", lambda name: toy_evaluate)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_ends_with_its_figures(toy_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("run taxi --seed 3 --rl.iterations 30 --out mine".split()) == 0
    shown = capsys.readouterr().out
    for part in (
        "all     greedy  300       99.0 %   97.0 to 99.7 %",
        "success 297, horizon 3",
        "20 steps",
        "mine/report.html",
    ):
        assert part in shown
    settings = load_settings(toy_pipeline / "mine/config.yaml")
    assert (settings.seed, settings.rl.iterations) == (3, 30)


@pytest.mark.parametrize(
    ("line", "folder"),
    [("run taxi", "runs/taxi"), ("run taxi --seed 3", "runs/taxi-seed3"), ("run my.yaml", "runs/my")],
)
def test_a_run_has_a_folder_of_its_own(toy_pipeline: Path, line: str, folder: str) -> None:
    (toy_pipeline / "my.yaml").write_text("env: {name: taxi}\n")
    assert run_command(line.split()) == 0
    assert (toy_pipeline / folder / "results.json").is_file()


def test_a_stage_alone_keeps_the_settings_of_its_run(toy_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("run taxi --rl.iterations 30 --out mine".split())
    assert run_command("evaluate mine --evaluate.shown_episodes 2".split()) == 0
    assert "evaluate.shown_episodes: 12 -> 2" in capsys.readouterr().err
    settings = load_settings(toy_pipeline / "mine/config.yaml")
    assert (settings.rl.iterations, settings.evaluate.shown_episodes) == (30, 2)


def test_an_interrupt_says_how_to_continue(
    toy_pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "stage_function", lambda name: toy_interrupted)
    assert run_command(["run", "taxi"]) == 130
    assert capsys.readouterr().err.endswith("interrupted; run the same command again to continue\n")


def test_a_fault_of_the_program_keeps_its_traceback(toy_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "stage_function", {}.__getitem__)
    with pytest.raises(KeyError):
        run_command(["run", "taxi"])


def test_progress_without_a_terminal_is_one_line_a_bar() -> None:
    stream = io.StringIO()
    progress = Bars(stream)
    with progress.bar("collect", 100, "episodes", done=40) as bar:
        for _ in range(60):
            bar.update()
        bar.note(loss=0.12345)
    progress.warn("a weak reflector")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("collect: 100/100 episodes, ")
    assert first.endswith(", loss 0.123")
    assert second == "warning: a weak reflector"


@pytest.mark.parametrize(
    ("done", "line"),
    [
        (0, "compare: 4/20 runs, 5 min 00 s so far, running sft seed-1"),
        (2, "compare: 6/20 runs, 2 min 30 s each, 35 min 00 s left, running sft seed-1"),
        (15, "compare: 19/20 runs, 20.0 s each, 20.0 s left, running sft seed-1"),
    ],
)
def test_slow_work_without_a_terminal_says_how_long_each_takes(
    done: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Bars(stream).bar("compare", 20, "runs", done=4) as bar:
        bar.note(running="sft seed-1")
        clock[0] = 300.0
        bar.update(done)
    assert stream.getvalue().splitlines()[0] == line


def test_progress_on_a_terminal_shows_rate_and_time_left() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Bars(stream).bar("collect", 10, "episodes") as bar:
        for _ in range(5):
            bar.update()
            bar.note(success=0.5)
            time.sleep(0.06)
    assert "collect:" in stream.getvalue()
    assert "episodes/s" in stream.getvalue()
    assert "success=0.5" in stream.getvalue()


def test_tables_are_aligned() -> None:
    assert table([("a", "bb", "c"), ("long", "b", "")]) == "a     bb  c\nlong  b"


def test_the_public_names_are_there_and_cost_nothing() -> None:
    script = (
        "import sys, json, reflect_rl; heavy = [m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules];"
        "print(json.dumps([heavy, reflect_rl.Settings().seed, 'Agent' in dir(reflect_rl)]))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == [[], 0, True]
    import reflect_rl

    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        _ = reflect_rl.Agnet


def test_the_commands_are_those_of_the_manual() -> None:
    assert sorted(name for name in app if not name.startswith("-")) == sorted(COMMANDS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run taxi --out ~nobody-here/x", "lies in a home folder that is not known"),
        ("compare taxi --out ~nobody-here/x", "lies in a home folder that is not known"),
        ("run taxi --until collect --out {tmp}/run --prompt.task @~nobody-here/x.txt", "~nobody-here"),
        ("prompt taxi --model ~nobody-here/x", "~nobody-here/x"),
        ("evaluate taxi --agent ~nobody-here/x", "~nobody-here/x"),
        ("run alfworld --env.options.data ~nobody-here/x --until collect --out {tmp}/run", "~nobody-here/x"),
    ],
)
def test_a_home_folder_that_is_not_known_is_one_message(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(line.format(tmp=tmp_path).split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") <= 2


LEADER = {
    "world": "taxi", "agent": "a", "panel": "test", "horizon": 20, "options": {}, "engine": "", "versions": {},
    "games": {"1": True},
}  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        "report ~/none",
        "rl ~/none",
        "evaluate ~/none",
        "export ~/none --to exported",
        "export-rollouts ~/none.jsonl --to exported",
        "leaderboard taxi none.json ~/none.json",
        "play taxi --agent=~/none",
        "select ~/none.jsonl --budget 1",
        "select pool.jsonl --budget 1 --already=~/none.txt",
        "select pool.jsonl --budget 1 --embeddings=~/none.npy",
        "autoexplore tasks --tasks=~/none.jsonl",
        "run ~/mine.yaml",
    ],
)
def test_a_path_may_begin_with_the_home_folder_where_no_shell_has_expanded_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.yaml").write_text("sede: 3\n")
    (tmp_path / "pool.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "none.json").write_text(json.dumps(LEADER))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert run_command(command.split()) == 2
    assert ("unknown setting 'sede'" if "mine" in command else str(home / "none")) in capsys.readouterr().err
