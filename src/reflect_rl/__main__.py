"""Entry point of `python -m reflect_rl` and the `reflect-rl` script: parses options, prints errors, sets exit codes.

Almost nothing is imported before `main` runs. Only modules that the user names may come from the current folder, and an
interrupt while libraries load is handled like any other.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from reflect_rl.errors import ReflectRLError


def _here() -> str | None:
    """The current folder; None if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] in ("", _here()):
    del sys.path[0]  # `python -m` looks there first, and a user's yaml.py would shadow the library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INTERRUPTED = 130
USAGE = 2
NOT_READ = 141
"""Exit code of a command whose output nobody reads; the code that shells report for SIGPIPE."""
FOR_THEIR_OUTPUT = {"select", "bench"}
MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors caused by the user's machine; any other OSError is a bug."""


def main() -> None:
    """Run the command line of this process and exit with its code."""
    try:
        _end_at_the_second_interrupt()
        open_streams()
        os.environ.setdefault("MKL_CBWR", "AUTO")  # as in lm.torch_setup, for whatever uses MKL earlier
        _wait_without_spinning()
        code = run_command(sys.argv[1:])
    except KeyboardInterrupt:
        code = _interrupted()
    sys.exit(code)


def _wait_without_spinning() -> None:
    """Let torch's threads wait for each other asleep, after a moment of spinning. GNU's OpenMP reads it when it loads.

    By default they spin for milliseconds. Where another process uses the core of the thread that they wait for, each
    product of matrices then takes as long as a turn of the scheduler, which is many times longer than the product.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _end_at_the_second_interrupt() -> None:
    import signal

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # keep ignoring it under nohup
        signal.signal(signal.SIGINT, interrupt)


def _interrupted() -> int:
    print("interrupted; run the same command again to continue", file=sys.stderr)
    return INTERRUPTED


def run_command(arguments: list[str]) -> int:
    """Run one command line; return the exit code. User errors print one message on stderr and return their code."""
    here = _here()
    if here and here not in sys.path:
        sys.path.append(here)  # last, so that a user's module:Class can import the modules beside it
    try:
        code = _dispatch(arguments)
        print(end="", flush=True)
    except KeyboardInterrupt:
        return _interrupted()
    except ReflectRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if here is None and error.errno == errno.ENOENT:
            print("error: The current folder has been deleted. Change to one that is there.", file=sys.stderr)
            return USAGE
        if error.errno not in MACHINE:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}.", file=sys.stderr)
        return USAGE
    return (
        NOT_READ if code == 0 and arguments[:1] and arguments[0] in FOR_THEIR_OUTPUT and _unread(sys.stdout) else code
    )


def _dispatch(arguments: list[str]) -> int:
    import inspect
    from functools import reduce

    from cyclopts import CycloptsError

    from reflect_rl.cli.app import app
    from reflect_rl.cli.overrides import split_overrides

    try:
        chain, _, rest = app.parse_commands(arguments)
        prefix = arguments[: len(arguments) - len(rest)] if rest else arguments
        function = reduce(lambda group, name: group[name], chain, app).default_command if chain else None
        overrides: dict[str, Any] = {}
        if function and "overrides" in (parameters := inspect.signature(function).parameters):
            rest, overrides = split_overrides(rest, {name.rstrip("_") for name in parameters})
        command, bound, ignored = app.parse_args([*prefix, *rest], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise ReflectRLError(str(error)) from error
    if "overrides" in ignored:
        bound.arguments["overrides"] = overrides
    return command(*bound.args, **bound.kwargs) or 0


def open_streams() -> None:
    """Make the standard streams accept any text, and keep the command running when their readers go away.

    A closed stream is connected to the null device. Otherwise the next file opened would get its number, and output
    would be written into that file.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8")
    sys.stdin.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  not replaced yet in this process
    sys.stdout = _text_stream(sys.stdout, _Output(1, "standard output"))
    sys.stderr = _text_stream(sys.stderr, _Output(2))
    if not os.environ.get("COLUMNS", "").strip("0"):
        os.environ.pop("COLUMNS", None)  # 0 or empty means unknown


def _text_stream(given: Any, output: _Output) -> io.TextIOWrapper:
    """A stream like `given` on `output`; characters that its encoding lacks are written as \\u2588."""
    encoding = given.encoding if given else "utf-8"
    lines = output.name == 2 or given is None or given.line_buffering or given.write_through
    return io.TextIOWrapper(io.BufferedWriter(output), encoding, "backslashreplace", line_buffering=lines)


class _Output(io.FileIO):
    """A file descriptor for writing. Once its reader has gone away, writes are discarded.

    what: the stream's name in messages about other errors, such as a full disk; without a name those are ignored too.
    """

    def __init__(self, number: int, what: str = "") -> None:
        super().__init__(number, "w", closefd=False)
        self.what = what
        self.lost = False

    def write(self, data: Any, /) -> int:
        try:
            while not self.lost:
                written = super().write(data)
                if written is not None:
                    return written
                _wait_for(self)
        except OSError as error:
            self.lost = True
            if self.what and error.errno != errno.EPIPE:
                raise OSError(error.errno, error.strerror, self.what) from None
        return memoryview(data).nbytes


def _wait_for(output: io.FileIO) -> None:
    """Wait until a non-blocking pipe has room."""
    import select

    select.select([], [output], [])


def _unread(stream: Any) -> bool:
    return getattr(getattr(getattr(stream, "buffer", None), "raw", None), "lost", False)


if __name__ == "__main__":
    main()
