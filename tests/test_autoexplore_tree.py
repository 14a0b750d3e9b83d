"""A tree lists and reads what is below its root, whatever its names are and whatever changes, and nothing else."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile_folders import SECRET, hostile_folder, read_everything, secrets, time_limit
from reflect_rl.envs.autoexplore.tree import Tree, UnreadableError
from reflect_rl.errors import EnvironmentContractError


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Who opens a FIFO waits for its other end: fail instead."""
    with time_limit(60):
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small folder, and a double of it outside."""
    for place, text in ((tmp_path / "root", "inside"), (tmp_path / "outside", SECRET.decode())):
        (place / "a" / "b").mkdir(parents=True)
        for name in ("top.py", "a/middle.py", "a/b/deep.py"):
            (place / name).write_text(f"{text} {name}")
    return tmp_path / "root"


def paths(tree: Tree) -> list[str]:
    return [tree.path(node) for node in range(1, len(tree))]


def node(tree: Tree, path: str) -> int:
    found = tree.find(path)
    assert found is not None
    return found


# Listing


def test_a_tree_lists_folders_and_files_by_name(root: Path) -> None:
    (root / "B").mkdir()
    (root / "é").mkdir()
    (root / "Z.py").touch()
    tree = Tree.index(root)
    assert [tree.name(each) for each in tree.folders(0)] == ["B", "a", "é"]
    assert [tree.name(each) for each in tree.files(0)] == ["Z.py", "top.py"]
    assert len(tree) == 9
    assert [tree.is_file(node(tree, path)) for path in ("", "a", "a/b", "a/b/deep.py")] == [False, False, False, True]
    assert (tree.name(0), tree.path(0), tree.parent(0), tree.find("")) == ("", "", 0, 0)
    assert tree.path(tree.parent(node(tree, "a/b/deep.py"))) == "a/b"
    assert tree.folders(node(tree, "top.py")) == tree.files(node(tree, "top.py")) == ()
    for path in ("a/", "/a", "a//b", "./a", "a/..", "nowhere", "top.py/x", "a/b/deep", "\0", "\ud800", "\udcff"):
        assert tree.find(path) is None


def test_names_are_sorted_by_their_bytes(tmp_path: Path) -> None:
    names = sorted([b"\xff", "\ue000".encode(), "\U0001f600".encode(), "é".encode(), b"z", b"Z"])
    assert names != sorted(names, key=os.fsdecode)
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT | os.O_WRONLY))
    tree = Tree.index(tmp_path)
    assert [tree.name(each).encode("utf-8", "surrogateescape") for each in tree.files(0)] == names
    assert [tree.find(tree.name(each)) for each in tree.files(0)] == list(tree.files(0))


def test_caches_and_compiled_files_are_left_out(root: Path) -> None:
    for folder in (".git", "__pycache__", "a/node_modules"):
        (root / folder).mkdir()
        (root / folder / "x.py").touch()
    for name in ("x.pyc", "a/y.so", ".gitignore", ".DS_Store"):
        (root / name).touch()
    assert sorted(paths(Tree.index(root))) == [".gitignore", "a", "a/b", "a/b/deep.py", "a/middle.py", "top.py"]


def test_only_named_files_are_listed(root: Path) -> None:
    (root / "c").mkdir()
    (root / "c" / "x.pyc").touch()
    only = ["a/b/deep.py", "top.py", "../outside/top.py", str(root.parent / "outside/top.py"), "a", "gone/x", "c/x.pyc"]
    assert paths(Tree.index(root, only=only)) == ["a", "c", "top.py", "a/b", "a/b/deep.py"]
    assert paths(Tree.index(root, only=())) == []


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_file_system_does_not_matter(root: Path, monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    for name in "zyx":
        (root / name).mkdir()
        (root / name / "file").touch()
    expected = paths(Tree.index(root))
    scandir = os.scandir

    class Sorted:
        def __init__(self, folder: int) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name)[::order] * 2  # and each of them twice

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Sorted)
    assert paths(Tree.index(root)) == expected


def test_ten_thousand_files_in_one_folder(tmp_path: Path) -> None:
    for number in range(10_000):
        os.close(os.open(tmp_path / f"file-{number}", os.O_CREAT | os.O_WRONLY))
    tree = Tree.index(tmp_path)
    assert len(tree.files(0)) == 10_000
    assert all(tree.find(f"file-{number}") for number in range(0, 10_000, 100))


@pytest.mark.parametrize("comb", [False, True])
def test_a_tree_deeper_than_any_path(tmp_path: Path, comb: bool) -> None:
    """Its deepest file has a path that no system call takes, and it is found and read with few descriptors."""
    depth, name = 1000, "d" * 20
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        if comb:
            os.mkdir("e", dir_fd=here)
        here, above = os.open(name, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(os.open("deepest", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        tree = Tree.index(tmp_path)
        assert len(tree) == (2 if comb else 1) * depth + 2
        deepest = node(tree, "/".join([*[name] * depth, "deepest"]))
        assert len(tree.path(deepest)) > os.pathconf(tmp_path, "PC_PATH_MAX")
        assert tree.read(deepest) == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        subprocess.run(["rm", "-rf", str(tmp_path)], check=True, timeout=60)  # shutil cannot go so deep


def test_no_descriptor_is_left_open(root: Path) -> None:
    def descriptors() -> int:
        return sum(1 for _ in os.scandir("/dev/fd"))

    before = descriptors()
    tree = Tree.index(root)
    shutil.rmtree(root / "a" / "b")
    (root / "a" / "middle.py").unlink()
    (root / "a" / "middle.py").mkdir()
    for file in range(len(tree)):
        with suppress(UnreadableError):
            tree.read(file)
    with pytest.raises(EnvironmentContractError):
        Tree.index(root / "top.py")
    assert descriptors() == before


def test_a_tree_can_be_sent_to_another_process(root: Path) -> None:
    tree = pickle.loads(pickle.dumps(Tree.index(root)))  # noqa: S301  our own bytes
    assert tree.read(node(tree, "a/middle.py")) == b"inside a/middle.py"
    error = pickle.loads(pickle.dumps(UnreadableError("a\nb", "it is gone")))  # noqa: S301
    assert (error.path, error.reason) == ("a\nb", "it is gone")
    assert str(error).startswith('"a\\nb" cannot be read: it is gone.')


# Roots that cannot be indexed


def test_a_root_behind_a_link_is_the_folder_it_points_to(root: Path) -> None:
    (root.parent / "link").symlink_to("root")
    assert paths(Tree.index(root.parent / "link")) == paths(Tree.index(root))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.touch(), "Not a directory"),
        (os.mkfifo, "Not a directory"),
        (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
        (lambda path: path.symlink_to(path.name), "(Symlink loop|Too many levels)"),
    ],
)
def test_a_root_that_is_no_folder_is_one_message(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    make(tmp_path / "root")
    with pytest.raises(EnvironmentContractError, match=f"root cannot be explored: {reason}.*Name a folder"):
        Tree.index(tmp_path / "root")


def test_a_root_with_a_nul_is_one_message() -> None:
    with pytest.raises(EnvironmentContractError, match=r"cannot be explored: .*null"):
        Tree.index(Path("a\0b"))


def test_an_index_that_would_miss_folders_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running out of descriptors, say, must not pass for an empty folder."""
    scandir, calls = os.scandir, []

    def failing(folder: int) -> object:
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(24, "Too many open files")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(EnvironmentContractError, match="Too many open files"):
        Tree.index(root)


# Reading


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.write(b"begin")
        file.truncate(1 << 30)
    tree = Tree.index(tmp_path)
    assert tree.read(1, 8) == b"begin\0\0\0"
    assert len(tree.read(1)) == 1 << 20
    assert tree.read(1, 0) == b""


def test_a_file_is_read_as_it_is_now(root: Path) -> None:
    tree = Tree.index(root)
    (root / "top.py").write_text("changed")
    assert tree.read(node(tree, "top.py")) == b"changed"


def test_links_and_special_files_are_not_listed(root: Path) -> None:
    expected = paths(Tree.index(root))
    outside = root.parent / "outside"
    targets = ["../outside/top.py", "../outside", outside, outside / "top.py", "top.py", "a", ".", "..", "nowhere", "/"]
    for number, target in enumerate(targets):
        (root / f"link-{number}").symlink_to(target)
    (root / "circle-1").symlink_to("circle-2")
    (root / "circle-2").symlink_to("circle-1")
    os.mkfifo(root / "fifo")
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    assert paths(Tree.index(root)) == expected


def replace_by_link(path: Path, relative: bool = False) -> None:
    """Put a link to the double outside in the place of something."""
    root = next(above for above in (path, *path.parents) if above.name == "root")
    double = root.with_name("outside") / path.relative_to(root)
    path.rename(root.with_name("aside"))
    path.symlink_to(os.path.relpath(double, path.parent) if relative else double)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    ("swapped", "reason"),
    [
        ("a/b/deep.py", "it has become a link"),
        ("a/b", "a folder above it has become a link or a file"),
        ("a", "a folder above it has become a link or a file"),
        ("", "it has become a link"),
    ],
)
def test_a_link_made_after_the_index_is_not_followed(root: Path, swapped: str, reason: str, relative: bool) -> None:
    tree = Tree.index(root)
    replace_by_link(root / swapped, relative)
    assert SECRET in (root / "a/b/deep.py").read_bytes()  # who follows links reads it
    with pytest.raises(UnreadableError, match=r"deep\.py cannot be read: ") as caught:
        tree.read(node(tree, "a/b/deep.py"))
    assert caught.value.reason in (reason, "a folder above it has become a link or a file")


@pytest.mark.parametrize("swap", ["above", "root"])
def test_another_folder_in_the_place_of_the_root_is_not_read(root: Path, swap: str) -> None:
    tree, outside = Tree.index(root), root.with_name("outside")
    if swap == "root":
        root.rename(root.with_name("old"))
        outside.rename(root)
    else:
        above = root.parent.rename(root.parent.with_name("moved"))
        root.parent.symlink_to(above)
        (above / "root").rename(above / "old")
        (above / "outside").rename(above / "root")
    assert SECRET in (root / "top.py").read_bytes()
    with pytest.raises(UnreadableError, match="it is gone"):
        tree.read(node(tree, "top.py"))


@pytest.mark.parametrize("swapped", ["a", "a/b"])
def test_a_link_made_while_the_folder_is_indexed_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    (root.parent / "outside" / swapped / SECRET.decode()).touch()
    open_it = os.open

    def swap_before(name: Path | bytes, flags: int, *, dir_fd: int | None = None) -> int:
        if name == os.path.basename(swapped).encode():
            replace_by_link(root / swapped)
        return open_it(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swap_before)
    tree = Tree.index(root)
    assert (root / swapped).is_symlink()
    assert not secrets(paths(tree))
    assert tree.files(node(tree, swapped)) == ()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def a_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero, without end
    except PermissionError:
        pytest.skip("no permission to make a device")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_fifo, "it has become a special file"),
        (a_socket, "it has become a special file"),
        (a_device, "(it has become a special file|there is no permission to read it)"),
        (Path.mkdir, "it has become a folder"),
        (lambda path: None, "it is gone"),
    ],
)
def test_what_is_no_file_any_more_is_not_read(root: Path, make: Callable[[Path], object], reason: str) -> None:
    tree = Tree.index(root)
    (root / "top.py").unlink()
    make(root / "top.py")
    with pytest.raises(UnreadableError, match=f"top.py cannot be read: {reason}"):
        tree.read(node(tree, "top.py"))


def test_a_vanished_tree_is_not_read(root: Path) -> None:
    tree = Tree.index(root)
    shutil.rmtree(root)
    for file in range(len(tree)):
        with pytest.raises(UnreadableError, match="it is gone"):
            tree.read(file)


def test_what_may_not_be_read_is_listed_but_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # who may read everything
        open_it = os.open

        def strict(name: Path | bytes, flags: int, *, dir_fd: int | None = None) -> int:
            if not stat.S_IMODE(os.stat(name, dir_fd=dir_fd).st_mode):
                raise PermissionError(errno.EACCES, "Permission denied")
            return open_it(name, flags, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", strict)
    for path in ("top.py", "a"):
        (root / path).chmod(0)
    try:
        tree = Tree.index(root)
        assert paths(tree) == ["a", "top.py"]
        with pytest.raises(UnreadableError, match="there is no permission to read it"):
            tree.read(node(tree, "top.py"))
        root.chmod(0)
        with pytest.raises(EnvironmentContractError, match="Permission denied"):
            Tree.index(root)
    finally:
        root.chmod(0o755)
        (root / "a").chmod(0o755)


# Hostile folders


@given(st.integers(0, 2**32))
def test_nothing_outside_is_told_of_a_hostile_folder(seed: int) -> None:
    with hostile_folder(Random(seed)) as folder:
        tree = Tree.index(folder.root, only=folder.only() if seed % 3 == 0 else None)
        quiet, _ = read_everything(tree)
        with folder.swapping():
            swapped, _ = read_everything(tree)
        assert not secrets([*quiet, *swapped])


@given(st.integers(0, 2**32))
def test_nothing_outside_is_told_of_a_folder_that_changes_while_it_is_indexed(seed: int) -> None:
    with hostile_folder(Random(seed)) as folder:
        try:
            with folder.swapping(most=6):
                tree = Tree.index(folder.root)
        except EnvironmentContractError:  # the root was swapped
            return
        assert not secrets(read_everything(tree)[0])


@given(st.integers(0, 2**32))
def test_every_file_and_folder_of_a_hostile_folder_is_found(seed: int) -> None:
    """As os.walk sees it, in bytes, without links, special files, and what is ignored."""
    with hostile_folder(Random(seed)) as folder:
        expected = set()
        for above, folders, files in os.walk(os.fsencode(folder.root)):
            folders[:] = [name for name in folders if name != b".git" and not os.path.islink(os.path.join(above, name))]
            found = [name for name in files if stat.S_ISREG(os.lstat(os.path.join(above, name)).st_mode)]
            found = [name for name in found if name != b".git" and not name.endswith(b".pyc")]
            below = [os.path.join(above, name) for name in (*folders, *found)]
            expected |= {os.path.relpath(path, os.fsencode(folder.root)) for path in below}
        tree = Tree.index(folder.root)
        assert {path.encode("utf-8", "surrogateescape") for path in paths(tree)} == expected


def test_a_reader_that_follows_links_gives_itself_away() -> None:
    """The hostile folders can fail a test: reading by path tells secrets in many of them."""
    told = 0
    for seed in range(40):
        with hostile_folder(Random(seed)) as folder:
            tree = Tree.index(folder.root)
            files = [folder.root / tree.path(file) for file in range(len(tree)) if tree.is_file(file)]
            for _ in range(5):
                folder.swap()
            told += any(SECRET in file.read_bytes() for file in files if file.is_file())
    assert told >= 5


def test_the_command_that_explores_hostile_trees() -> None:
    script = Path(__file__).parents[1] / "scripts" / "hostile_trees.py"
    done = subprocess.run([sys.executable, script, "--trees", "20"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "escapes: 0, crashes: 0" in done.stdout
