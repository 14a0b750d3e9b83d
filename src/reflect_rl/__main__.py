"""`python -m reflect_rl` and the `reflect-rl` script: settings from options, errors to messages and exit codes."""

from __future__ import annotations

import errno
import inspect
import os
import sys
from typing import Any

import cyclopts

from reflect_rl.cli import app
from reflect_rl.cli_overrides import split_overrides
from reflect_rl.errors import ReflectRLError

INTERRUPTED = 130
USAGE = 2
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
"""Refusals of the user's machine; any other OSError is a fault of the program."""


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line; the exit code. A user's mistake is one message on stderr and code 2."""
    sys.path.insert(0, os.getcwd())  # so that module:Class finds the user's own module
    try:
        return _dispatch(arguments)
    except (ReflectRLError, cyclopts.CycloptsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `reflect-rl settings | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in MACHINE:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}.", file=sys.stderr)
        return USAGE


def _dispatch(arguments: list[str]) -> int:
    chain, _, rest = app.parse_commands(arguments)
    prefix = arguments[: len(arguments) - len(rest)] if rest else arguments
    function = app[chain[0]].default_command if chain else None
    overrides: dict[str, Any] = {}
    if function and "overrides" in (parameters := inspect.signature(function).parameters):
        rest, overrides = split_overrides(rest, {name.rstrip("_") for name in parameters})
    command, bound, ignored = app.parse_args([*prefix, *rest], exit_on_error=False, print_error=False)
    if "overrides" in ignored:
        bound.arguments["overrides"] = overrides
    return command(*bound.args, **bound.kwargs) or 0


if __name__ == "__main__":
    main()
