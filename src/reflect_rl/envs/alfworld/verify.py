"""The fast engine against ALFWorld's own, side by side on the same games and commands: what differs, and where.

    for report in verify(data, data.games("valid_seen"), steps=50):
        print(report.game, report.states, report.differences)

Every state is compared whole: feedback, admissible commands in their order, won, score, done. A walk ends at the first
difference, since the engines are in different states from there on. Walks depend on (seed, game, grammar) alone, so
that a sweep over thousands of games can be cut into pieces and resumed (module `sweep`).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reflect_rl.envs.alfworld.real import RealAlfred, RealEngineError, RealProcess
from reflect_rl.envs.alfworld.walk import Guide, Walk
from reflect_rl.errors import ReflectRLError
from reflect_rl.seeding import stream, stream_seed

if TYPE_CHECKING:
    from reflect_rl.envs.alfworld.game import GameFile, TextGame

GAMES_A_PROCESS = 25
"""Games after which an engine process is replaced: the native library never gives its memory back."""
SHUFFLES = ("drawn", "off", "on")
COMPARED = ("feedback", "admissible", "won", "score", "done")


@dataclass(frozen=True)
class Plan:
    """How games are walked through. It names everything that a report depends on, beside the game itself.

    steps: commands a walk. invalid: the share of them that is not admissible. guided: the share of stretches that
    follow the planner. shuffle: numbers in names in a random order, "on", "off", or "drawn" for each walk. patched: use
    the shortcuts of `real_patches` in the real engine, rather than the engine as it is shipped.
    """

    grammars: tuple[str, ...] = ("move", "put")
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
        if not self.grammars or not set(self.grammars) <= {"move", "put"}:
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


@dataclass(frozen=True)
class Report:
    """One game in all its walks. states: states compared; wins: walks in which the goal was reached at some time."""

    game: str
    states: int = 0
    wins: int = 0
    real_steps: int = 0
    real_step_seconds: float = 0.0
    real_load_seconds: float = 0.0
    differences: tuple[Difference, ...] = ()
    errors: tuple[str, ...] = field(default=())
    """What kept a walk from being made or finished: an engine that refused the game, crashed or took too long."""

    @property
    def same(self) -> bool:
        """Whether all walks were finished without a difference."""
        return not self.differences and not self.errors


FastEngine = Callable[..., "TextGame"]


def verify(
    load: Callable[[str], GameFile],
    games: Iterable[str],
    plan: Plan = Plan(),
    *,
    workers: int = 1,
    timeout: float = 120.0,
    fast: FastEngine | None = None,
    guide: Guide | None = None,
) -> Iterator[Report]:
    """Compare the engines on games, yielding a report a game as it is finished (in order with one worker).

    load: gives the game of an id (`AlfworldData.load`). workers: real engines at a time, a process each. timeout:
    seconds for one answer of the real engine. fast: makes the engine under test (default: FastAlfred). guide: the
    expert (default: the planner). Raises RealEngineError if textworld or alfworld is not installed.
    """
    engine = fast if fast is not None else fast_engine()
    if guide is None and plan.guided:
        guide = planner_guide()
    processes: queue.SimpleQueue[_Seat] = queue.SimpleQueue()
    seats = [_Seat(timeout, plan.patched) for _ in range(max(1, workers))]
    for seat in seats:
        processes.put(seat)

    def one(game_id: str) -> Report:
        seat = processes.get()
        try:
            return compare_game(load, game_id, plan, seat.process(), engine, guide)
        finally:
            processes.put(seat)

    try:
        if workers <= 1:
            yield from map(one, games)
        else:
            yield from _unordered(one, games, workers)
    finally:
        for seat in seats:
            seat.close()


def compare_game(
    load: Callable[[str], GameFile],
    game_id: str,
    plan: Plan,
    process: RealProcess,
    fast: FastEngine,
    guide: Guide | None = None,
) -> Report:
    """All walks of one game, the real engine in `process`."""
    tally = _Tally()
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
            tally.load_seconds += time.perf_counter() - began
            quick = fast(game, **options)
        except ReflectRLError as error:
            tally.errors.append(f"{grammar}: {error}")
            continue
        try:
            _walk(quick, real, walk, plan.steps, tally, options)
        except ReflectRLError as error:
            tally.errors.append(f"{grammar}: {error}")
        finally:
            quick.close()
            real.close()
    return tally.report(game_id)


def fast_engine() -> FastEngine:
    """The engine under test."""
    from reflect_rl.envs.alfworld.engine import FastAlfred

    return FastAlfred


def planner_guide() -> Guide:
    """The privileged planner as a guide."""
    from reflect_rl.envs.alfworld.planner import plan

    return plan


@dataclass
class _Tally:
    states: int = 0
    wins: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    load_seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def report(self, game_id: str) -> Report:
        return Report(
            game=game_id,
            states=self.states,
            wins=self.wins,
            real_steps=self.steps,
            real_step_seconds=round(self.step_seconds, 4),
            real_load_seconds=round(self.load_seconds, 4),
            differences=tuple(self.differences),
            errors=tuple(self.errors),
        )


def _walk(fast: TextGame, real: TextGame, walk: Walk, steps: int, tally: _Tally, options: dict[str, Any]) -> None:
    """One walk on both engines, until its end or the first difference."""
    began = time.perf_counter()
    real_text = real.reset()
    tally.load_seconds += time.perf_counter() - began
    fast_text, command, won = fast.reset(), None, False
    for step in range(steps + 1):
        if step > 0:
            command = walk.next(fast)
            began = time.perf_counter()
            real_text = real.step(command)
            tally.step_seconds += time.perf_counter() - began
            tally.steps += 1
            fast_text = fast.step(command)
        tally.states += 1
        won |= real.won
        for what, of_fast, of_real in zip(COMPARED, _state(fast, fast_text), _state(real, real_text), strict=True):
            if of_fast != of_real:
                where = {"grammar": options["grammar"], "shuffle": options["shuffle"], "step": step, "command": command}
                tally.differences.append(Difference(**where, what=what, fast=of_fast, real=of_real))
                return
    tally.wins += won


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


def _unordered(one: Callable[[str], Report], games: Iterable[str], workers: int) -> Iterator[Report]:
    """Reports as they come, with no more games begun than there are workers."""
    waiting = iter(games)
    pending: set[Future[Report]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
        while True:
            while len(pending) < workers and (game_id := next(waiting, None)) is not None:
                pending.add(pool.submit(one, game_id))
            if not pending:
                return
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
