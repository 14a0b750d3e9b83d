"""`reflect-rl serve` and `serve-env`: a trained agent behind HTTP, and a world as an OpenEnv server."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import Count, InputPath, Overrides, env_options
from reflect_rl.errors import SettingsError

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]


def serve(run: InputPath, /, *, port: Port = 8080, host: str = "127.0.0.1", token_env: str | None = None) -> None:
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
    _require("serve", "serve", ("prometheus_client", "starlette", "uvicorn"))
    from reflect_rl.serving.access import read_token

    token = read_token(host, token_env)
    from reflect_rl.serving.server import serve as serve_until_stopped

    serve_until_stopped(run, host, port, token, Bars())


def serve_env(
    env: str,
    /,
    *,
    protocol: Literal["openenv"] = "openenv",
    port: Port = 8000,
    host: str = "127.0.0.1",
    token_env: str | None = None,
    sessions: Count = 64,
    overrides: Overrides,
) -> None:
    """Serve a world to other programs. Options of the world are given as --env.options.NAME.

    For example:

    - `reflect-rl serve-env taxi` — for this machine, on http://127.0.0.1:8000
    - `reflect-rl serve-env examples.my_environment:Corridor --protocol openenv --port 8001 --env.horizon 30`
    - `reflect-rl serve-env taxi --host 0.0.0.0 --token-env MY_TOKEN` — for others too, who need the token in MY_TOKEN

    Parameters
    ----------
    env
        The name of a world (see `reflect-rl envs`), or module:Class for your own.
    protocol
        The protocol that clients speak: openenv, over WebSockets.
    port
        The port to listen on; 0 for any that is free.
    host
        The address to listen on. Any but this machine's own needs a token.
    token_env
        The environment variable with the token that clients have to send; REFLECT_RL_TOKEN by default.
    sessions
        The most sessions at a time, each with a world of its own.
    """
    _require("serve-env", "openenv", ("prometheus_client", "starlette", "uvicorn", "websockets"))
    from functools import partial

    from reflect_rl.envs.registry import make
    from reflect_rl.serving.access import read_token
    from reflect_rl.serving.limits import Limits
    from reflect_rl.serving.openenv import serve_world

    token = read_token(host, token_env)
    make_env = partial(make, env, **env_options("serve-env", overrides))
    serve_world(env, make_env, host, port, token, Bars(), Limits(worlds=sessions))


def _require(command: str, extra: str, modules: Sequence[str]) -> None:
    for module in modules:
        if find_spec(module) is None:
            raise SettingsError(f'{command} needs {module}: pip install "reflect-rl[{extra}]".')
