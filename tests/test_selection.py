"""The selection library: what each strategy promises, quotas, labelled items, and clear refusals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflect_rl.errors import SelectionError
from reflect_rl.selection import (
    STRATEGIES,
    EqualBudget,
    FacilityLocation,
    InverseConfidence,
    KCenter,
    LeastConfidence,
    MaxTokenUncertainty,
    MeanEntropy,
    MeanMargin,
    MinMargin,
    QualityFacilityLocation,
    Random,
    Selector,
    UncertainThenDiverse,
)
from reflect_rl.selection.cost import estimate
from reflect_rl.selection.quotas import share
from selection_pools import pools

SIZE = 90
RNG = np.random.default_rng(0)
X = RNG.standard_normal((SIZE, 6))
TOKENS = [RNG.random(RNG.integers(1, 6)) for _ in range(SIZE)]
GROUPS = ["a"] * 60 + ["b"] * 25 + ["c"] * 5
SCORES = RNG.random(SIZE) * 0.9 + 0.1
SCORED = (QualityFacilityLocation, UncertainThenDiverse, InverseConfidence)


def call(kind: type[Selector], budget: int, **given: Any) -> np.ndarray:
    strategy = kind()
    pool: Any = [-row for row in TOKENS] if kind is LeastConfidence else TOKENS if strategy.input == "tokens" else X
    if kind in SCORED:
        given.setdefault("scores", SCORES)
    if kind in (EqualBudget, InverseConfidence):
        given.setdefault("groups", GROUPS)
    return strategy.select(pool, budget=budget, **given).indices


@pytest.mark.parametrize("kind", STRATEGIES.values(), ids=STRATEGIES)
class TestEveryStrategy:
    def test_picks_as_many_as_asked_and_nobody_twice(self, kind: type[Selector]) -> None:
        for budget in (0, 1, 7, SIZE):
            indices = call(kind, budget)
            assert len(indices) == len(set(indices.tolist())) == budget
            assert indices.dtype == np.int64

    def test_never_picks_who_is_labelled(self, kind: type[Selector]) -> None:
        already = [1, 5, 61, 89]
        indices = call(kind, SIZE - 4, already=already)
        assert sorted([*indices, *already]) == list(range(SIZE))
        mask = np.isin(np.arange(SIZE), already)
        assert call(kind, 9, already=mask).tolist() == call(kind, 9, already=already).tolist()

    def test_says_the_same_again(self, kind: type[Selector]) -> None:
        assert call(kind, 20).tolist() == call(kind, 20).tolist()

    def test_shares_the_budget_among_groups(self, kind: type[Selector]) -> None:
        counts = Counter(GROUPS[index] for index in call(kind, 30, groups=GROUPS))
        assert counts["c"] == 5 or kind is InverseConfidence
        assert abs(counts["a"] - counts["b"]) <= 1 or kind is InverseConfidence

    def test_refuses_a_budget_above_the_pool(self, kind: type[Selector]) -> None:
        with pytest.raises(SelectionError, match=r"the budget is 90, but only 89 items can be picked"):
            call(kind, SIZE, already=[0])

    def test_has_a_cost(self, kind: type[Selector]) -> None:
        small, large = (estimate(kind(), size, 384, size // 10, rate=1e10) for size in (1000, 100_000))
        assert 0 < small.seconds < large.seconds
        assert 0 < small.memory < large.memory

    def test_says_what_it_computes_where_from_and_at_what_cost(self, kind: type[Selector]) -> None:
        text = kind.__doc__ or ""
        assert "Source:" in text
        assert "Cost" in f"{text} {kind.__mro__[1].__doc__}"


# Uncertainty


def test_uncertainty_is_what_the_equations_say() -> None:
    tokens = [[0.1, 0.9], [0.5, 0.5, 0.8], [0.0]]
    np.testing.assert_allclose(MeanEntropy().uncertainty(tokens), [0.5, 0.6, 0.0])
    np.testing.assert_allclose(MaxTokenUncertainty().uncertainty(tokens), [0.9, 0.8, 0.0])
    np.testing.assert_allclose(MeanMargin().uncertainty(tokens), [-0.5, -0.6, 0.0])
    np.testing.assert_allclose(MinMargin().uncertainty(tokens), [-0.1, -0.5, 0.0])
    logprobs = [[-0.1, -0.9], [-0.5, -0.5, -0.8], [0.0]]
    np.testing.assert_allclose(LeastConfidence().uncertainty(logprobs), [1.0, 1.8, 0.0])


def test_the_most_uncertain_come_first_equals_by_index_and_the_empty_last() -> None:
    picks = MeanEntropy().select([[0.2], [], [0.7], [0.2, 0.2], [0.9]], budget=5)
    assert picks.indices.tolist() == [4, 2, 0, 3, 1]
    assert picks.objective == picks.certificate == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("strategy", "tokens", "message"),
    [
        (MeanEntropy(), [[0.1], [0.2, -0.1]], "entropies of item 1 has -0.1"),
        (MeanMargin(), [[0.1, 1.5]], "margins of item 0 has 1.5"),
        (LeastConfidence(), [[-0.1], [], [0.3]], "logprobs of item 2 has 0.3"),
        (MeanEntropy(), [[float("nan")]], "entropies of item 0 has nan"),
        (MinMargin(), [0.5, 0.2], "one a token"),
        (MinMargin(), [["x"]], "a list of numbers an item"),
    ],
)
def test_impossible_tokens_are_named(strategy: Selector, tokens: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        strategy.select(tokens, budget=1)


# Diversity


def test_a_cluster_each_before_a_second_of_any() -> None:
    centres = np.eye(8)
    pool = np.repeat(centres, 5, axis=0) + 0.01 * RNG.standard_normal((40, 8))
    for strategy in (FacilityLocation(), KCenter(), KCenter("euclidean")):
        assert sorted(strategy.select(pool, budget=8).indices // 5) == list(range(8))


def test_labelled_clusters_are_left_alone() -> None:
    pool = np.repeat(np.eye(4), 3, axis=0)
    for strategy in (FacilityLocation(), KCenter()):
        assert strategy.select(pool, budget=2, already=[0, 4]).indices.tolist() == [6, 9]


def test_duplicates_come_last_and_lowest_index_first() -> None:
    pool = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    for strategy in (FacilityLocation(), FacilityLocation(2), KCenter()):
        picks = strategy.select(pool, budget=4)
        assert picks.indices.tolist() == [0, 2, 1, 3]
        assert picks.gains[2:] == pytest.approx([0, 0], abs=0.05)


def test_zero_vectors_are_one_point_of_their_own() -> None:
    pool = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.9, 0.1]])
    for strategy in (FacilityLocation(), KCenter()):
        picks = strategy.select(pool, budget=2)
        assert sorted(picks.indices.tolist()) in ([0, 1], [1, 3])


def test_a_scale_changes_nothing() -> None:
    for strategy in (FacilityLocation(), KCenter()):
        expected = strategy.select(X, budget=30).indices.tolist()
        assert strategy.select(X * 2.0**40, budget=30).indices.tolist() == expected
        assert strategy.select(X * RNG.random((SIZE, 1)).clip(0.5), budget=1).indices.tolist() == expected[:1]


@given(pool=pools(), alpha=st.floats(0.05, 0.95))
def test_quality_is_weighed_against_coverage(pool: np.ndarray, alpha: float) -> None:
    quality = np.linspace(0, 1, len(pool))
    budget = max(1, len(pool) // 4)
    picks = FacilityLocation(quality=alpha).select(pool, budget=budget, scores=quality)
    bare = FacilityLocation().select(pool, budget=budget)
    assert quality[picks.indices].sum() >= quality[bare.indices].sum() - 1e-6
    assert picks.certificate is not None
    assert picks.objective is not None
    assert picks.objective <= picks.certificate + 1e-12
    assert picks.gains.sum() == pytest.approx(picks.objective, abs=1e-3)  # gains are rounded


def test_the_uncertain_stay_and_the_diverse_of_them_are_picked() -> None:
    scores = np.arange(SIZE, dtype=float)
    indices = UncertainThenDiverse(KCenter(), keep=3).select(X, budget=10, scores=scores).indices
    assert indices.min() >= SIZE - 30
    assert indices.tolist() != list(range(SIZE - 1, SIZE - 11, -1))


# Budgets


@given(data=st.data())
def test_shares_are_whole_fit_and_add_up(data: st.DataObject) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=8)))
    weights = np.array(data.draw(st.lists(st.floats(0, 9), min_size=len(sizes), max_size=len(sizes))))
    budget = data.draw(st.integers(0, int(sizes.sum())))
    shares = share(budget, weights, sizes)
    assert shares.sum() == budget
    assert ((shares >= 0) & (shares <= sizes)).all()


def test_quotas_can_be_given() -> None:
    indices = Random(quotas={"a": 2, "c": 3}).select(SIZE, budget=5, groups=GROUPS).indices
    assert Counter(GROUPS[index] for index in indices) == {"a": 2, "c": 3}
    with pytest.raises(SelectionError, match="leave room for 5 picks, the budget is 6"):
        Random(quotas={"a": 2, "c": 3}).select(SIZE, budget=6, groups=GROUPS)
    with pytest.raises(SelectionError, match="a quota for 'z'"):
        Random(quotas={"z": 2}).select(SIZE, budget=1, groups=GROUPS)


def test_proportional_quotas_follow_sizes() -> None:
    indices = FacilityLocation(quotas="proportional").select(X, budget=18, groups=GROUPS).indices
    assert Counter(GROUPS[index] for index in indices) == {"a": 12, "b": 5, "c": 1}


def test_the_less_confident_group_gets_more() -> None:
    confidence = np.where(np.array(GROUPS) == "a", 0.8, 0.2)
    indices = InverseConfidence().select(SIZE, budget=15, groups=GROUPS, scores=confidence).indices
    counts = Counter(GROUPS[index] for index in indices)
    assert (counts["a"], counts["b"], counts["c"]) == (2, 8, 5)


def test_a_certificate_under_quotas_holds_for_sets_under_the_same_quotas() -> None:
    from itertools import product

    pool = np.random.default_rng(3).standard_normal((8, 3))
    groups = [0, 0, 0, 0, 0, 1, 1, 1]
    picks = FacilityLocation().select(pool, budget=2, groups=groups)
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    similar = (unit @ unit.T + 1) / 2
    best = max(similar[[i, j]].max(axis=0).mean() for i, j in product(range(5), range(5, 8)))
    assert picks.certificate is not None
    assert picks.certificate >= best - 1e-3


# Refusals


@pytest.mark.parametrize(
    ("pool", "given", "message"),
    [
        (np.full((3, 2), np.nan), {}, "item 0 has a value that is not finite"),
        ([[1, 2], [3]], {}, "all of one length"),
        (np.ones(4), {}, "shape"),
        (np.ones((4, 2)), {"budget": -1}, "0 or more"),
        (np.ones((4, 2)), {"budget": 1.5}, "whole number"),
        (np.ones((4, 2)), {"already": [7]}, "already names item 7"),
        (np.ones((4, 2)), {"already": [True]}, "as a mask"),
        (np.ones((4, 2)), {"groups": ["a"]}, "one label an item: 4, not 1"),
        (np.ones((4, 2)), {"scores": [1.0, 2.0, np.inf, 0.0]}, "item 2 is inf"),
        (np.ones((4, 2)), {"scores": [1.0]}, "one number an item"),
    ],
)
def test_bad_input_is_one_clear_message(pool: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        FacilityLocation().select(pool, **{"budget": 1, **given})


@pytest.mark.parametrize(
    "make",
    [
        lambda: FacilityLocation(1),
        lambda: FacilityLocation("some"),  # type: ignore[arg-type]
        lambda: FacilityLocation(quality=1.0),
        lambda: KCenter("manhattan"),  # type: ignore[arg-type]
        lambda: UncertainThenDiverse(keep=0.5),
        lambda: Random(quotas="fair").select(2, budget=1, groups=[0, 1]),
        lambda: KCenter().select(X, budget=1, scores=SCORES),
        lambda: QualityFacilityLocation().select(X, budget=1),
        lambda: EqualBudget().select(X, budget=1),
        lambda: InverseConfidence().select(X, budget=1, groups=GROUPS),
        lambda: InverseConfidence().select(X, budget=1, groups=GROUPS, scores=SCORES - 0.5),
        lambda: Random().select(object(), budget=1),
    ],
)
def test_impossible_settings_are_refused(make: Any) -> None:
    with pytest.raises(SelectionError):
        make()


def test_fit_and_ranking_for_those_who_know_scikit_learn_or_apricot() -> None:
    fitted = FacilityLocation().fit(X, budget=12)
    picks = FacilityLocation().select(X, budget=12)
    assert fitted.ranking_.tolist() == picks.indices.tolist()
    assert fitted.gains_.tolist() == picks.gains.tolist()
    np.testing.assert_array_equal(fitted.transform(X), X[picks.indices])
    assert len(KCenter().fit(X, already=[3]).ranking_) == SIZE - 1


# The benchmark


def test_the_benchmark_measures_small_pools_too() -> None:
    from reflect_rl.bench.select import bench_select, select_table
    from reflect_rl.progress import Progress

    figures = bench_select(Progress(), large=3000, small=1200)
    for found in figures["facility_location"].values():
        assert found["auto"]["normalised"] > 0.98
        assert found["exact"]["objective"] == pytest.approx(found["plain"]["objective"], abs=1e-4)
        for way in ("exact", "auto"):
            assert found[way]["shown"] == pytest.approx(found[way]["objective"], abs=2e-6)
            assert found[way]["objective"] <= found[way]["certificate"]
    assert figures["large"]["facility_location"]["peak_mb"] > 10
    assert figures["large"]["k_center"]["times_plain"] > 0
    text = select_table(figures)
    assert "% of exact greedy" in text
    assert "1,500 of 3,000" in text


def test_the_benchmark_takes_a_pool_of_another_size() -> None:
    from reflect_rl.bench.select import bench_large, measured_line
    from reflect_rl.progress import Progress

    figures = bench_large(Progress(), 2000, 300)
    assert figures["objective"] <= figures["certificate"]
    assert "300 of 2,000 x 384" in measured_line("facility_location", figures)


def test_plain_loops_of_the_benchmark_pick_as_ours_do() -> None:
    from reflect_rl.bench.select import make_pool, plain_facility_location, plain_k_center

    pool = make_pool(300)
    unit_ND = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    assert plain_facility_location(unit_ND, 20) == FacilityLocation().select(pool, budget=20).indices.tolist()
    assert plain_k_center(unit_ND, 5) == KCenter().select(pool, budget=5).indices.tolist()
