"""Models behind a server on the command line: `openai:MODEL`, --server.base_url and its like, and what calls cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reflect_rl.errors import SettingsError

if TYPE_CHECKING:
    from reflect_rl.model_servers.records import Estimate
    from reflect_rl.settings.server import ServerSettings

PREFIX = "openai:"
SERVER = "server."


def server_settings(named: str, options: Mapping[str, Any]) -> ServerSettings:
    """The settings of a server. named: openai:MODEL. options: such as {"server.base_url": ...}.

    Raises SettingsError.
    """
    from reflect_rl.config import parse_section
    from reflect_rl.settings.server import ServerSettings

    given = {key.removeprefix(SERVER): value for key, value in options.items()}
    return parse_section(ServerSettings, {**given, "model": named.removeprefix(PREFIX)}, "server")


def served_teacher(command: str, teacher: str | None, options: Mapping[str, Any]) -> ServerSettings | None:
    """The server that --teacher names; None if it is not given. Raises SettingsError for options of no server."""
    if other := [key for key in options if not key.startswith(SERVER)]:
        raise SettingsError(f"{command} has no option --{other[0]}. `reflect-rl {command} --help` lists its options.")
    if teacher is None:
        if options:
            raise SettingsError(f"--{next(iter(options))} is for --teacher openai:MODEL.")
        return None
    if not teacher.startswith(PREFIX):
        raise SettingsError(f"--teacher is {teacher!r}; it is openai:MODEL, for a language model behind a server.")
    return server_settings(teacher, options)


def told(found: Estimate, model: str) -> str:
    """What calls would cost, in a sentence or two."""
    price = "at an unknown price" if found.usd is None else f"about {found.usd:.4f} USD in all"
    return (
        f"{found.calls:,} calls to {model}, about {found.prompt_tokens:,} prompt tokens, at most "
        f"{found.completion_tokens:,} completion tokens: {price}. Stored answers are not counted, nor those that will "
        f"have to be asked for once more."
    )
