"""Who may use a server: everybody on this machine, or whoever knows the token."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from reflect_rl.errors import SettingsError

TOKEN = "REFLECT_RL_TOKEN"
"""The environment variable that holds the token by default."""
OPEN = ("/", "/health")
"""Paths that need no token: the page, which holds no data, and whether the server works."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(host: str, variable: str | None = None) -> str | None:
    """The token from the environment; None if there is none, which is enough for this machine alone.

    Raises SettingsError if the variable is empty, the token cannot stand in a header, or `host` needs one.
    """
    token = os.environ.get(variable or TOKEN)
    if variable is not None and not token:
        raise SettingsError(f"--token-env {variable}: the environment variable {variable} is not set, or is empty.")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise SettingsError(f"The token in {variable or TOKEN} should be printable ASCII characters without spaces.")
    if not token and not is_loopback(host):
        raise SettingsError(
            f"--host {host} lets other machines in, which needs a token. Put one into the environment variable {TOKEN} "
            f"(or another one, named with --token-env), or serve this machine alone, with --host 127.0.0.1."
        )
    return token or None


def refusal(path: str, headers: Mapping[str, str], token: str | None) -> tuple[int, str] | None:
    """Status and reason if a request is refused, else None.

    Without a token, the host that it asks for must be this machine: a web page, too, could let its own name point here.
    """
    if token is None:
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            host = ""
        return None if is_loopback(host) else (403, "This server answers to localhost only. Start it with a token.")
    kind, _, given = headers.get("authorization", "").partition(" ")
    if path in OPEN or (kind.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())):
        return None
    return 401, "The token is missing or wrong. Send it in the header Authorization: Bearer TOKEN."
