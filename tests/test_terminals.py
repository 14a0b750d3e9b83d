"""The command line as a process: closed streams, readers that leave, full disks, odd terminals, interrupts."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from end_to_end import options
from reflect_rl.bars import Bars
from reflect_rl.pipeline.runner import STAGES

COMMAND = f"{sys.executable} -m reflect_rl"
POOL = '{"text": "a b"}\n{"text": "b c d"}\n{"text": "x"}\n'


def shell(line: str, **options) -> subprocess.CompletedProcess[str]:
    """A line for bash, with `rl` for the command; the exit code is that of `rl`, wherever in a pipe it stands."""
    script = f"{line.replace('rl ', COMMAND + ' ', 1)}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, errors="replace", timeout=300, **options
    )


@pytest.mark.parametrize("command", ["recipes", "--help", "play taxi"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(command: str, closed: str, tmp_path: Path) -> None:
    done = shell(f"rl {command} {closed}", stdin=subprocess.DEVNULL, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    if ">&-" not in closed.replace("2>&-", ""):
        assert "taxi" in done.stdout.lower()


def test_a_mistake_keeps_its_code_where_nobody_can_be_told() -> None:
    assert shell("rl rnu >&- 2>&-").returncode == 2
    assert shell("rl rnu 2>/dev/full").returncode == 2


@pytest.mark.parametrize("command", ["recipes", "settings", "--help"])
def test_output_that_does_not_fit_on_the_disk_is_one_message(command: str) -> None:
    done = shell(f"rl {command} >/dev/full")
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device.\n")


@pytest.mark.parametrize("command", ["recipes", "settings", "--help", "--version"])
def test_a_list_may_be_read_in_part(command: str) -> None:
    done = shell(f"rl {command} | true")
    assert (done.returncode, done.stderr) == (0, "")


def test_picks_that_nobody_read_are_no_success(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text(POOL)
    assert shell("rl select pool.jsonl --budget 2 | true", cwd=tmp_path).returncode == 141
    assert shell("rl select pool.jsonl --budget 2 2>&1 | true", cwd=tmp_path).returncode == 141
    assert shell("rl select pool.jsonl --budget 2 -o picks.jsonl 2>&1 | true", cwd=tmp_path).returncode == 0
    done = shell("rl select pool.jsonl --budget 2 2>/dev/full", cwd=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


def test_a_broken_promise_keeps_its_code_where_nobody_reads_of_it(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("from reflect_rl import TextEnv\nclass Bad(TextEnv):\n    pass\n")
    assert shell("rl check bad:Bad | true", cwd=tmp_path).returncode == 1


def test_a_run_whose_progress_nobody_reads_is_done_to_its_end(tmp_path: Path) -> None:
    done = shell(f"rl run taxi --out run {' '.join(map(repr, options()))} 2>&1 | head -1", cwd=tmp_path)
    assert done.stdout.startswith("collect: ")
    assert done.returncode == 0
    missing = [stage.name for stage in STAGES if not stage.when and not (tmp_path / "run" / stage.manifest).is_file()]
    assert missing == []


@pytest.mark.parametrize("settings", ["PYTHONIOENCODING=ascii", "PYTHONIOENCODING=latin-1", "LC_ALL=C PYTHONUTF8=0"])
def test_what_a_terminal_cannot_show_is_written_in_its_own_characters(settings: str, tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text('{"text": "a", "id": "旗\u2028é"}\n', encoding="utf-8")
    env = {**os.environ, "PYTHONCOERCECLOCALE": "0", **dict(each.split("=") for each in settings.split())}
    done = shell("rl select pool.jsonl --budget 1 --id-column id", cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert "\\u65d7\\u2028" in done.stdout
    assert shell("rl --help", env=env).returncode == 0
    refused = shell("rl play taxi --task 旗", env=env)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("columns", ["0", "1", "10", "-3", "many"])
def test_help_is_there_on_terminals_of_every_width(columns: str) -> None:
    done = shell("rl --help", env={**os.environ, "COLUMNS": columns, "NO_COLOR": "1", "TERM": "dumb"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\033" not in done.stdout


def test_bytes_that_are_no_text_are_no_action() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reflect_rl", "play", "taxi"], input=b"\xff\xfe\nq\n", capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert b"is no action here" in done.stdout


@pytest.mark.parametrize("command", ["recipes", "settings", "envs"])
def test_a_deleted_current_folder_is_no_fault_where_none_is_needed(command: str, tmp_path: Path) -> None:
    done = shell(f"cd {tmp_path} && mkdir gone && cd gone && rmdir ../gone && rl {command}")
    assert (done.returncode, "taxi" in done.stdout or "seed" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("command", ["run taxi", "check own:World", "collect run", "select pool.jsonl --budget 1"])
def test_a_deleted_current_folder_is_one_message_where_one_is_needed(command: str, tmp_path: Path) -> None:
    done = shell(f"cd {tmp_path} && mkdir gone && cd gone && rmdir ../gone && rl {command}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "coloured"),
    [
        (Terminal, {"TERM": "xterm"}, True),
        (Terminal, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Terminal, {"TERM": "dumb"}, False),
        (io.StringIO, {"TERM": "xterm"}, False),
        (io.StringIO, {"FORCE_COLOR": "1"}, True),
        (io.StringIO, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_warnings_have_colour_where_it_is_wanted(stream, variables, coloured, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shown = stream()
    Bars(shown).warn("weak")
    assert ("\033[33m" in shown.getvalue()) == coloured
    assert "weak" in shown.getvalue()


def test_a_dumb_terminal_gets_lines_without_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown = Terminal()
    with Bars(shown).bar("collect", 2, "episodes") as bar:
        bar.update(2)
    assert shown.getvalue().startswith("collect: 2/2 episodes")
    assert "\r" not in shown.getvalue()


def heed_interrupts() -> None:
    """In a process to be: where the tests run in the background, it would ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_while_the_libraries_load_is_one_line() -> None:
    """Sent when a library is looked for."""
    script = (
        "import os, signal, sys\n"
        "name = sys.argv.pop(1)\n"
        "class Interrupt:\n"
        "    def find_spec(self, wanted, path=None, target=None):\n"
        "        if wanted == name: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from reflect_rl.__main__ import main\n"
        "main()\n"
    )
    for name in ("cyclopts", "pydantic", "reflect_rl.settings"):
        done = subprocess.run(
            [sys.executable, "-c", script, name, "settings"],
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=heed_interrupts,
        )
        assert (done.returncode, done.stdout) == (130, ""), name
        assert done.stderr == "interrupted; run the same command again to continue\n", name


def test_an_interrupt_of_a_comparison_is_one_line(tmp_path: Path) -> None:
    """The whole group gets it, as from a keyboard: the workers are silent."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reflect_rl", "compare", "taxi", "--seeds", "0,1", "--workers", "2", "--out", "all"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509  no thread runs here
    )
    try:
        started = time.monotonic()
        while not (tmp_path / "all/runs").is_dir() and time.monotonic() < started + 120:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted; run the same command again to continue"


def test_play_on_a_real_terminal_of_width_zero() -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "reflect_rl", "play", "taxi"], stdin=side, stdout=side, stderr=side
    )
    os.close(side)
    os.write(main, b"h\nq\n")
    shown = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    assert process.wait(60) == 0
    assert b"The expert would choose" in shown
    os.close(main)
