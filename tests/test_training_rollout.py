"""Rollouts: what an episode does depends on its own seed alone, and each distinct prompt is forwarded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from corridor import CELLS, Corridor, Endless
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.memo import Memo
from reflect_rl.players import decisions
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import LocalReflector, NoReflector, Reflector, ScriptedReflector
from reflect_rl.records import State, StopReason
from reflect_rl.settings import PromptSettings, ReflectorSettings
from reflect_rl.training.rollout import EpisodeSpec, Rollout, merge, play_episodes

TASKS = (*Corridor().tasks("train"), *Corridor().tasks("valid"))
SPECS = [EpisodeSpec(TASKS[n % len(TASKS)], 100 + n, "near" if n % 5 == 0 else None, n % 3) for n in range(40)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_models.policy(value=True)


def players(policy: Policy, reflector: Reflector | None = None, history: int = 1) -> Decisions:
    assert policy.labels is not None
    prompts = PromptBuilder(Corridor.task_text, PromptSettings(history=history), list(policy.labels), policy.count)
    return Decisions(policy, reflector or NoReflector(), prompts)


def sampling_reflector() -> LocalReflector:
    prompts = PromptBuilder(Corridor.task_text, PromptSettings(), [" A", " B", " C"])
    settings = ReflectorSettings(decoding="sample", max_new_tokens=4)
    return LocalReflector(tiny_models.gpt2(3), tiny_models.tokenizer(), prompts, settings, Memo(None, "x"), chunk=2)


def play(
    policy: Policy,
    slots: int = 16,
    specs: list[EpisodeSpec] = SPECS,
    make: Callable[[], Any] | None = None,
    **more: Any,
) -> Rollout:
    own = {name: more.pop(name) for name in ("reflector", "history") if name in more}
    return play_episodes(make or partial(Corridor, slip=0.2), players(policy, **own), specs, slots, **more)


def assert_same(one: Rollout, other: Rollout) -> None:
    """To the bit, times aside."""
    assert one.trajectories == other.trajectories
    assert one.prompts == other.prompts
    assert one.log_probs_PN.tobytes() == other.log_probs_PN.tobytes()
    assert one.values_P.tobytes() == other.values_P.tobytes()


@pytest.mark.parametrize("reflector", [NoReflector, lambda: ScriptedReflector(Corridor, "way"), sampling_reflector])
@pytest.mark.parametrize("history", [1, 3])
def test_the_number_of_slots_never_changes_a_result(policy: Policy, reflector: Any, history: int) -> None:
    specs = SPECS[:20]
    rollouts = [play(policy, slots, specs, reflector=reflector(), history=history) for slots in (1, 3, 64)]
    assert_same(rollouts[0], rollouts[1])
    assert_same(rollouts[0], rollouts[2])


def test_every_episode_is_played_to_its_end_in_its_place(policy: Policy) -> None:
    ticks: list[int] = []
    rollout = play(policy, 7, tick=ticks.append)
    assert [trajectory.spec for trajectory in rollout.trajectories] == SPECS
    assert sum(ticks) == len(SPECS)
    for trajectory in rollout.trajectories:
        assert 1 <= len(trajectory.rows) == len(trajectory.choices) == len(trajectory.rewards) <= 8
        ended = trajectory.rewards[-1]
        assert ended == {StopReason.SUCCESS: 0.95, StopReason.DANGEROUS: -0.25}.get(trajectory.stop, -0.05)
        assert trajectory.stop is not StopReason.HORIZON or len(trajectory.rows) == 8
        assert trajectory.success == (trajectory.stop is StopReason.SUCCESS)
    assert {StopReason.SUCCESS, StopReason.DANGEROUS} <= {t.stop for t in rollout.trajectories}


def test_a_trajectory_can_be_replayed_in_the_world(policy: Policy) -> None:
    rollout = play(policy)
    for trajectory in rollout.trajectories[:10]:
        env = Corridor(slip=0.2)
        options = {"task": trajectory.spec.task} | ({"stage": "near"} if trajectory.spec.stage else {})
        observation, _ = env.reset(seed=trajectory.spec.seed, options=options)
        for row, choice, reward in zip(trajectory.rows, trajectory.choices, trajectory.rewards, strict=True):
            assert f"\n{observation}\n" in rollout.prompts[row].text
            observation, earned, *_ = env.step(choice)
            assert earned == reward


def test_rows_hold_what_the_policy_says_of_their_prompts(policy: Policy) -> None:
    rollout = play(policy)
    assert [p.text for p in rollout.prompts] == sorted({p.text for p in rollout.prompts})
    assert {row for t in rollout.trajectories for row in t.rows} == set(range(len(rollout.prompts)))
    log_probs_PN, value_P = policy.evaluate(rollout.prompts)
    assert (log_probs_PN.numpy() == rollout.log_probs_PN).all()
    assert (value_P.numpy() == rollout.values_P).all()


def test_each_distinct_prompt_is_forwarded_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    forwarded: Counter[str] = Counter()
    evaluate = policy.evaluate

    def counting(prompts: Any) -> Any:
        forwarded.update(prompt.text for prompt in prompts)
        return evaluate(prompts)

    monkeypatch.setattr(policy, "evaluate", counting)
    rollout = play(policy, 5)
    assert set(forwarded.values()) == {1}
    assert sorted(forwarded) == [p.text for p in rollout.prompts]
    assert rollout.steps > len(rollout.prompts)


@pytest.mark.parametrize("reflector", [NoReflector, lambda: ScriptedReflector(Corridor, "way"), sampling_reflector])
def test_what_was_decided_again_is_used_and_changes_nothing(policy: Policy, reflector: Any) -> None:
    make = partial(Corridor, slip=0.2)
    fresh = play(policy, 16, reflector=reflector())
    made = players(policy, reflector())
    earlier = play_episodes(make, made, SPECS[:10], 16)
    assert made.decide_again([]).shape[0] == 0
    again_PN = made.decide_again(earlier.prompts)
    assert again_PN.numpy().tobytes() == earlier.log_probs_PN.tobytes()
    assert_same(play_episodes(make, made, SPECS[:10], 16), earlier)
    assert len(made) == len(earlier.prompts), "nothing was left to decide"
    assert_same(play_episodes(make, made, SPECS, 16), fresh)
    made.forget()
    assert_same(play_episodes(make, made, SPECS, 16), fresh)


def test_a_policy_that_has_changed_decides_anew() -> None:
    changing = tiny_models.policy(value=True)
    made = players(changing)
    earlier = play_episodes(Corridor, made, SPECS, 16)
    with torch.no_grad():
        for weight in changing.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    made.decide_again(earlier.prompts[:5])
    assert_same(play_episodes(Corridor, made, SPECS, 16), play(changing, make=Corridor))


def test_a_full_table_is_emptied_and_changes_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    make, fresh = partial(Corridor, slip=0.2), play(policy, 16, history=2)
    monkeypatch.setattr(decisions, "MOST_BYTES", 3000)
    made = players(policy, history=2)
    assert_same(play_episodes(make, made, SPECS, 16), fresh)
    assert len(made) < len(fresh.prompts) / 2


def test_an_answer_that_is_there_survives_that_others_need_its_room(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MOST_BYTES", 1)
    made, (first, second, *_) = players(policy), tiny_models.states()
    (alone,) = made.of([first])
    together, other = made.of([first, second])
    assert together.answer is alone.answer
    assert other.answer.prompt.text != alone.answer.prompt.text


class SlowWriter(NoReflector):
    """Needs time for a text on a state where the item is at an odd place, the first time."""

    def __init__(self) -> None:
        self.written: set[str] = set()
        self.asked: list[list[bool]] = []

    def has_at_hand(self, state: State, sample: int = 0) -> bool:
        return _item(state) % 2 == 0 or state.observation in self.written

    def reflect(self, states: Sequence[State], sample: int = 0) -> list[str | None]:
        self.asked.append([self.has_at_hand(state) for state in states])
        self.written.update(state.observation for state in states)
        return [f"Item {_item(state)} away." for state in states]


def _item(state: State) -> int:
    return state.observation.replace("x", "i").index("i")


def test_reflections_are_written_when_nothing_else_can_go_on_each_state_once(policy: Policy) -> None:
    slow, quick = SlowWriter(), SlowWriter()
    quick.has_at_hand = lambda state, sample=0: True  # type: ignore[method-assign]
    assert_same(play(policy, 16, reflector=slow), play(policy, 16, reflector=quick))
    assert all(len(set(at_hand)) == 1 for at_hand in slow.asked), "never a mixture"
    assert {at_hand[0] for at_hand in slow.asked} == {True, False}
    states = sum(map(len, slow.asked))
    assert states == len(play(policy, 1, reflector=SlowWriter()).prompts)


def test_choices_follow_the_probabilities(policy: Policy) -> None:
    specs = [EpisodeSpec(TASKS[n % 3], 10_000 + n) for n in range(3000)]
    rollout = play(policy, 512, specs, make=Corridor)
    counts_PN = np.zeros_like(rollout.log_probs_PN, dtype=np.float64)
    for trajectory in rollout.trajectories:
        np.add.at(counts_PN, (trajectory.rows, trajectory.choices), 1)
    chance_PN = np.exp(rollout.log_probs_PN.astype(np.float64))
    expected_PN = chance_PN * counts_PN.sum(1, keepdims=True)
    often = expected_PN > 10
    chi_square = float(((counts_PN - expected_PN)[often] ** 2 / expected_PN[often]).sum())
    freedom = int(often.sum()) - int(often.any(1).sum())
    assert freedom > 10
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5
    assert counts_PN[np.isneginf(rollout.log_probs_PN)].sum() == 0


def test_greedy_takes_the_likeliest_whatever_the_seed(policy: Policy) -> None:
    one = play(policy, greedy=True, make=Corridor)
    for trajectory in one.trajectories:
        assert trajectory.choices == one.log_probs_PN[trajectory.rows].argmax(1).tolist()
    moved = [EpisodeSpec(spec.task, spec.seed + 1, spec.stage, spec.sample) for spec in SPECS]
    other = play(policy, specs=moved, greedy=True, make=Corridor)
    assert [t.choices for t in one.trajectories] == [t.choices for t in other.trajectories]


@pytest.mark.parametrize("ranks", [2, 3, 50])
def test_merged_shares_are_the_rollout_of_one_process(policy: Policy, ranks: int) -> None:
    whole = play(policy)
    shares = [play(policy, specs=SPECS[rank::ranks]) for rank in range(ranks)]
    assert_same(merge(shares, len(SPECS)), whole)


def test_only_kept_episodes_hold_what_a_reader_wants(policy: Policy) -> None:
    reflector = ScriptedReflector(Corridor, "way")
    rollout = play(policy, 3, reflector=reflector, keep=lambda number: number in (2, 30))
    assert [n for n, t in enumerate(rollout.trajectories) if t.shown] == [2, 30]
    trajectory = rollout.trajectories[30]
    assert len(trajectory.shown) == len(trajectory.rows)
    for shown, row in zip(trajectory.shown, trajectory.rows, strict=True):
        assert shown.reflection is not None
        assert shown.reflection in rollout.prompts[row].text
        assert shown.expert == shown.state.actions.index(str(shown.state.facts["way"]))
        assert len(shown.state.observation) == CELLS


def test_the_seconds_add_up_and_no_episodes_is_no_error(policy: Policy) -> None:
    rollout = play(policy)
    assert set(rollout.seconds) == {"reflect", "policy", "environment"}
    assert all(value >= 0 for value in rollout.seconds.values())
    nothing = play(policy, specs=[])
    assert (nothing.steps, nothing.prompts) == (0, [])


@pytest.mark.parametrize("greedy", [False, True])
def test_a_world_that_never_ends_is_one_clear_error(policy: Policy, greedy: bool) -> None:
    with pytest.raises(EnvironmentContractError, match=r"Endless went on after its horizon of 8 steps.*truncated"):
        play(policy, make=Endless, greedy=greedy, specs=SPECS * 3)


class Counted(Corridor):
    """Counts how many of its instances are open. fails: whether a step, or closing, raises."""

    open_now: list[Counted] = []  # noqa: RUF012
    most = 0
    fails: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.open_now.append(self)
        type(self).most = max(self.most, len(self.open_now))

    def step(self, action: int) -> Any:
        if "step" in self.fails and len(self.open_now) == 5:
            raise RuntimeError("the server went away")
        return super().step(action)

    def close(self) -> None:
        self.open_now.remove(self)
        if "close" in self.fails:
            raise OSError("the socket is gone")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    for name, value in (("open_now", []), ("most", 0), ("fails", ())):
        monkeypatch.setattr(Counted, name, value)
    return Counted


@pytest.mark.parametrize("fails", [("step",), ("step", "close")])
def test_a_rollout_that_raises_closes_every_environment_and_says_what_was_first(
    policy: Policy, counted: type[Counted], fails: tuple[str, ...]
) -> None:
    counted.fails = fails
    with pytest.raises(EnvironmentContractError, match=r"raised RuntimeError: the server went away"):
        play(policy, 5, make=counted)
    assert counted.open_now == []


def test_an_environment_that_cannot_be_made_leaves_none_of_the_others_open(
    policy: Policy, counted: type[Counted]
) -> None:
    def make() -> Counted:
        if len(counted.open_now) == 3:
            raise EnvironmentContractError("no fourth one")
        return counted()

    with pytest.raises(EnvironmentContractError, match="no fourth one"):
        play(policy, 5, make=make)
    assert counted.open_now == []


def test_an_interrupt_closes_every_environment(policy: Policy, counted: type[Counted]) -> None:
    def interrupted(finished: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(policy, 5, make=counted, tick=interrupted)
    assert counted.open_now == []


def test_closing_that_fails_is_told_when_all_are_closed(policy: Policy, counted: type[Counted]) -> None:
    counted.fails = ("close",)
    with pytest.raises(EnvironmentContractError, match=r"close\(\) raised OSError: the socket is gone"):
        play(policy, 5, make=counted)
    assert counted.open_now == []


def test_no_more_environments_are_open_than_there_are_slots_or_episodes(policy: Policy, counted: type[Counted]) -> None:
    play(policy, 3, make=counted)
    assert counted.most == 3
    counted.most = 0
    play(policy, 64, SPECS[:7], make=counted)
    assert counted.most == 7


def test_worlds_are_given_seeds_of_31_bits_and_choices_are_drawn_by_the_whole_seed(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    reset = Corridor.reset

    def remembered(self: Corridor, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        given.append(seed or 0)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(Corridor, "reset", remembered)
    seeds = [2**63 - 1, 2**62 + 5, 2**31, 7]
    whole = play(policy, 1, [EpisodeSpec(TASKS[3], seed) for seed in seeds])
    assert given == [2**31 - 1, 5, 0, 7]
    low = play(policy, 1, [EpisodeSpec(TASKS[3], seed) for seed in given[:4]])
    assert given[4:] == given[:4]
    assert whole.trajectories[3].choices == low.trajectories[3].choices
    assert [t.choices for t in whole.trajectories] != [t.choices for t in low.trajectories]


def test_past_reflections_are_those_written_on_the_steps_before(policy: Policy) -> None:
    prompts = PromptBuilder(Corridor.task_text, PromptSettings(reflections=2), list(policy.labels or ()), policy.count)
    made = Decisions(policy, ScriptedReflector(Corridor, "way"), prompts)
    specs = [EpisodeSpec(task, 5) for task in Corridor().tasks("valid")]
    for played in play_episodes(Corridor, made, specs, num_envs=3, keep=lambda number: True).trajectories:
        written = [str(shown.reflection) for shown in played.shown]
        for step, shown in enumerate(played.shown):
            assert shown.state.reflections == tuple(written[max(0, step - 2) : step])
