"""The handcoded expert that alfworld ships, as shipped and fixed, played on the real engine for comparison.

The shipped one was written for the older grammar: after "move X to Y" it does not notice that it has put something
down, and fails many games in which two objects are to be placed. "fixed" corrects that and nothing else. Training needs
neither: the planner wins every solvable game. The handcoded expert sees facts that no text shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.envs.alfworld.real import RealAlfred, RealEngineError, RealProcess

if TYPE_CHECKING:
    from reflect_rl.envs.alfworld.game import GameFile

VARIANTS = ("shipped", "fixed")
MAX_STEPS = 200
"""After which the expert itself gives up, as alfworld sets it."""
PUT = re.compile(r"put (.+) in/on (.+)")
MOVE = re.compile(r"move (.+) to (.+)")


@dataclass(frozen=True)
class HandcodedEpisode:
    """won: the goal was reached. commands: what was played. gave_up: why the expert ended it, if it did."""

    won: bool
    commands: tuple[str, ...]
    gave_up: str | None = None


def play_handcoded(
    game_file: str | Path | GameFile,
    variant: str = "shipped",
    *,
    grammar: str = "move",
    seed: int = 0,
    max_steps: int = MAX_STEPS,
    process: RealProcess | None = None,
) -> HandcodedEpisode:
    """Play a game with the handcoded expert on the real engine (slow: some 10 steps a second).

    seed: of the generator from which engine and expert draw. Raises RealEngineError like RealAlfred; an expert that
    gives up ends the episode instead.
    """
    if variant not in VARIANTS:
        raise RealEngineError(f"There is no handcoded expert {variant!r}; there are: {', '.join(VARIANTS)}.")
    if process is not None and process.patched:
        raise RealEngineError(
            "The handcoded expert is for comparison: it plays on the engine as it is, not on a patched one."
        )
    game = RealAlfred(game_file, grammar=grammar, seed=seed, expert=variant, process=process)
    commands: list[str] = []
    try:
        game.reset()
        while not game.won and game.gave_up is None and len(commands) < max_steps and game.expert is not None:
            commands.append(game.expert)
            game.step(commands[-1])
        return HandcodedEpisode(game.won, tuple(commands), game.gave_up)
    finally:
        game.close()


def expert_wrapper(variant: str) -> Any:
    """alfworld's wrapper that runs the handcoded expert; for the worker, where alfworld is imported."""
    from alfworld.agents.environment.alfred_tw_env import AlfredExpert, AlfredExpertType  # pyright: ignore[reportMissingImports]
    from alfworld.agents.expert import HandCodedTWAgent  # pyright: ignore[reportMissingImports]

    if variant == "shipped":
        return AlfredExpert(expert_type=AlfredExpertType.HANDCODED)

    class FixedAgent(HandCodedTWAgent):
        """Plays any grammar as "move", and counts a "move" as putting down."""

        def get_task_policy(self, task_param: Any) -> Any:
            return _fixed_policy(super().get_task_policy(task_param))

        def act(self, game_state: Any, reward: Any, done: Any, last_action: str = "") -> str:
            old = {PUT.sub(r"move \1 to \2", each): each for each in game_state["admissible_commands"]}
            seen = type(game_state)(game_state)
            seen["admissible_commands"] = list(old)
            command = super().act(seen, reward, done, PUT.sub(r"move \1 to \2", last_action))
            return old.get(command, command)

    class FixedExpert(AlfredExpert):
        def load(self, gamefile: str) -> None:
            super().load(gamefile)
            self._handcoded_expert = FixedAgent(max_steps=MAX_STEPS)

    return FixedExpert(expert_type=AlfredExpertType.HANDCODED)


def _fixed_policy(policy: Any) -> Any:
    """A subclass of one of the expert's policies that knows what "move" did."""

    class Fixed(policy):
        def update_state_tracking(self, game_state: Any, last_action: str) -> None:
            super().update_state_tracking(game_state, last_action)
            moved = MOVE.fullmatch(last_action)
            if moved is None or "Nothing happens" in game_state["feedback"] or not self.inventory:
                return
            name = self.inventory.pop()
            self.got_inventory_from_recep = ""
            self.blacklist_obj(name)
            if self.task_params["object_target"] in moved[1]:
                self.object_blacklist.append(name)

    return Fixed
