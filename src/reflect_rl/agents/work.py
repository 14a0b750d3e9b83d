"""Agents that act on this machine, played in this process or in workers. Only trained agents import torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from contextlib import closing, suppress
from functools import cache
from multiprocessing.util import Finalize
from typing import Any

from reflect_rl.agents.own import OwnPlayer
from reflect_rl.agents.play import Finished, Moved, play
from reflect_rl.agents.player import ExpertPlayer, Game, Player, RandomPlayer
from reflect_rl.agents.trained import TrainedPlayer, is_trained
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import opened
from reflect_rl.envs.isolated import open_world
from reflect_rl.envs.registry import load
from reflect_rl.errors import AgentError, EnvironmentContractError
from reflect_rl.pipeline.workers import worker_pool
from reflect_rl.settings import EnvSettings

BUILT_IN: dict[str, type[Player]] = {"random": RandomPlayer, "expert": ExpertPlayer}


def check_expert(name: str) -> None:
    """Raise AgentError if a world defines no expert."""
    world = load(name)
    if world.expert is TextEnv.expert and world.expert_set is TextEnv.expert_set:
        raise AgentError(f"{world.__name__} has no expert. Choose another --agent, such as random.")


def local_player(agent: str, num_envs: int) -> Player:
    """An agent that acts in this process. Raises AgentError if it cannot be loaded."""
    if agent in BUILT_IN:
        return BUILT_IN[agent]()
    return TrainedPlayer(agent, num_envs) if is_trained(agent) else OwnPlayer(agent, num_envs)


_players = cache(local_player)
"""Those of a worker process, which is given one share of the games after the other."""
_worlds: list[TextEnv] = []
"""The worlds of a worker process, which all its shares are played in: to make one may take longer than to play."""


def play_locally(
    agent: str, env: EnvSettings, num_envs: int, games: Sequence[Game], workers: int, finished: Finished, moved: Moved
) -> None:
    """Play all games; `finished` is called in this process as they end, in no fixed order, and `moved` as in `play`.

    Workers are given as many games at once as the agent plays side by side, and do not tell of their moves.
    """
    with closing(local_player(agent, num_envs)) as player:
        if workers == 1:
            play(player, lambda: open_world(env), games, finished, moved, env.processes)
            return
        size = min(player.num_envs, math.ceil(len(games) / workers))
    shares = [games[start : start + size] for start in range(0, len(games), size)]
    with worker_pool(min(workers, len(shares))) as pool:
        futures: list[Future] = [pool.submit(_played, agent, env, num_envs, share) for share in shares]
        try:
            for future in as_completed(futures):
                for game, record in future.result():
                    finished(game, record)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _played(agent: str, env: EnvSettings, num_envs: int, games: Sequence[Game]) -> list[tuple[Game, dict[str, Any]]]:
    done: list[tuple[Game, dict[str, Any]]] = []
    _close_at_the_end()

    def make() -> TextEnv:
        _worlds.append(open_world(env))
        return _worlds[-1]

    ended: Finished = lambda *each: done.append(each)  # noqa: E731
    play(_players(agent, num_envs), make, games, ended, lambda moves: None, env.processes, _worlds)
    return done


@cache
def _close_at_the_end() -> None:
    """Let this worker process close its worlds when it ends. What they raise then concerns no result."""

    def close() -> None:
        with suppress(EnvironmentContractError), opened(_worlds.pop) as take:
            while _worlds:
                take()

    Finalize(None, close, exitpriority=1)
