"""`reflect-rl serve`: a trained agent behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from reflect_rl.bars import Bars
from reflect_rl.errors import SettingsError

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]


def serve(run: Path, /, *, port: Port = 8080, host: str = "127.0.0.1", token_env: str | None = None) -> None:
    """Serve a trained agent over HTTP, with a page to try it.

    For example:

    - `reflect-rl serve runs/taxi` — for this machine, on http://127.0.0.1:8080
    - `reflect-rl serve runs/taxi --host 0.0.0.0 --token-env MY_TOKEN` — for others too, who need the token in MY_TOKEN

    Parameters
    ----------
    run
        A finished run folder, an exported agent, or one on the Hugging Face hub (user/name).
    port
        The port to listen on; 0 for any that is free.
    host
        The address to listen on. Any but this machine's own needs a token.
    token_env
        The environment variable with the token that clients have to send; REFLECT_RL_TOKEN by default.
    """
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingsError(f'serve needs {error.name}: pip install "reflect-rl[serve]".') from error
    from reflect_rl.serving.access import read_token

    token = read_token(host, token_env)
    from reflect_rl.serving.server import serve as serve_until_stopped

    serve_until_stopped(run, host, port, token, Bars())
