"""The fast engine against ALFWorld's own, side by side on the same games and commands: what differs, and where.

    for report in verify(data.load, data.games("valid_seen"), Plan(steps=50)):
        print(report.game, report.states, report.differences)

Every state is compared whole: feedback, admissible commands in their order, won, score, done. A walk ends at the first
difference. Walks depend on (seed, game, grammar) alone, so that a sweep over thousands of games can be cut into pieces
and resumed (module `sweep`).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from reflect_rl.envs.alfworld import planner
from reflect_rl.envs.alfworld.engine import FastAlfred
from reflect_rl.envs.alfworld.game import GameFile, TextGame
from reflect_rl.envs.alfworld.real import RealAlfred, RealEngineError, RealProcess
from reflect_rl.envs.alfworld.rules import GRAMMARS
from reflect_rl.envs.alfworld.walk import Guide, Walk
from reflect_rl.errors import ReflectRLError
from reflect_rl.seeding import stream, stream_seed

GAMES_A_PROCESS = 25
"""Games after which an engine process is replaced: the native library never gives its memory back."""
SHUFFLES = ("drawn", "off", "on")
COMPARED = ("feedback", "admissible", "won", "score", "done")


@dataclass(frozen=True)
class Plan:
    """How games are walked through: everything that a report depends on, beside the game itself.

    steps: commands a walk. invalid: the share of them that is not admissible. guided: the share of stretches that
    follow the planner. shuffle: numbers in names in a random order, "on", "off", or "drawn" for each walk. patched: use
    the shortcuts of `real_patches` in the real engine, rather than the engine as it is shipped.
    """

    grammars: tuple[str, ...] = GRAMMARS
    steps: int = 50
    seed: int = 0
    invalid: float = 0.05
    guided: float = 0.5
    shuffle: str = "drawn"
    patched: bool = False

    def __post_init__(self) -> None:
        if self.shuffle not in SHUFFLES:
            raise RealEngineError(f"shuffle is {self.shuffle!r}; it is one of: {', '.join(SHUFFLES)}.")
        if self.steps < 0 or not 0 <= self.invalid <= 1 or not 0 <= self.guided <= 1:
            raise RealEngineError("steps is 0 or more, and the shares 'invalid' and 'guided' are from 0 to 1.")
        if not self.grammars or not set(self.grammars) <= set(GRAMMARS):
            raise RealEngineError(f"grammars is {self.grammars!r}; it names one or both of: move, put.")


@dataclass(frozen=True)
class Difference:
    """The first state in which the engines differ. step: 0 is the start; command: what led there."""

    grammar: str
    shuffle: bool
    step: int
    command: str | None
    what: str
    fast: Any
    real: Any


@dataclass
class Report:
    """One game in all its walks.

    states: states compared. wins: walks in which the goal was reached at some time. errors: what kept a walk from being
    made or finished, such as an engine that refused the game, crashed or took too long.
    """

    game: str
    states: int = 0
    wins: int = 0
    real_steps: int = 0
    real_step_seconds: float = 0.0
    real_load_seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether all walks were finished without a difference."""
        return not self.differences and not self.errors


Load = Callable[[str], GameFile]
FastEngine = Callable[..., TextGame]


def verify(
    load: Load,
    games: Sequence[str],
    plan: Plan = Plan(),
    *,
    workers: int = 1,
    timeout: float = 120.0,
    fast: FastEngine = FastAlfred,
    guide: Guide = planner.plan,
) -> Iterator[Report]:
    """Compare the engines on games, yielding a report a game as it is finished (in order with one worker).

    load: gives the game of an id (`AlfworldData.load`). workers: real engines at a time, a process each. timeout:
    seconds for one answer of the real engine. fast: makes the engine under test. Raises RealEngineError if textworld or
    alfworld is not installed.
    """

    def compare(game_id: str, process: RealProcess) -> Report:
        return _compare(load, game_id, plan, process, fast, guide)

    yield from with_processes(compare, games, workers=workers, timeout=timeout, patched=plan.patched)


def with_processes(
    compare: Callable[[str, RealProcess], Report],
    names: Sequence[str],
    *,
    workers: int = 1,
    timeout: float = 120.0,
    patched: bool = False,
) -> Iterator[Report]:
    """A report of each name, made with one of `workers` engine processes. timeout, patched: of these processes."""
    seats: queue.SimpleQueue[_Seat] = queue.SimpleQueue()
    for _ in range(workers):
        seats.put(_Seat(timeout, patched))

    def compared(name: str) -> Report:
        seat = seats.get()
        try:
            return compare(name, seat.process())
        finally:
            seats.put(seat)

    try:
        if workers == 1:
            yield from map(compared, names)
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
            futures = [pool.submit(compared, name) for name in names]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        for _ in range(workers):
            seats.get().close()


def _compare(load: Load, game_id: str, plan: Plan, process: RealProcess, fast: FastEngine, guide: Guide) -> Report:
    """All walks of one game, the real engine in `process`."""
    report = Report(game_id)
    for grammar in plan.grammars:
        rng = stream(plan.seed, f"verify {game_id} {grammar}")
        drawn = bool(rng.integers(2))
        shuffle = drawn if plan.shuffle == "drawn" else plan.shuffle == "on"
        options = {"grammar": grammar, "seed": stream_seed(plan.seed, f"names {game_id} {grammar}"), "shuffle": shuffle}
        walk = Walk(rng, invalid=plan.invalid, guided=plan.guided, guide=guide)
        try:
            game = load(game_id)
            began = time.perf_counter()
            real = RealAlfred(game, process=process, **options)
            report.real_load_seconds += time.perf_counter() - began
            _walk(fast(game, **options), real, walk, plan.steps, report, options)
        except ReflectRLError as error:
            report.errors.append(f"{grammar}: {error}")
    report.real_step_seconds = round(report.real_step_seconds, 4)
    report.real_load_seconds = round(report.real_load_seconds, 4)
    return report


def _walk(fast: TextGame, real: TextGame, walk: Walk, steps: int, report: Report, options: dict[str, Any]) -> None:
    """One walk on both engines, until its end or the first difference."""
    began = time.perf_counter()
    real_text = real.reset()
    report.real_load_seconds += time.perf_counter() - began
    fast_text, command, won = fast.reset(), None, False
    for step in range(steps + 1):
        if step > 0:
            command = walk.next(fast)
            began = time.perf_counter()
            real_text = real.step(command)
            report.real_step_seconds += time.perf_counter() - began
            report.real_steps += 1
            fast_text = fast.step(command)
        report.states += 1
        won |= real.won
        for what, of_fast, of_real in zip(COMPARED, _state(fast, fast_text), _state(real, real_text), strict=True):
            if of_fast != of_real:
                found = Difference(options["grammar"], options["shuffle"], step, command, what, of_fast, of_real)
                report.differences.append(found)
                return
    report.wins += won


def _state(game: TextGame, text: str) -> tuple[str, tuple[str, ...], bool, int, bool]:
    return text, tuple(game.admissible), game.won, game.score, game.done


class _Seat:
    """A place for an engine process, which is replaced now and then."""

    def __init__(self, timeout: float, patched: bool) -> None:
        self._make = lambda: RealProcess(timeout=timeout, patched=patched)
        self._process = self._make()
        self._games = 0

    def process(self) -> RealProcess:
        if self._games == GAMES_A_PROCESS:
            self._process.close()
            self._process, self._games = self._make(), 0
        self._games += 1
        return self._process

    def close(self) -> None:
        self._process.close()
