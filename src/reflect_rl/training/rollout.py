"""Episodes played side by side: slots that refill, and one forward pass for each distinct prompt of the whole batch.

Within one call the policy does not change, so a prompt met again, in any slot at any step, costs a dictionary look-up.
What an episode does depends on its own seed alone: not on the number of slots, nor on what runs beside it.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.contract import advance, begin, check_horizon, expert_choice, facts_of
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.players.reflector import Reflector, ScriptedReflector
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


class Players:
    """Reflector and policy behind one call, with everything that has been decided remembered.

    greedy: always the likeliest action (the first of equals).
    """

    def __init__(self, policy: Policy, reflector: Reflector, prompts: PromptBuilder) -> None:
        self.policy = policy
        self.reflector = reflector
        self.prompts = prompts
        self.seconds = {"reflect": 0.0, "policy": 0.0}
        self.forget()

    def forget(self) -> None:
        """Drop what has been decided: the policy has changed. Prompts, and what the reflector wrote, stay."""
        self.index: dict[str, int] = {}
        self.met: list[Prompt] = []
        self.log_probs: list[np.ndarray] = []
        self.cumulative: list[list[float]] = []
        self.values: list[float] = []

    def read(self, states: Sequence[State], sample: int = 0) -> tuple[list[int], list[str | None]]:
        """Row of each state's prompt in `met`, `log_probs`, `values`, and the reflection read."""
        started = time.perf_counter()
        texts = self.reflector.reflect(states, sample)
        reflected = time.perf_counter()
        prompts = [self.prompts.policy_prompt(s, text) for s, text in zip(states, texts, strict=True)]
        fresh = {prompt.text: prompt for prompt in prompts if prompt.text not in self.index}
        if fresh:
            log_probs_BN, value_B = self.policy.evaluate(list(fresh.values()))
            for prompt, row_N, value in zip(fresh.values(), log_probs_BN.numpy(), value_B.tolist(), strict=True):
                self.index[prompt.text] = len(self.met)
                self.met.append(prompt)
                self.log_probs.append(row_N[: prompt.actions])
                self.cumulative.append(np.exp(self.log_probs[-1].astype(np.float64)).cumsum().tolist())
                self.values.append(value)
        self.seconds["reflect"] += reflected - started
        self.seconds["policy"] += time.perf_counter() - reflected
        return [self.index[prompt.text] for prompt in prompts], texts


@dataclass(slots=True)
class _Slot:
    env: TextEnv
    number: int
    trajectory: Trajectory
    uniforms: np.ndarray
    observation: str
    actions: tuple[str, ...]
    history: list[tuple[str, str]] = field(default_factory=list)
    reflections: tuple[str, ...] = ()


def play_episodes(
    make_env: Callable[[], TextEnv],
    players: Players,
    specs: Sequence[EpisodeSpec],
    slots: int,
    greedy: bool = False,
    keep: Callable[[int], bool] = lambda number: False,
    tick: Callable[[int], object] = lambda finished: None,
) -> Rollout:
    """Play every spec to its end. `keep(number)` marks episodes whose steps are kept for a reader."""
    started = time.perf_counter()
    before = dict(players.seconds)
    waiting = iter(enumerate(specs))
    done: dict[int, Trajectory] = {}
    envs = [make_env() for _ in range(min(slots, len(specs)))]
    active = [slot for env in envs if (slot := _refill(env, waiting)) is not None]
    reads_facts = isinstance(players.reflector, ScriptedReflector) or players.prompts.settings.notes
    window, remembered = players.prompts.settings.history, players.prompts.settings.reflections
    while active:
        states = [_state(slot, window, reads_facts or keep(slot.number)) for slot in active]
        rows, texts = _read(players, active, states)
        choices = _choose(players, active, rows, greedy)
        following = []
        for slot, state, row, text, choice in zip(active, states, rows, texts, choices, strict=True):
            if remembered and text is not None:
                slot.reflections = (*slot.reflections, text)[-remembered:]
            if keep(slot.number):
                slot.trajectory.shown.append(Shown(state, text, expert_choice(slot.env, slot.actions)))
            if _step(slot, row, choice, window):
                following.append(slot)
                continue
            done[slot.number] = slot.trajectory
            tick(1)
            if (refilled := _refill(slot.env, waiting)) is not None:
                following.append(refilled)
        active = following
    for env in envs:
        env.close()
    seconds = {name: players.seconds[name] - before[name] for name in before}
    seconds["environment"] = time.perf_counter() - started - sum(seconds.values())
    return _sorted_rollout(players, [done[number] for number in range(len(specs))], seconds)


def _refill(env: TextEnv, waiting: Iterator[tuple[int, EpisodeSpec]]) -> _Slot | None:
    entry = next(waiting, None)
    if entry is None:
        return None
    number, spec = entry
    options = {"task": spec.task} | ({"stage": spec.stage} if spec.stage else {})
    observation, actions = begin(env, spec.seed, options)
    uniforms = stream(spec.seed, "choices").random(env.horizon)
    return _Slot(env, number, Trajectory(spec), uniforms, observation, actions)


def _state(slot: _Slot, window: int, facts: bool) -> State:
    history = tuple(slot.history[-window:]) if window else ()
    return State(slot.observation, slot.actions, history, facts_of(slot.env) if facts else {}, slot.reflections)


def _read(players: Players, active: Sequence[_Slot], states: Sequence[State]) -> tuple[list[int], list[str | None]]:
    """Reflect and forward: one call, or one a sample index where that makes a difference."""
    if not players.reflector.sampled:
        return players.read(states)
    rows: list[int] = [0] * len(states)
    texts: list[str | None] = [None] * len(states)
    for sample in sorted({slot.trajectory.spec.sample for slot in active}):
        places = [i for i, slot in enumerate(active) if slot.trajectory.spec.sample == sample]
        got_rows, got_texts = players.read([states[i] for i in places], sample)
        for place, row, text in zip(places, got_rows, got_texts, strict=True):
            rows[place], texts[place] = row, text
    return rows, texts


def _choose(players: Players, active: Sequence[_Slot], rows: Sequence[int], greedy: bool) -> list[int]:
    if greedy:
        return [int(players.log_probs[row].argmax()) for row in rows]
    choices = []
    for slot, row in zip(active, rows, strict=True):
        cumulative = players.cumulative[row]
        uniform = float(slot.uniforms[len(slot.trajectory.rows)]) * cumulative[-1]
        choices.append(min(bisect_right(cumulative, uniform), len(cumulative) - 1))
    return choices


def _step(slot: _Slot, row: int, choice: int, window: int) -> bool:
    """Act; True while the episode goes on."""
    trajectory = slot.trajectory
    trajectory.rows.append(row)
    trajectory.choices.append(choice)
    before = slot.observation
    taken = slot.actions[choice]
    slot.observation, slot.actions, reward, stop = advance(slot.env, choice)
    trajectory.rewards.append(reward)
    if window:
        slot.history = [*slot.history[1 - window :], (before, taken)] if window > 1 else [(before, taken)]
    if stop is not None:
        trajectory.stop = stop
        return False
    check_horizon(slot.env, len(trajectory.rows), trajectory.spec.task)
    return True


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
