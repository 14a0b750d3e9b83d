"""The episode loop of `evaluate --agent`: several episodes side by side, one wave of moves after the other.

An episode depends on its task, its seed and the agent's moves alone. Nothing here imports torch, so that worker
processes start at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from reflect_rl.agents.player import Game, Move, Played, Player, Turn
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, check_horizon, opened
from reflect_rl.envs.isolated import side_by_side
from reflect_rl.envs.losses import TRIES, Losses, seed_of
from reflect_rl.envs.promises import same_folder
from reflect_rl.errors import WorldLostError
from reflect_rl.records import EpisodeMemory, State, StopReason

SUMS = ("prompt_tokens", "completion_tokens", "usd")
"""Fields of a step, or of what follows an episode, that are summed over the episode."""
FIRST_ACTION = 0
"""What is done where the agent named no admissible action."""
Finished = Callable[[Game, dict[str, Any]], object]
Moved = Callable[[int], object]


@dataclass(slots=True)
class _Slot:
    """An episode. losses: what happened to the worlds of earlier tries. begun: whether the player knows of it."""

    env: TextEnv
    game: Game
    losses: Losses
    seed: int = 0
    horizon: int = 0
    memory: EpisodeMemory = field(default_factory=EpisodeMemory)
    state: State = field(default_factory=lambda: State("", ()))
    steps: list[dict[str, Any]] = field(default_factory=list)
    stop: StopReason | None = None
    begun: bool = False
    lost: int = 0
    seconds: float = 0.0


def play(
    player: Player,
    make_env: Callable[[], TextEnv],
    games: Iterable[Game],
    finished: Finished,
    moved: Moved,
    processes: int = 0,
    worlds: list[TextEnv] | None = None,
) -> None:
    """Play all games to their end, and further trials of the tasks that were not solved.

    finished: called with each game and its record as it ends, in no fixed order. moved: called after each wave with the
    number of moves so far. processes: how many environments may be open at once, if each lives in a process of its own
    (`open_world`). worlds: open ones, to play in first; if given, all are left open. By default, new ones are made,
    and closed at the end.

    Raises EnvironmentContractError if one episode after the other is lost with its world.
    """
    waiting, active, losses = deque(games), list[_Slot](), Losses()
    idle = list(worlds or ())
    making = opened(make_env) if worlds is None else _left_open(make_env)
    count = 0
    most = min(player.num_envs, processes or player.num_envs)
    with making as make_one, side_by_side(processes) as each:
        while waiting or active:
            started = time.perf_counter()
            fresh = [waiting.popleft() for _ in range(min(len(waiting), most - len(active)))]
            new = [_Slot(idle.pop() if idle else make_one(), game, losses) for game in fresh]
            list(each(_begin, new))
            active += new
            for slot in active:
                if not slot.steps and slot.stop is None:  # new, or begun again
                    player.begin(slot.game)
                    slot.begun = True
            going = [slot for slot in active if slot.stop is None]
            moves = player.moves([Turn(slot.game, slot.state, slot.env) for slot in going]) if going else []
            list(each(_advance, going, moves))
            moved(count := count + len(moves))
            ended = [slot for slot in active if slot.stop is not None]
            told = _end(player, ended)
            for slot in active:
                slot.seconds += (time.perf_counter() - started) / len(active)
            active = [slot for slot in active if slot.stop is None]
            for slot in ended:
                idle.append(slot.env)
                record = _record(slot, told.get(slot.game, {}))
                if (again := next_trial(slot.game, record, player.trials)) is not None:
                    waiting.append(again)
                finished(slot.game, record)


@contextmanager
def _left_open(make_env: Callable[[], TextEnv]) -> Iterator[Callable[[], TextEnv]]:
    with same_folder():
        yield make_env


def next_trial(game: Game, record: dict[str, Any], trials: int) -> Game | None:
    """The next attempt at a task that was played and not solved, if the agent has one left."""
    if record["success"] or record["stop"] == StopReason.LOST or game.trial >= trials:
        return None
    lessons = (*game.lessons, record["lesson"]) if record.get("lesson") else game.lessons
    return replace(game, trial=game.trial + 1, lessons=lessons)


def _begin(slot: _Slot) -> None:
    """Begin an episode: anew if it is lost, until it has been tried often enough."""
    while slot.lost < TRIES:
        slot.seed = seed_of(slot.game.seed, slot.lost)
        try:
            observation, actions, _ = begin(slot.env, slot.seed, {"task": slot.game.task})
        except WorldLostError as error:
            _lose(slot, error)
            continue
        slot.horizon, slot.memory = slot.env.horizon, EpisodeMemory()
        slot.state = slot.memory.observe(observation, actions)
        return
    slot.stop = StopReason.LOST


def _lose(slot: _Slot, error: WorldLostError) -> None:
    slot.losses.lost(error)
    slot.lost += 1
    slot.steps.clear()


def _advance(slot: _Slot, move: Move) -> None:
    """Take one step; without an admissible choice, the first action is taken."""
    choice = FIRST_ACTION if move.choice is None else move.choice
    try:
        observation, actions, reward, slot.stop = advance(slot.env, choice)
    except WorldLostError as error:
        _lose(slot, error)
        _begin(slot)
        return
    slot.steps.append(
        {
            "observation": slot.state.observation,
            "actions": list(slot.state.actions),
            "choice": choice,
            "reflection": move.reflection,
            "reward": reward,
            **({"invalid": True} if move.choice is None else {}),
            **move.more,
        }
    )
    if slot.stop is not None:
        slot.losses.finished()
        return
    check_horizon(slot.env, len(slot.steps), slot.horizon, slot.game.task)
    slot.memory.acted(choice, move.reflection)
    slot.state = slot.memory.observe(observation, actions)


def _end(player: Player, ended: Sequence[_Slot]) -> dict[Game, dict[str, Any]]:
    """What the player tells of episodes that ended. It knows nothing of those whose world never began."""
    begun = [slot for slot in ended if slot.begun]
    told = player.end([_played(slot) for slot in begun]) if begun else []
    return {slot.game: more for slot, more in zip(begun, told, strict=True)}


def _played(slot: _Slot) -> Played:
    return Played(slot.game, slot.stop is StopReason.SUCCESS, str(slot.stop), slot.steps)


def _record(slot: _Slot, more: dict[str, Any]) -> dict[str, Any]:
    game = slot.game
    parts = [*slot.steps, more]
    sums = {name: total(parts, name) for name in SUMS if any(name in part for part in parts)}
    return {
        "panel": game.panel,
        "mode": "played",
        "trial": game.trial,
        "number": game.number,
        "task": game.task,
        "episode_seed": slot.seed,
        "length": len(slot.steps),
        "stop": str(slot.stop),
        "success": slot.stop is StopReason.SUCCESS,
        "return": sum(step["reward"] for step in slot.steps),
        "invalid": sum(step.get("invalid", False) for step in slot.steps),
        **({"lost": slot.lost} if slot.lost else {}),
        "seconds": round(slot.seconds, 6),
        **sums,
        **{name: value for name, value in more.items() if name not in SUMS},
        "steps": slot.steps,
    }


def total(parts: Sequence[dict[str, Any]], name: str) -> float | None:
    """The sum of a field over the parts that have it; None if none has it, or one does not know it."""
    values = [part[name] for part in parts if name in part]
    return sum(values) if values and None not in values else None
