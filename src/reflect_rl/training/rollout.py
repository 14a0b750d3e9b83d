"""Episodes played side by side: slots that refill, and one forward pass for each distinct prompt of the whole batch.

Within one call the policy does not change, so a state met again, in any slot at any step, costs a dictionary look-up.
An episode therefore runs ahead through all states that are known, and waits where one is new; when all of them wait,
what they wait for is read together. What an episode does depends on its own seed alone: not on the number of slots, nor
on what runs beside it.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, check_horizon, expert_choice, facts_of, opened
from reflect_rl.players.decisions import Players, Read
from reflect_rl.players.prompt import Prompt
from reflect_rl.records import State, StopReason
from reflect_rl.seeding import stream


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """What one episode is: its task, its curriculum stage (None: the full task), its seed, and its sample index."""

    task: str
    seed: int
    stage: str | None = None
    sample: int = 0


@dataclass(slots=True)
class Trajectory:
    """One episode as played. rows: index into the rollout's distinct prompts, a step each. states: kept on request."""

    spec: EpisodeSpec
    rows: list[int] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    stop: StopReason = StopReason.HORIZON
    shown: list[Shown] = field(default_factory=list)

    @property
    def success(self) -> bool:
        return self.stop is StopReason.SUCCESS


@dataclass(frozen=True, slots=True)
class Shown:
    """One step kept for a reader: the state, the reflection read, and the expert's choice if the world has one."""

    state: State
    reflection: str | None
    expert: int | None


@dataclass(slots=True)
class Rollout:
    """prompts: the P distinct ones, sorted by text. log_probs_PN (float32, -inf where not admissible), values_P."""

    prompts: list[Prompt]
    log_probs_PN: np.ndarray
    values_P: np.ndarray
    trajectories: list[Trajectory]
    seconds: dict[str, float]

    @property
    def steps(self) -> int:
        return sum(len(trajectory.rows) for trajectory in self.trajectories)


@dataclass(slots=True)
class _Slot:
    """An environment with the episode under way, of `horizon` steps. shown: its steps are kept for a reader."""

    env: TextEnv
    number: int
    trajectory: Trajectory
    horizon: int
    uniforms: Sequence[float]
    shown: bool
    state: State
    key: object | None


def play_episodes(
    make_env: Callable[[], TextEnv],
    players: Players,
    specs: Sequence[EpisodeSpec],
    slots: int,
    greedy: bool = False,
    keep: Callable[[int], bool] = lambda number: False,
    tick: Callable[[int], object] = lambda finished: None,
) -> Rollout:
    """Play every spec to its end. greedy: always the likeliest action (the first of equals).

    slots: the most environments open at once, all of which are closed in the end, whatever is raised meanwhile.
    keep: of an episode's number, whether its steps are kept for a reader. tick: called for every episode that ended.
    """
    started = time.perf_counter()
    before = dict(players.seconds)
    play = _Play(players, greedy, keep, tick, iter(enumerate(specs)))
    with opened(make_env) as make_one:
        active = [slot for _ in range(min(slots, len(specs))) if (slot := play.refill(make_one())) is not None]
        while active:
            active = play.act_all([ahead for slot in active if (ahead := play.run_ahead(slot)) is not None])
    seconds = {name: players.seconds[name] - before[name] for name in before}
    seconds["environment"] = time.perf_counter() - started - sum(seconds.values())
    return _sorted_rollout(players, [play.done[number] for number in range(len(specs))], seconds)


@dataclass(slots=True)
class _Play:
    """Episodes under way. What moves a slot on returns the one to go on with in its environment, if there is any."""

    players: Players
    greedy: bool
    keep: Callable[[int], bool]
    tick: Callable[[int], object]
    specs: Iterator[tuple[int, EpisodeSpec]]
    done: dict[int, Trajectory] = field(default_factory=dict)

    def refill(self, env: TextEnv) -> _Slot | None:
        """Begin the next episode, if one is left."""
        entry = next(self.specs, None)
        if entry is None:
            return None
        number, spec = entry
        options = {"task": spec.task} | ({"stage": spec.stage} if spec.stage else {})
        observation, actions, _ = begin(env, spec.seed, options)
        shown = self.keep(number)
        horizon = env.horizon
        uniforms = [] if self.greedy else stream(spec.seed, "choices").random(horizon).tolist()
        state = State(observation, actions, facts=self._facts(env, shown))
        key = self.players.key(state, spec.sample)
        return _Slot(env, number, Trajectory(spec), horizon, uniforms, shown, state, key)

    def run_ahead(self, slot: _Slot) -> _Slot | None:
        """Act for as long as the states are known."""
        on: _Slot | None = slot
        while on is not None and (read := self.players.recall(on.key)) is not None:
            on = self.act(on, read)
        return on

    def act_all(self, waiting: Sequence[_Slot]) -> list[_Slot]:
        """One step wherever no reflection has to be written for it; where there is no such place, one step everywhere.

        So more reflections are written together, each of which takes many forward passes.
        """
        alike: dict[object, list[_Slot]] = {}
        for slot in waiting:
            alike.setdefault(slot.number if slot.key is None else slot.key, []).append(slot)
        ready, later = [], []
        for slots in alike.values():
            at_hand = self.players.has_at_hand(slots[0].state, slots[0].trajectory.spec.sample)
            (ready if at_hand else later).append(slots)
        now, still = (ready, later) if ready else (later, [])
        read = self._read([slots[0] for slots in now])
        acted = [self.act(slot, one) for slots, one in zip(now, read, strict=True) for slot in slots]
        return [slot for slots in still for slot in slots] + [slot for slot in acted if slot is not None]

    def _read(self, slots: Sequence[_Slot]) -> list[Read]:
        """In one call, or one a sample index where that makes a difference."""
        groups: dict[int, list[_Slot]] = {}
        for slot in slots:
            groups.setdefault(slot.trajectory.spec.sample if self.players.reflector.sampled else 0, []).append(slot)
        read: dict[int, Read] = {}
        for sample, members in sorted(groups.items()):
            found = self.players.read([slot.state for slot in members], sample)
            read.update((slot.number, one) for slot, one in zip(members, found, strict=True))
        return [read[slot.number] for slot in slots]

    def act(self, slot: _Slot, read: Read) -> _Slot | None:
        """Take one step from the state that has been read."""
        state, trajectory = slot.state, slot.trajectory
        choice = self._choose(slot, read.row)
        if slot.shown:
            trajectory.shown.append(Shown(state, read.reflection, expert_choice(slot.env, state.actions)))
        observation, actions, reward, stop = advance(slot.env, choice)
        trajectory.rows.append(read.row)
        trajectory.choices.append(choice)
        trajectory.rewards.append(reward)
        if stop is not None:
            trajectory.stop = stop
            self.done[slot.number] = trajectory
            self.tick(1)
            return self.refill(slot.env)
        check_horizon(slot.env, len(trajectory.rows), slot.horizon, trajectory.spec.task)
        settings = self.players.prompts.settings
        history = (*state.history, (state.observation, state.actions[choice]))[-settings.history :]
        texts = state.reflections if read.reflection is None else (*state.reflections, read.reflection)
        slot.state = State(
            observation,
            actions,
            history if settings.history else (),
            self._facts(slot.env, slot.shown),
            texts[-settings.reflections :] if settings.reflections else (),
        )
        slot.key = self.players.key(slot.state, trajectory.spec.sample)
        return slot

    def _choose(self, slot: _Slot, row: int) -> int:
        if self.greedy:
            return int(self.players.log_probs[row].argmax())
        cumulative = self.players.cumulative[row]
        uniform = slot.uniforms[len(slot.trajectory.rows)] * cumulative[-1]
        return min(bisect_right(cumulative, uniform), len(cumulative) - 1)

    def _facts(self, env: TextEnv, shown: bool) -> Mapping[str, Any]:
        return facts_of(env) if self.players.reads_facts or shown else {}


def _sorted_rollout(players: Players, trajectories: list[Trajectory], seconds: dict[str, float]) -> Rollout:
    """The rows that were met, in an order that does not depend on who met them first."""
    used = sorted({row for t in trajectories for row in t.rows}, key=lambda row: players.met[row].text)
    place = {row: index for index, row in enumerate(used)}
    for trajectory in trajectories:
        trajectory.rows = [place[row] for row in trajectory.rows]
    width = max((len(players.log_probs[row]) for row in used), default=1)
    log_probs_PN = np.full((len(used), width), -np.inf, dtype=np.float32)
    for index, row in enumerate(used):
        log_probs_PN[index, : len(players.log_probs[row])] = players.log_probs[row]
    values_P = np.array([players.values[row] for row in used], dtype=np.float32)
    return Rollout([players.met[row] for row in used], log_probs_PN, values_P, trajectories, seconds)


def merge(parts: Sequence[Rollout], episodes: int) -> Rollout:
    """The rollout of all ranks, rank r having played episodes r, r + ranks, ...; the same whatever their number."""
    prompts = {p.text: (p, part, row) for part in reversed(parts) for row, p in enumerate(part.prompts)}
    order = sorted(prompts)
    place = {text: index for index, text in enumerate(order)}
    width = max(part.log_probs_PN.shape[1] for part in parts)
    log_probs_PN = np.full((len(order), width), -np.inf, dtype=np.float32)
    values_P = np.zeros(len(order), dtype=np.float32)
    for index, text in enumerate(order):
        _, part, row = prompts[text]
        log_probs_PN[index, : part.log_probs_PN.shape[1]] = part.log_probs_PN[row]
        values_P[index] = part.values_P[row]
    for part in parts:
        for trajectory in part.trajectories:
            trajectory.rows = [place[part.prompts[row].text] for row in trajectory.rows]
    trajectories = [parts[number % len(parts)].trajectories[number // len(parts)] for number in range(episodes)]
    seconds = {name: max(part.seconds[name] for part in parts) for name in parts[0].seconds}
    return Rollout([prompts[text][0] for text in order], log_probs_PN, values_P, trajectories, seconds)
