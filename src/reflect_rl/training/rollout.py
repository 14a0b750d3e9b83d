"""Rollouts: episodes are played side by side, and each distinct prompt goes through the model once.

The policy does not change within a call, so a repeated state costs one dictionary lookup. An episode advances through
known states and waits at a new one. When every episode is blocked on a new state, these are evaluated in one batch. An
episode depends on its own seed only, not on the number of environments or on other episodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, check_horizon, expert_choice, facts_of, opened
from reflect_rl.envs.isolated import side_by_side
from reflect_rl.envs.losses import TRIES, Losses, seed_of
from reflect_rl.errors import WorldLostError
from reflect_rl.players.context import Context
from reflect_rl.players.decisions import Answer, Decided, Decisions
from reflect_rl.players.prompt import Prompt
from reflect_rl.records import EpisodeMemory, State, StopReason
from reflect_rl.seeding import stream

Teacher = Callable[[Mapping[str, Any]], str]
"""A scripted teacher's text on a state, from its facts."""


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """One episode to play.

    Attributes:
        task: the world's task.
        seed: seeds the world and the sampled actions.
        stage: an easier stage of a curriculum; None for the full task.
        sample: index that distinguishes several sampled reflections on one state.
    """

    task: str
    seed: int
    stage: str | None = None
    sample: int = 0


@dataclass(slots=True)
class Trajectory:
    """One episode as played.

    Attributes:
        spec: the episode's specification.
        rows: for each step, the index of its prompt among the rollout's distinct prompts.
        choices: for each step, the index of the action taken.
        rewards: for each step, its reward.
        stop: why the episode ended; LOST, without steps, if it was lost in every try.
        shown: the full steps, if they were kept.
        agrees: for each step, whether its reflection is the teacher's text, if a teacher was asked.
        losses: for each try that was lost, what happened to the world.
    """

    spec: EpisodeSpec
    rows: list[int] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    stop: StopReason = StopReason.HORIZON
    shown: list[Shown] = field(default_factory=list)
    agrees: list[bool] = field(default_factory=list)
    losses: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        return self.stop is StopReason.SUCCESS


@dataclass(frozen=True, slots=True)
class Shown:
    """One step kept for display: the state, the reflection, and the expert's choice if the world has an expert."""

    state: State
    reflection: str | None
    expert: int | None


@dataclass(slots=True)
class Rollout:
    """Episodes, and the policy's answers to the P distinct prompts in them.

    Attributes:
        prompts: the distinct prompts, sorted by text.
        log_probs_PN: float32, over each prompt's actions; -inf beyond them.
        values_P: values of the prompts; 0 without a value head.
        trajectories: the episodes, in the order of their specs.
        seconds: time spent on reflections, on the policy and in the environments.
    """

    prompts: list[Prompt]
    log_probs_PN: np.ndarray
    values_P: np.ndarray
    trajectories: list[Trajectory]
    seconds: dict[str, float]

    @property
    def steps(self) -> int:
        return sum(len(trajectory.rows) for trajectory in self.trajectories)


def play_episodes(
    make_env: Callable[[], TextEnv],
    decisions: Decisions,
    specs: Sequence[EpisodeSpec],
    num_envs: int,
    greedy: bool = False,
    keep: Callable[[int], bool] = lambda number: False,
    tick: Callable[[int], object] = lambda finished: None,
    processes: int = 0,
    teacher: Teacher | None = None,
) -> Rollout:
    """Play all specs to their end. An episode that is lost with its world is begun again, up to TRIES times.

    Args:
        make_env: makes an environment.
        decisions: the players.
        specs: the episodes to play.
        num_envs: maximum number of environments open at once. All are closed at the end, also after an error.
        greedy: take the most likely action (the first of equals) instead of sampling.
        keep: whether to keep the full steps of the episode with this index.
        tick: called with 1 after each episode.
        processes: how many environments may be open at once, if each lives in a process of its own (`open_world`).
        teacher: gives the text that each reflection is compared with.

    Raises:
        EnvironmentContractError: an environment breaks its contract, or one episode after the other is lost.
    """
    started = time.perf_counter()
    before = dict(decisions.seconds)
    count = min(num_envs, processes or num_envs, len(specs))
    with opened(make_env) as make_one, side_by_side(processes) as each:
        play = _Play(decisions, greedy, keep, tick, iter(enumerate(specs)), each, teacher)
        active = _going(each(play.refill, (make_one() for _ in range(count))))
        while active:
            active = play.act_all(_going(each(play.run_ahead, active)))
    seconds = {name: decisions.seconds[name] - before[name] for name in before}
    seconds["environment"] = time.perf_counter() - started - sum(seconds.values())
    return _rollout([play.done[number] for number in range(len(specs))], seconds)


@dataclass(slots=True)
class _Slot:
    """An environment with its current episode. answers: the policy's, one per step. shown: keep the full steps."""

    env: TextEnv
    number: int
    trajectory: Trajectory
    horizon: int
    uniforms: Sequence[float]
    shown: bool
    memory: EpisodeMemory
    state: State
    answers: list[Answer] = field(default_factory=list)


@dataclass(slots=True)
class _Play:
    """The episodes in progress. Methods that advance a slot return the slot to continue with, or None.

    each: `map`, or one that advances slots in threads. lock: held where an episode ends or begins in one of them.
    """

    decisions: Decisions
    greedy: bool
    keep: Callable[[int], bool]
    tick: Callable[[int], object]
    specs: Iterator[tuple[int, EpisodeSpec]]
    each: Callable[..., Iterator[_Slot | None]]
    teacher: Teacher | None
    done: dict[int, tuple[Trajectory, Sequence[Answer]]] = field(default_factory=dict)
    losses: Losses = field(default_factory=Losses)
    lock: Lock = field(default_factory=Lock)

    def refill(self, env: TextEnv) -> _Slot | None:
        """Begin the next episode, if any is left."""
        while True:
            with self.lock:
                entry = next(self.specs, None)
            if entry is None:
                return None
            if (slot := self.begin(env, entry[0], Trajectory(entry[1]))) is not None:
                return slot

    def begin(self, env: TextEnv, number: int, trajectory: Trajectory) -> _Slot | None:
        """Begin an episode. None: it is lost for good."""
        while trajectory.stop is not StopReason.LOST:
            try:
                return self._begun(env, number, trajectory)
            except WorldLostError as error:
                trajectory = self.next_try(trajectory, error)
        self._end(number, trajectory, ())
        return None

    def next_try(self, lost: Trajectory, error: WorldLostError) -> Trajectory:
        """What to play instead of an episode that was lost: its start again, or after too many tries nothing."""
        self.losses.lost(error)
        losses = (*lost.losses, str(error))
        if len(losses) == TRIES:
            return Trajectory(lost.spec, stop=StopReason.LOST, losses=losses)
        return Trajectory(replace(lost.spec, seed=seed_of(lost.spec.seed, len(losses))), losses=losses)

    def _begun(self, env: TextEnv, number: int, trajectory: Trajectory) -> _Slot:
        spec = trajectory.spec
        options = {"task": spec.task} | ({"stage": spec.stage} if spec.stage else {})
        observation, actions, _ = begin(env, spec.seed, options)
        shown = self.keep(number)
        horizon = env.horizon
        uniforms = [] if self.greedy else stream(spec.seed, "choices").random(horizon).tolist()
        settings = self.decisions.prompts.settings
        memory = EpisodeMemory(settings.history, settings.reflections)
        state = memory.observe(observation, actions, self._facts(env, shown))
        return _Slot(env, number, trajectory, horizon, uniforms, shown, memory, state)

    def run_ahead(self, slot: _Slot) -> _Slot | None:
        """Act as long as the states are known."""
        on: _Slot | None = slot
        while on is not None:
            decided = self.decisions.known(on.state, on.trajectory.spec.sample)
            if decided is None:
                break
            on = self.act(on, decided)
        return on

    def act_all(self, waiting: Sequence[_Slot]) -> list[_Slot]:
        """Take one step wherever the reflection is known; if it is known nowhere, take one step everywhere.

        This batches the reflections, each of which takes many forward passes.
        """
        unwritten = self.decisions.unwritten(*_asked(waiting))
        now, still = [], []
        for slot, later in zip(waiting, unwritten, strict=True):
            (still if later else now).append(slot)
        if not now:
            now, still = still, []
        decided = self.decisions.of(*_asked(now))
        return still + _going(self.each(self.act, now, decided))

    def act(self, slot: _Slot, decided: Decided) -> _Slot | None:
        """Take one step."""
        state, trajectory, answer = slot.state, slot.trajectory, decided.answer
        choice = answer.choose(None if self.greedy else slot.uniforms[len(slot.answers)])
        try:
            if self.teacher:
                trajectory.agrees.append(decided.reflection == self.teacher(state.facts))
            if slot.shown:
                trajectory.shown.append(Shown(state, decided.reflection, expert_choice(slot.env, state.actions)))
            observation, actions, reward, stop = advance(slot.env, choice)
            facts = self._facts(slot.env, slot.shown) if stop is None else {}
        except WorldLostError as error:
            return self.begin(slot.env, slot.number, self.next_try(trajectory, error)) or self.refill(slot.env)
        slot.answers.append(answer)
        trajectory.choices.append(choice)
        trajectory.rewards.append(reward)
        if stop is not None:
            trajectory.stop = stop
            self.losses.finished()
            self._end(slot.number, trajectory, slot.answers)
            return self.refill(slot.env)
        check_horizon(slot.env, len(slot.answers), slot.horizon, trajectory.spec.task)
        slot.memory.acted(choice, decided.reflection)
        slot.state = slot.memory.observe(observation, actions, facts)
        return slot

    def _end(self, number: int, trajectory: Trajectory, answers: Sequence[Answer]) -> None:
        with self.lock:
            self.done[number] = trajectory, answers
            self.tick(1)

    def _facts(self, env: TextEnv, shown: bool) -> Mapping[str, Any]:
        return facts_of(env) if self.decisions.reads_facts or shown or self.teacher else {}


def _going(slots: Iterator[_Slot | None]) -> list[_Slot]:
    return [slot for slot in slots if slot is not None]


def _asked(slots: Sequence[_Slot]) -> tuple[list[State], list[int]]:
    return [slot.state for slot in slots], [slot.trajectory.spec.sample for slot in slots]


def _rollout(played: Sequence[tuple[Trajectory, Sequence[Answer]]], seconds: dict[str, float]) -> Rollout:
    """Collect the answers that were used, in an order that does not depend on which episode met them first."""
    used = {answer.prompt.text: answer for _, answers in reversed(played) for answer in reversed(answers)}
    texts = sorted(used)
    place = {text: index for index, text in enumerate(texts)}
    width = max((used[text].prompt.actions for text in texts), default=1)
    log_probs_PN = np.full((len(texts), width), -np.inf, dtype=np.float32)
    for text, index in place.items():
        log_probs_PN[index, : used[text].prompt.actions] = used[text].log_probs_N
    for trajectory, answers in played:
        trajectory.rows = [place[answer.prompt.text] for answer in answers]
    values_P = np.array([used[text].value for text in texts], dtype=np.float32)
    trajectories = [trajectory for trajectory, _ in played]
    return Rollout([used[text].prompt for text in texts], log_probs_PN, values_P, trajectories, seconds)


def play_together(
    context: Context,
    decisions: Decisions,
    specs: Sequence[EpisodeSpec],
    keep: Callable[[int], bool] = lambda number: False,
    **options: Any,
) -> Rollout:
    """`play_episodes` in a run's world, on all ranks: each plays its share, and all get the rollout of one process."""
    ranks, settings = context.ranks, context.settings
    own = list(ranks.share(range(len(specs))))
    rollout = play_episodes(
        context.make_env,
        decisions,
        [specs[i] for i in own],
        settings.rl.num_envs,
        keep=lambda number: keep(own[number]),
        processes=settings.env.processes,
        **options,
    )
    return merge(ranks.gather(rollout), len(specs)) if ranks.sharing else rollout


def merge(parts: Sequence[Rollout], episodes: int) -> Rollout:
    """Merge the rollouts of all ranks, where rank r played episodes r, r + ranks, ...; any number gives the same."""
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
