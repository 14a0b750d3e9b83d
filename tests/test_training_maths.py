"""Advantages, losses, replay, curriculum and checkpoints against what they are defined to be."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reflect_rl.errors import RunFolderError
from reflect_rl.players.prompt import Prompt
from reflect_rl.records import StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import RlSettings
from reflect_rl.training.advantages import advantages, discounted_returns
from reflect_rl.training.advantages.value import generalized_advantages
from reflect_rl.training.checkpoint import Checkpointer
from reflect_rl.training.curriculum import training_episodes
from reflect_rl.training.losses import Folded, entropy_P, fold, kl_P, ppo_gain, reinforce_gain, value_error
from reflect_rl.training.optimizer import clip_and_step, linear_to, make_optimizer, set_lr, warmup_cosine
from reflect_rl.training.replay import SuccessReplay
from reflect_rl.training.rollout import EpisodeSpec, Rollout, Trajectory

ACTIONS = (2, 3, 1, 4, 3)
"""Admissible actions of five prompts."""
WIDTH = 4


def random_log_probs(seed: int, actions: tuple[int, ...] = ACTIONS) -> Tensor:
    logits = torch.randn(len(actions), WIDTH, generator=torch.Generator().manual_seed(seed))
    beyond = torch.arange(WIDTH) >= torch.tensor(actions)[:, None]
    return logits.masked_fill(beyond, -torch.inf)


def random_rollout(seed: int, episodes: int = 12) -> Rollout:
    random = np.random.default_rng(seed)
    trajectories = []
    for number in range(episodes):
        rows = random.integers(len(ACTIONS), size=random.integers(1, 7)).tolist()
        choices = [int(random.integers(ACTIONS[row])) for row in rows]
        stop = StopReason.SUCCESS if random.random() < 0.5 else StopReason.HORIZON
        spec = EpisodeSpec(f"task{number % 3}", number)
        trajectories.append(Trajectory(spec, rows, choices, random.normal(size=len(rows)).tolist(), stop))
    log_probs = random_log_probs(seed).log_softmax(-1).numpy()
    prompts = [Prompt(f"prompt {n}", 3, actions, (4, 5), state_end=6) for n, actions in enumerate(ACTIONS)]
    return Rollout(prompts, log_probs, random.normal(size=len(ACTIONS)).astype(np.float32), trajectories, {})


def test_returns_by_hand() -> None:
    np.testing.assert_allclose(discounted_returns([1.0, 0.0, 2.0], 0.5), [1.5, 1.0, 2.0])


def test_gae_by_hand() -> None:
    # deltas: 1 + 0.5*2 - 1 = 1; 0 + 0.5*4 - 2 = 0; 2 - 4 = -2
    got = generalized_advantages([1.0, 0.0, 2.0], np.array([1.0, 2.0, 4.0]), gamma=0.5, lam=0.5)
    np.testing.assert_allclose(got, [1 + 0.25 * (0 + 0.25 * -2), 0.25 * -2, -2])


def test_the_horizon_is_an_end_like_any_other() -> None:
    """By hand: what a learned value promises beyond the horizon is not counted, as documented for rl.baseline."""
    trajectories = [
        Trajectory(EpisodeSpec("t", number), [0, 1], [0, 0], [-1.0, -1.0], stop)
        for number, stop in enumerate((StopReason.HORIZON, StopReason.FAILURE))
    ]
    prompts = [Prompt(f"prompt {n}", 3, 2, (4, 5), state_end=6) for n in range(2)]
    log_probs = np.log(np.full((2, 2), 0.5, dtype=np.float32))
    rollout = Rollout(prompts, log_probs, np.array([0.5, 4.0], dtype=np.float32), trajectories, {})
    got, returns = advantages(rollout, RlSettings(baseline="value", gamma=0.5, gae_lambda=1.0))
    raw = np.array([-1 + 0.5 * -1 - 0.5, -1 - 4.0])
    for advantage, value in zip(got, returns, strict=True):
        np.testing.assert_allclose(advantage, raw / raw.std(), rtol=1e-6)
        np.testing.assert_allclose(value, [-1.5, -1.0], rtol=1e-6)


@given(rewards=st.lists(st.floats(-2, 2), min_size=1, max_size=10), gamma=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_gae_with_lambda_1_is_return_minus_value_and_with_0_the_td_error(
    rewards: list[float], gamma: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=len(rewards))
    returns = discounted_returns(rewards, gamma)
    np.testing.assert_allclose(generalized_advantages(rewards, values, gamma, 1.0), returns - values, atol=1e-9)
    ahead = np.append(values[1:], 0.0)
    td = np.array(rewards) + gamma * ahead - values
    np.testing.assert_allclose(generalized_advantages(rewards, values, gamma, 0.0), td, atol=1e-9)


@pytest.mark.parametrize("baseline", ["none", "state", "task", "value"])
@given(seed=st.integers(0, 200))
def test_a_baseline_takes_the_mean_of_its_group(baseline: Any, seed: int) -> None:
    rollout = random_rollout(seed)
    settings = RlSettings(baseline=baseline, gamma=0.9, gae_lambda=1.0)
    got, returns = advantages(rollout, settings)
    assert [len(a) for a in got] == [len(t.rows) for t in rollout.trajectories] == [len(g) for g in returns]
    assert np.concatenate(got).std() == pytest.approx(1.0)
    wanted = [discounted_returns(t.rewards, 0.9) for t in rollout.trajectories]
    for one, other in zip(returns, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    by_row = [(row, a) for t, each in zip(rollout.trajectories, got, strict=True) for row, a in zip(t.rows, each)]  # noqa: B905
    if baseline == "state":
        for row in range(len(ACTIONS)):
            assert sum(a for r, a in by_row if r == row) == pytest.approx(0, abs=1e-9)
    if baseline == "task":
        for task in {t.spec.task for t in rollout.trajectories}:
            assert sum(
                a[0] for t, a in zip(rollout.trajectories, got, strict=True) if t.spec.task == task
            ) == pytest.approx(0, abs=1e-9)
    if baseline in ("none", "value"):
        raw = np.concatenate(wanted)
        if baseline == "value":
            raw = raw - np.concatenate([rollout.values_P[t.rows] for t in rollout.trajectories])
        np.testing.assert_allclose(np.concatenate(got), raw / raw.std(), atol=1e-5)


def test_equal_returns_give_no_advantage_and_no_nan() -> None:
    rollout = random_rollout(0)
    for trajectory in rollout.trajectories:
        trajectory.rewards = [0.0] * len(trajectory.rows)
    got, _ = advantages(rollout, RlSettings(baseline="state"))
    assert all((a == 0).all() for a in got)


@pytest.mark.parametrize("baseline", ["state", "task"])
@pytest.mark.parametrize("length", [6, 7, 10, 13, 16, 20])
def test_rounding_is_not_blown_up_to_an_advantage(baseline: Any, length: int) -> None:
    """Every episode runs to the horizon: their sums, divided by how many there are, need not give the return again.

    The three tasks have 11, 10 and 10 episodes, so that each mean is rounded in its own way.
    """
    rollout = random_rollout(0, episodes=31)
    for trajectory in rollout.trajectories:
        trajectory.rows, trajectory.rewards = list(range(length)), [-0.02] * length
    got, _ = advantages(rollout, RlSettings(baseline=baseline, gamma=1.0))
    assert max(float(np.abs(a).max()) for a in got) < 1e-9


def visits(rollout: Rollout, got: list[np.ndarray], returns: list[np.ndarray]) -> tuple[Tensor, ...]:
    rows = [row for t in rollout.trajectories for row in t.rows]
    choices = [choice for t in rollout.trajectories for choice in t.choices]
    as_tensor = [torch.tensor(np.concatenate(part), dtype=torch.float32) for part in (got, returns)]
    return torch.tensor(rows), torch.tensor(choices), *as_tensor


@pytest.mark.parametrize("kind", ["ppo", "reinforce", "value"])
@given(seed=st.integers(0, 500))
def test_the_folded_loss_and_gradient_are_those_of_the_single_visits(
    kind: Literal["ppo", "reinforce", "value"], seed: int
) -> None:
    rollout = random_rollout(seed)
    got, returns = advantages(rollout, RlSettings(baseline="state"))
    folded = fold(rollout, got, returns, "cpu")
    rows_V, choices_V, advantage_V, return_V = visits(rollout, got, returns)
    results = []
    for is_folded in (True, False):
        logits_PN = random_log_probs(seed + 1000).requires_grad_()
        value_P = torch.linspace(-1, 1, len(ACTIONS)).requires_grad_()
        log_probs_PN = logits_PN.log_softmax(-1)
        log_prob_V, old_V = log_probs_PN[rows_V, choices_V], folded.old_PN[rows_V, choices_V]
        ratio_V = (log_prob_V - old_V).exp()
        if kind == "ppo":
            clipped_V = ratio_V.clamp(0.8, 1.2)
            plain = torch.minimum(ratio_V * advantage_V, clipped_V * advantage_V).sum()
            total = ppo_gain(log_probs_PN, folded, 0.2) if is_folded else plain
        elif kind == "reinforce":
            total = reinforce_gain(log_probs_PN, folded) if is_folded else (log_prob_V * advantage_V).sum()
        else:
            total = value_error(value_P, folded) if is_folded else ((value_P[rows_V] - return_V) ** 2).sum()
        total.backward()
        results.append((total.detach(), value_P.grad if kind == "value" else logits_PN.grad))
    (folded_total, folded_grad), (plain_total, plain_grad) = results
    assert folded_grad is not None
    assert bool(torch.isfinite(folded_grad).all())
    torch.testing.assert_close(folded_total, plain_total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded_grad, plain_grad, rtol=1e-4, atol=1e-4)


def test_folding_counts_every_visit() -> None:
    rollout = random_rollout(4)
    got, returns = advantages(rollout, RlSettings())
    folded = fold(rollout, got, returns, "cpu")
    assert int(folded.visits_P.sum()) == rollout.steps
    some = folded.rows([1, 3])
    assert torch.equal(some.gain_PN, folded.gain_PN[[1, 3]])
    assert torch.equal(some.visits_P, folded.visits_P[[1, 3]])


@given(seed=st.integers(0, 200))
def test_entropy_and_kl_equal_brute_force_and_have_finite_gradients(seed: int) -> None:
    old_PN = random_log_probs(seed).log_softmax(-1)
    logits_PN = random_log_probs(seed + 1).requires_grad_()
    new_PN = logits_PN.log_softmax(-1)
    for row, actions in enumerate(ACTIONS):
        p, q = old_PN[row, :actions].double().exp(), new_PN[row, :actions].detach().double().exp()
        assert entropy_P(old_PN)[row].item() == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)
        assert kl_P(old_PN, new_PN)[row].item() == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-5)
    (entropy_P(new_PN) + kl_P(old_PN, new_PN)).sum().backward()
    assert logits_PN.grad is not None
    assert bool(torch.isfinite(logits_PN.grad).all())
    assert bool((kl_P(old_PN, old_PN) == 0).all())


def test_a_sure_policy_gives_no_nan() -> None:
    logits_PN = torch.tensor([[200.0, -200.0, -torch.inf]], requires_grad=True)
    old_PN = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    new_PN = logits_PN.log_softmax(-1)
    zero = torch.zeros(1)
    rows = Folded(old_PN, torch.tensor([[0.0, 1, 0]]), torch.tensor([[0.0, -1, 0]]), zero + 2, zero, zero)
    (ppo_gain(new_PN, rows, 0.2) + reinforce_gain(new_PN, rows) + entropy_P(new_PN).sum()).backward()
    assert logits_PN.grad is not None
    assert bool(torch.isfinite(logits_PN.grad).all())


def test_a_ratio_beyond_every_number_is_clipped_like_any_other() -> None:
    logits_PN = torch.tensor([[100.0, -100.0]], requires_grad=True)
    old_PN = torch.tensor([[-200.0, 0.0]])
    zero = torch.zeros(1)
    rows = Folded(old_PN, torch.tensor([[3.0, 0]]), torch.zeros(1, 2), zero + 1, zero, zero)
    gain = ppo_gain(logits_PN.log_softmax(-1), rows, 0.2)
    gain.backward()
    assert gain.item() == pytest.approx(3 * 1.2)
    assert logits_PN.grad is not None
    assert bool((logits_PN.grad == 0).all())


# Replay


def test_replay_holds_the_newest_successes_only_and_survives_json() -> None:
    replay, wins = SuccessReplay(5), []
    for seed in range(4):
        rollout = random_rollout(seed)
        replay.add(rollout, 0.9)
        wins += [(t, rollout) for t in rollout.trajectories if t.success]
    assert len(wins) > 5 == len(replay.episodes)
    for (trajectory, rollout), episode in zip(wins[-5:], replay.episodes, strict=True):
        texts = [rollout.prompts[row].text for row in trajectory.rows]
        assert [prompt["text"] for prompt in episode["prompts"]] == texts
        assert episode["choices"] == trajectory.choices
    again = SuccessReplay(5, json.loads(json.dumps(replay.to_json())))
    for iteration in range(10):
        one, other = replay.draw(3, iteration), again.draw(3, iteration)
        assert one is not None
        assert other is not None
        assert one[:2] == other[:2]
        assert all(prompt in rollout.prompts for prompt in one[0])
        assert (one[2] == other[2]).all()


def test_replay_of_no_slots_or_no_success_draws_nothing() -> None:
    nothing, empty = SuccessReplay(0), SuccessReplay(3)
    nothing.add(random_rollout(0), 0.9)
    assert nothing.draw(0, 0) is None
    assert empty.draw(0, 0) is None


# Curriculum

TASKS = [f"t{n}" for n in range(7)]


def drawn(
    stages: tuple[str, ...], curriculum: str, iteration: int, iterations: int, count: int, group: int = 1
) -> list[EpisodeSpec]:
    settings = RlSettings.model_validate(
        {"curriculum": curriculum, "iterations": iterations, "episodes": count, "group": group}
    )
    return training_episodes(TASKS, stages, settings, iteration, 0)


def stages_of(curriculum: str, iteration: int, iterations: int = 9, count: int = 3000) -> Counter[str | None]:
    return Counter(s.stage for s in drawn(("a", "b"), curriculum, iteration, iterations, count))


def test_without_a_curriculum_every_task_is_played_equally_often() -> None:
    specs = drawn(("a",), "none", 2, 5, 70)
    assert Counter(spec.task for spec in specs) == dict.fromkeys(TASKS, 10)
    assert {spec.stage for spec in specs} == {None}
    assert len({spec.seed for spec in specs}) == 70
    assert specs == drawn(("a",), "none", 2, 5, 70)
    assert [s.task for s in specs] != [s.task for s in drawn(("a",), "none", 3, 5, 70)]


def test_a_group_plays_one_start_several_times() -> None:
    specs = drawn((), "none", 2, 5, 20, group=4)
    assert [len(set(tasks)) for tasks in zip(*[iter(spec.task for spec in specs)] * 4, strict=True)] == [1] * 5
    assert len({spec.task for spec in specs}) == 5
    assert len({spec.seed for spec in specs}) == 20


def test_a_group_plays_one_stage() -> None:
    """Advantages are told by comparison within a group, and starts of other stages are no comparison."""
    for iteration in (0, 4, 8):
        specs = drawn(("a", "b"), "mix", iteration, 9, 400, group=4)
        groups = list(zip(*[iter((spec.task, spec.stage) for spec in specs)] * 4, strict=True))
        assert all(len(set(group)) == 1 for group in groups)
        assert iteration == 8 or len({stage for group in groups for _, stage in group}) == 3


def test_switching_gives_every_stage_its_share_of_the_iterations_easiest_first() -> None:
    played = [set(stages_of("switch", iteration, count=4)) for iteration in range(9)]
    assert played == [{"a"}] * 3 + [{"b"}] * 3 + [{None}] * 3


def test_mixing_goes_from_equal_shares_to_the_full_task_alone() -> None:
    first, middle, last = (stages_of("mix", iteration) for iteration in (0, 4, 8))
    for stage in ("a", "b", None):
        assert first[stage] / 3000 == pytest.approx(1 / 3, abs=0.04)
    assert middle[None] / 3000 == pytest.approx(2 / 3, abs=0.04)
    assert middle["a"] / 3000 == pytest.approx(1 / 6, abs=0.03)
    assert last == {None: 3000}


# Optimizer and checkpoints


def test_rates_warm_up_and_fall() -> None:
    rates = [warmup_cosine(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert all(a > b for a, b in pairwise(rates[5:]))
    assert 0 < rates[-1] < 0.01
    assert [linear_to(0.1, step, 4) for step in range(4)] == pytest.approx([1, 0.7, 0.4, 0.1])
    assert linear_to(0.1, 0, 1) == 1


Kind = Literal["adamw", "muon"]


def trained(steps: int, seed: int = 0, kind: Kind = "adamw") -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    module[0].bias.requires_grad_(False)
    optimizer = make_optimizer(module, 0.01, 0.1, kind)
    train(module, optimizer, steps)
    return module, optimizer


def train(module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        module(torch.linspace(0, step, 3)).sum().backward()
        clip_and_step(optimizer, module.parameters(), 1.0)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_checkpoint_restores_weights_and_optimizer_to_the_bit(tmp_path: Path, kind: Kind) -> None:
    run = RunFolder(tmp_path)
    module, optimizer = trained(3, kind=kind)
    Checkpointer(run, "checkpoints/x", module, optimizer).save(3, losses=[0.1, 1 / 3])
    train(module, optimizer, 4)
    other, its_optimizer = trained(0, seed=1, kind=kind)
    other[0].bias.data.copy_(module[0].bias)  # type: ignore[index, union-attr]
    found = Checkpointer(run, "checkpoints/x", other, its_optimizer).load()
    assert found is not None
    assert (found.done, found.extra) == (3, {"losses": [0.1, 1 / 3]})
    train(other, its_optimizer, 4)
    for one, same in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


class Layered(torch.nn.Module):
    """An embedding, two layers, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        self.head = torch.nn.Linear(4, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def layered(kind: Kind, steps: int) -> Layered:
    torch.manual_seed(0)
    module = Layered()
    optimizer = make_optimizer(module, 0.01, 0.1, kind)
    for step in range(steps):
        (module(torch.arange(step, step + 3) % 5) ** 2).sum().backward()
        clip_and_step(optimizer, module.parameters(), 1.0)
    return module


def test_muon_is_for_the_matrices_of_the_layers_alone() -> None:
    """One step by hand: matrices of layers as torch's Muon moves them, all else as AdamW does."""
    start, adamw, muon = layered("adamw", 0), layered("adamw", 1), layered("muon", 1)
    alone = layered("adamw", 0)
    matrices = [layer.weight for layer in alone.layers]
    by_hand = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")  # type: ignore[arg-type]
    (alone(torch.arange(3)) ** 2).sum().backward()
    clip_and_step(by_hand, alone.parameters(), 1.0)
    for name, weight in muon.named_parameters():
        expected = alone if name.startswith("layers") and weight.dim() == 2 else adamw
        assert torch.equal(weight, expected.get_parameter(name)), name
        assert not torch.equal(weight, start.get_parameter(name)), name


def test_muon_takes_every_rate_that_is_set() -> None:
    optimizer = make_optimizer(Layered(), 0.01, 0.1, "muon")
    set_lr(optimizer, 0.5)
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.5] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(("width", "factor"), [(32, 1.0), (64, 1.0), (576, 1 / 81)])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_new_pointer_moves_the_scores_of_wide_models_no_faster(width: int, factor: float, kind: Kind) -> None:
    """A matrix between hidden states of 576 gives scores of 576 x 576 terms, 81 times those of a model from scratch."""
    module = Layered()
    module.pointer = torch.nn.Linear(width, width, bias=False)
    optimizer = make_optimizer(module, 0.01, 0.0, kind)
    set_lr(optimizer, 0.001)
    before = module.pointer.weight.detach().clone()
    (module(torch.arange(3)).sum() + module.pointer.weight.sum()).backward()
    clip_and_step(optimizer, module.parameters(), 1e9)
    assert torch.allclose(before - module.pointer.weight, torch.full((width, width), 0.001 * factor), rtol=1e-2)
    assert {group["lr"] for group in optimizer.param_groups} == {0.001, 0.001 * factor}


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    checkpointer = Checkpointer(RunFolder(tmp_path), "c", *trained(1))
    assert checkpointer.load() is None


@pytest.mark.parametrize(
    ("file", "how"),
    [
        *product(["weights.safetensors", "optimizer.safetensors"], ["cut", "gone", "other"]),
        *product(["state.json"], ["cut", "other"]),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path, file: str, how: str) -> None:
    module, optimizer = trained(2)
    checkpointer = Checkpointer(RunFolder(tmp_path), "c", module, optimizer)
    checkpointer.save(2)
    path = tmp_path / "c" / file
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "gone":
        path.unlink()
    elif file == "state.json":
        path.write_text("{}")
    else:
        wider = torch.nn.Linear(9, 9)
        Checkpointer(RunFolder(tmp_path), "d", wider, make_optimizer(wider, 0.1, 0.0)).save(2)
        path.write_bytes((tmp_path / "d" / "weights.safetensors").read_bytes())
    with pytest.raises(RunFolderError, match=r"checkpoint .*c is damaged.*Delete it"):
        checkpointer.load()
