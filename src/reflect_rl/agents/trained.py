"""A trained agent, of a run folder or exported, on the fixed panels like anybody's agent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.agents.player import Game, Move, Played, Player, Turn
from reflect_rl.envs.checked import facts_of
from reflect_rl.players.hub import PLAYERS, local_folder, public_name
from reflect_rl.progress import Progress
from reflect_rl.runs.kept_arm import finished_agent

if TYPE_CHECKING:
    from reflect_rl.records import EpisodeMemory


def is_trained(agent: str) -> bool:
    """Whether the name of an agent is that of a folder, or a user/name of the hub."""
    if agent and Path(agent).is_dir():
        return True
    return ":" not in agent and ("/" in agent or os.sep in agent)


def made_of(agent: str) -> dict[str, Any]:
    """What an agent's decisions depend on: the hash of each player's model, its prompts and how it reflects.

    Raises RunFolderError if there is no trained agent.
    """
    run, settings = finished_agent(local_folder(agent), Progress())
    reflector = settings.reflector
    how: dict[str, Any] = reflector.model_dump(include={"kind", "max_new_tokens", "decoding", "temperature"})
    if reflector.is_served:
        how["model"] = reflector.server.model
    elif reflector.kind == "prompted":
        how["model"] = public_name(reflector.model.source)
    models = {name: run.hash(name) for name in PLAYERS if (run / name).is_dir()}
    return {"models": models, "prompt": settings.prompt.model_dump(), "reflector": how}


class TrainedPlayer(Player):
    """An agent of this library, which takes the most likely action. It computes with the settings of its run.

    Raises RunFolderError if there is none, or if its training was interrupted.
    """

    def __init__(self, name: str, num_envs: int) -> None:
        from reflect_rl.lm.torch_setup import torch_set_up
        from reflect_rl.players.agent import Agent

        self.agent = Agent.load(name)
        self.num_envs = num_envs
        self._memories: dict[Game, EpisodeMemory] = {}
        self._torch = ExitStack()
        self._torch.enter_context(torch_set_up(self.agent.settings.compute))

    def begin(self, game: Game) -> None:
        self._memories[game] = self.agent.new_memory()

    def moves(self, turns: Sequence[Turn]) -> list[Move]:
        states = [
            self._memories[turn.game].observe(
                turn.state.observation, turn.state.actions, facts_of(turn.env) if self.agent.reads_facts else {}
            )
            for turn in turns
        ]
        decisions = self.agent.decide(states)
        for turn, decision in zip(turns, decisions, strict=True):
            self._memories[turn.game].acted(decision.choice, decision.reflection)
        return [
            Move(each.choice, each.reflection, {"probabilities": [round(share, 6) for share in each.probabilities]})
            for each in decisions
        ]

    def end(self, played: Sequence[Played]) -> list[dict[str, Any]]:
        for each in played:
            del self._memories[each.game]
        return super().end(played)

    def close(self) -> None:
        self._torch.close()
