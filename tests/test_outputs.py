"""What a user names as an output: what is there survives, whatever is named; pipes and links do what they should."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from end_to_end import Ended, files, reference, refused, resize, used
from reflect_rl.__main__ import run_command

SCRIPT = Path(__file__).parents[1] / "scripts" / "screenshot_report.py"
CANARY = "years of work\n"
POOL = "".join(json.dumps({"id": f"p{n}", "text": f"text number {n}"}) + "\n" for n in range(6))
Command = Callable[[str], Ended]


def reflect_rl(*arguments: str) -> Ended:
    """A command in this process: most are refused before they import anything heavy."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_command(list(arguments))
    return Ended(code, out.getvalue(), err.getvalue())


def select(out: str, *more: str) -> Ended:
    return reflect_rl("select", "pool.jsonl", "--budget", "2", "--id-column", "id", "-o", out, *more)


FILES: dict[str, Command] = {
    "select": select,
    "verify": lambda out: reflect_rl(*"alfworld verify --games 1 --data generated --steps 1 --out".split(), out),
}
FOLDERS: dict[str, Command] = {
    "run": lambda out: reflect_rl("run", "recipe.yaml", "--until", "collect", "--out", out),
    "evaluate": lambda out: reflect_rl("evaluate", "run", "--out", out),
    "export": lambda out: reflect_rl("export", "run", "--to", out),
    "compare": lambda out: reflect_rl("compare", "recipe.yaml", "--seeds", "0", "--gather-only", "--out", out),
    "labels": lambda out: reflect_rl("bench", "labels", "--seeds", "0", "--out", out),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference(tmp_path_factory)


@pytest.fixture
def yard(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files and folders of a user's, and the inputs of every command."""
    yard = tmp_path / "yard"
    for folder in (yard, yard / "keep", yard / "keep" / "deep"):
        folder.mkdir()
        (folder / "canary.txt").write_text(CANARY)
    (yard / "pool.jsonl").write_text(POOL)
    (yard / "recipe.yaml").write_text("env: {name: taxi}\ncollect: {episodes: 2}\n")
    shutil.copytree(whole, yard / "run")
    monkeypatch.chdir(yard)
    return yard


def unharmed(yard: Path, before: dict[str, bytes], *new: str) -> None:
    """All that was there is there, and nothing else but what is `new`."""
    now = files(yard)
    assert now.items() >= before.items()
    assert {name.split("/")[0] for name in now.keys() - before.keys()} <= set(new)


NO_FILE = ["", " ", ".", "./", "keep", "keep/", "keep/..", "keep/.", "..", "/", "new/", "folder-link", "canary.txt/x"]


@pytest.mark.parametrize(
    "out", [*NO_FILE, "canary.txt", "keep/canary.txt", "file-link", "hard-link", "loop", "x" * 300]
)
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_not_written_over_what_is_there(name: str, out: str, yard: Path) -> None:
    (yard / "folder-link").symlink_to("keep")
    (yard / "file-link").symlink_to("keep/canary.txt")
    (yard / "hard-link").hardlink_to("canary.txt")
    (yard / "loop").symlink_to("loop")
    before = files(yard)
    refused(FILES[name](out), "--out")
    unharmed(yard, before)


@pytest.mark.parametrize(
    "out", ["", " ", "canary.txt", "keep", "keep/", ".", "./", "keep/..", "..", "/", "folder-link"]
)
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_something_else_is_not_written_into(name: str, out: str, yard: Path) -> None:
    (yard / "folder-link").symlink_to("keep")
    before = files(yard)
    refused(FOLDERS[name](out))
    unharmed(yard, before)


@pytest.mark.parametrize("out", ["fifo", "/dev/full", "loop", "canary.txt/x", "x" * 300])
@pytest.mark.parametrize("name", FOLDERS)
def test_what_can_be_no_folder_is_refused(name: str, out: str, yard: Path) -> None:
    os.mkfifo(yard / "fifo")
    (yard / "loop").symlink_to("loop")
    before = files(yard)
    refused(FOLDERS[name](out), "--to" if name == "export" else "--out")
    unharmed(yard, before)


@pytest.mark.parametrize("out", ["run", "run/", "./run", "run/inside", "run/policy", "run-link", "keep/../run"])
@pytest.mark.parametrize("name", ["evaluate", "export"])
def test_an_agent_is_not_copied_into_its_own_run(name: str, out: str, yard: Path) -> None:
    (yard / "run-link").symlink_to("run")
    before = files(yard)
    refused(FOLDERS[name](out), "overlaps")
    unharmed(yard, before)


@pytest.mark.parametrize("name", ["evaluate", "export"])
def test_an_agent_is_copied_into_an_empty_folder_which_stays_the_same_folder(name: str, yard: Path) -> None:
    before = files(yard)
    (yard / "empty").mkdir()
    inode = (yard / "empty").stat().st_ino
    ended = FOLDERS[name]("empty")
    assert ended.code == 0, ended.err
    assert (yard / "empty").stat().st_ino == inode
    assert (yard / "empty/results.json").is_file()
    unharmed(yard, before, "empty")


INPUTS = {
    "itself": "pool.jsonl",
    "another spelling": "keep/../pool.jsonl",
    "the whole path": "{yard}/pool.jsonl",
    "a link": "link",
    "a link to a link": "far-link",
    "a hard link": "hard-link",
}


@pytest.mark.parametrize("way", INPUTS)
def test_an_input_is_not_an_output(way: str, yard: Path) -> None:
    (yard / "link").symlink_to("pool.jsonl")
    (yard / "far-link").symlink_to("keep/../link")
    (yard / "hard-link").hardlink_to("pool.jsonl")
    before = files(yard)
    refused(select(INPUTS[way].format(yard=yard)), "is an input of this command")
    unharmed(yard, before)


def test_a_pool_that_reads_like_picks_is_an_input_all_the_same(yard: Path) -> None:
    assert select("picks.jsonl").code == 0
    (yard / "pool.jsonl").write_bytes((yard / "picks.jsonl").read_bytes())
    before = files(yard)
    refused(select("pool.jsonl", "--text-column", "id"), "is an input of this command")
    unharmed(yard, before)


@pytest.mark.parametrize(("option", "name"), [("--embeddings", "emb.npy"), ("--already", "done.txt")])
def test_no_input_of_any_option_is_an_output(option: str, name: str, yard: Path) -> None:
    (yard / name).write_text("p0\n")
    before = files(yard)
    refused(select(name, option, name), f"is an input of this command ({name})")
    unharmed(yard, before)


def test_a_file_of_an_input_folder_is_not_an_output(yard: Path) -> None:
    before = files(yard)
    refused(select("run/policy/config.json", "--embed-model", "run/policy"), "is an input of this command (run/policy)")
    unharmed(yard, before)


def test_picks_are_replaced_by_picks(yard: Path) -> None:
    before = files(yard)
    assert select("new/picks.jsonl").code == 0
    first = (yard / "new/picks.jsonl").read_bytes()
    assert len(first.splitlines()) == 2
    assert select("new/picks.jsonl", "--strategy", "random", "--seed", "3").code == 0
    assert (yard / "new/picks.jsonl").read_bytes() != first
    (yard / "empty.jsonl").touch()
    assert select("empty.jsonl").code == 0
    assert (yard / "empty.jsonl").read_bytes() == first
    unharmed(yard, before, "new", "empty.jsonl")


def test_links_are_followed(yard: Path) -> None:
    before = files(yard)
    (yard / "link").symlink_to("keep/picks.jsonl")  # which is not there yet
    for _ in range(2):
        assert select("link").code == 0
        assert (yard / "link").is_symlink()
        assert len((yard / "keep/picks.jsonl").read_text().splitlines()) == 2
    unharmed(yard, before, "link", "keep")


def test_a_pipe_is_written_to(yard: Path) -> None:
    os.mkfifo(yard / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((yard / "pipe").read_text()))
    reader.start()
    ended = select("pipe")
    reader.join(timeout=60)
    assert ended.code == 0, ended.err
    assert len(read[0].splitlines()) == 2
    assert (yard / "pipe").is_fifo()


def shell(command: str) -> subprocess.CompletedProcess[str]:
    tool = f"{sys.executable} -m reflect_rl select pool.jsonl --budget 2"
    return subprocess.run(["bash", "-c", command.replace("select", tool)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "command",
    [
        "select -o /dev/stdout",
        "select -o /dev/fd/1",
        "ln -s /dev/stdout link; select -o link; test -L link",
        "select -o /dev/stdout | cat",
        "select -o /dev/stderr 2>&1 >/dev/null | grep rank",
        "echo before > kept; select -o /dev/stdout >> kept; grep -q before kept && tail -n 2 kept",
        "select -o >(cat); wait",
    ],
)
def test_standard_streams_are_written_to(command: str, yard: Path) -> None:
    done = shell(command)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["rank"] for line in done.stdout.splitlines()] == [1, 2]


def test_a_device_that_is_full_is_one_message(yard: Path) -> None:
    before = files(yard)
    refused(select("/dev/full"), "/dev/full could not be written: No space left on device")
    refused(select("/dev/stdin"), "/dev/stdin could not be written")
    unharmed(yard, before)


def test_a_disk_that_fills_up_keeps_the_picks_of_before(yard: Path, disk: Path) -> None:
    out = disk / "picks.jsonl"
    assert select(str(out)).code == 0
    before = out.read_bytes()
    resize(disk, used(disk))
    refused(select(str(out), "--strategy", "random"), "No space left on device")
    assert out.read_bytes() == before
    assert [path.name for path in disk.iterdir()] == ["picks.jsonl"]


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_what_is_read_only_is_refused(name: str, yard: Path, disk: Path) -> None:
    (disk / "kept.jsonl").touch()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    before = files(yard)
    outs = [disk / "new", disk / "new" / "deep", disk / "kept.jsonl" if name in FILES else disk]
    for out in outs:
        refused((FILES | FOLDERS)[name](str(out)), "may not be written to")
    unharmed(yard, before)


@pytest.mark.parametrize(
    "text", ["no newline at the end", '{"plan": ', '{"plan": {}}\n', "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_sweep_changes_no_file_that_it_did_not_begin(text: str | bytes, yard: Path) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (yard / "reports.jsonl").write_bytes(data)
    refused(FILES["verify"]("reports.jsonl"))
    assert (yard / "reports.jsonl").read_bytes() == data


def test_a_sweep_needs_a_file_that_it_can_continue(yard: Path) -> None:
    refused(FILES["verify"]("/dev/stdout"), "no plain file")


@pytest.mark.parametrize("out", ["run/report.html", "canary.txt", "keep", ""])
def test_a_picture_replaces_nothing_unasked(out: str, yard: Path) -> None:
    before = files(yard)
    done = subprocess.run([sys.executable, SCRIPT, "run/report.html", out], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    unharmed(yard, before)
