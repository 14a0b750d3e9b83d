"""Serve a trained agent: from a run folder to an open port."""

from __future__ import annotations

from pathlib import Path

from reflect_rl.lm.torch_setup import torch_set_up
from reflect_rl.pipeline.export import agent_card
from reflect_rl.players.agent import Agent
from reflect_rl.players.context import Context
from reflect_rl.players.hub import local_folder
from reflect_rl.progress import Progress
from reflect_rl.serving.app import Service, make_app
from reflect_rl.serving.limits import Limits
from reflect_rl.serving.listening import bound, run_until_stopped


def serve(
    run: str | Path,
    host: str,
    port: int,
    token: str | None,
    progress: Progress,
    limits: Limits | None = None,
) -> None:
    """Serve a finished run, an exported agent or one on the hub, until SIGINT or SIGTERM.

    Args:
        run: as for `Agent.load`.
        host: the address to listen on.
        port: its port; 0 for any that is free.
        token: see `access.read_token`, which decides whether `host` needs one.
        progress: is told the address, once requests are answered.
        limits: what is accepted, kept and waited for.

    Raises:
        SettingsError: the address cannot be used.
        RunFolderError: there is no finished agent.
    """
    with bound(host, port) as listening:
        folder, limits = local_folder(run), limits or Limits()
        agent, card = Agent.load(folder, progress), agent_card(folder)
        with torch_set_up(agent.settings.compute):  # as in evaluation
            name = folder.resolve().name
            service = Service(name, agent, Context(agent.settings).make_env, card, limits)
            run_until_stopped(make_app(service, token), listening, name, limits, progress)
