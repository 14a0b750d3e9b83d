"""The episode loop of `evaluate --agent`: several episodes side by side, one wave of moves after the other.

An episode depends on its task, its seed and the agent's moves alone. Nothing here imports torch, so that worker
processes start at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reflect_rl.agents.player import Game, Move, Played, Player, Turn
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, check_horizon, opened
from reflect_rl.records import EpisodeMemory, State, StopReason

SUMS = ("prompt_tokens", "completion_tokens", "usd")
"""Fields of a step, or of what follows an episode, that are summed over the episode."""
FIRST_ACTION = 0
"""What is done where the agent named no admissible action."""


@dataclass(slots=True)
class _Slot:
    env: TextEnv
    game: Game
    horizon: int
    memory: EpisodeMemory
    state: State
    steps: list[dict[str, Any]] = field(default_factory=list)
    stop: StopReason | None = None
    seconds: float = 0.0


def play(
    player: Player, make_env: Callable[[], TextEnv], games: Iterable[Game], finished: Callable[[Game, dict], object]
) -> None:
    """Play all games to their end, and further trials of the tasks that were not solved.

    finished: called with each game and its record as it ends, in no fixed order.
    """
    waiting, active, idle = deque(games), list[_Slot](), list[TextEnv]()
    with opened(make_env) as make_one:
        while waiting or active:
            started = time.perf_counter()
            while waiting and len(active) < player.num_envs:
                active.append(_begin(player, idle.pop() if idle else make_one(), waiting.popleft()))
            moves = player.moves([Turn(slot.game, slot.state, slot.env) for slot in active])
            for slot, move in zip(active, moves, strict=True):
                _advance(slot, move)
            ended = [slot for slot in active if slot.stop is not None]
            told = player.end([_played(slot) for slot in ended]) if ended else []
            for slot in active:
                slot.seconds += (time.perf_counter() - started) / len(active)
            active = [slot for slot in active if slot.stop is None]
            for slot, more in zip(ended, told, strict=True):
                idle.append(slot.env)
                record = _record(slot, more)
                if (again := next_trial(slot.game, record, player.trials)) is not None:
                    waiting.append(again)
                finished(slot.game, record)


def next_trial(game: Game, record: dict[str, Any], trials: int) -> Game | None:
    """The next attempt at a task that was not solved, if the agent has one left."""
    if record["success"] or game.trial >= trials:
        return None
    lessons = (*game.lessons, record["lesson"]) if record.get("lesson") else game.lessons
    return replace(game, trial=game.trial + 1, lessons=lessons)


def _begin(player: Player, env: TextEnv, game: Game) -> _Slot:
    observation, actions, _ = begin(env, game.seed, {"task": game.task})
    player.begin(game)
    memory = EpisodeMemory()
    return _Slot(env, game, env.horizon, memory, memory.observe(observation, actions))


def _advance(slot: _Slot, move: Move) -> None:
    """Take one step; without an admissible choice, the first action is taken."""
    invalid = move.choice is None
    choice = FIRST_ACTION if move.choice is None else move.choice
    observation, actions, reward, slot.stop = advance(slot.env, choice)
    slot.steps.append(
        {
            "observation": slot.state.observation,
            "actions": list(slot.state.actions),
            "choice": choice,
            "reflection": move.reflection,
            "reward": reward,
            **({"invalid": True} if invalid else {}),
            **move.more,
        }
    )
    if slot.stop is None:
        check_horizon(slot.env, len(slot.steps), slot.horizon, slot.game.task)
        slot.memory.acted(choice, move.reflection)
        slot.state = slot.memory.observe(observation, actions)


def _played(slot: _Slot) -> Played:
    return Played(slot.game, slot.stop is StopReason.SUCCESS, str(slot.stop), slot.steps)


def _record(slot: _Slot, more: dict[str, Any]) -> dict[str, Any]:
    game = slot.game
    sums = {name: total([*slot.steps, more], name) for name in SUMS}
    return {
        "panel": game.panel,
        "mode": "played",
        "trial": game.trial,
        "number": game.number,
        "task": game.task,
        "episode_seed": game.seed,
        "length": len(slot.steps),
        "stop": str(slot.stop),
        "success": slot.stop is StopReason.SUCCESS,
        "return": sum(step["reward"] for step in slot.steps),
        "invalid": sum(step.get("invalid", False) for step in slot.steps),
        "seconds": round(slot.seconds, 6),
        **{name: value for name, value in sums.items() if value is not None},
        **{name: value for name, value in more.items() if name not in SUMS},
        "steps": slot.steps,
    }


def total(parts: Sequence[dict[str, Any]], name: str) -> float | None:
    """The sum of a field over the parts that have it; None if none has it, or one does not know it."""
    values = [part[name] for part in parts if name in part]
    return sum(values) if values and None not in values else None
