"""What callers may give to the selection library: any scale, any type of number, tensors, labels that are missing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflect_rl.errors import SelectionError
from reflect_rl.progress import Progress
from reflect_rl.selection import (
    FacilityLocation,
    KCenter,
    MeanEntropy,
    QualityFacilityLocation,
    Random,
    Selector,
    UncertainThenDiverse,
)
from selection_pools import pools

NAN = float("nan")
POOL = np.array([[0, 0], [1, 0], [0, 1], [10, 10], [10, 11], [-5, 3.0]])
STRATEGIES = (FacilityLocation(), KCenter(), KCenter("euclidean"))


class Told(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


# Scales


@given(X=pools(), power=st.integers(-900, 1000))
def test_the_scale_changes_no_pick(X: np.ndarray, power: int) -> None:
    X = X.astype(np.float32).astype(np.float64)
    for strategy in STRATEGIES:
        expected = strategy.select(X, budget=len(X))
        scaled = strategy.select(np.ldexp(X, power), budget=len(X))
        assert scaled.indices.tolist() == expected.indices.tolist()
        unit = 2.0**power if strategy is STRATEGIES[2] else 1.0
        assert (scaled.gains == expected.gains * unit).all()


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e300, 1e-300, 1e-318, 1.6e307])
def test_euclidean_k_center_at_the_ends_of_float64(scale: float) -> None:
    for strategy in STRATEGIES:
        expected = strategy.select(POOL, budget=4).indices.tolist()
        assert strategy.select(POOL * scale, budget=4).indices.tolist() == expected
    picks = KCenter("euclidean").select(POOL * scale, budget=3)
    assert picks.indices.tolist() == [2, 4, 5]
    assert picks.objective == pytest.approx(scale * np.sqrt(2), rel=1e-3)
    assert picks.certificate == pytest.approx(scale * np.sqrt(2) / 2, rel=1e-3)


def test_small_differences_beside_a_large_constant_count() -> None:
    X = np.c_[np.full(5, 1.0), np.array([0, 1, 2, 3, 10]) * 1e-200]
    picks = KCenter("euclidean").select(X, budget=2)
    assert picks.indices.tolist() == [3, 4]
    assert picks.gains[1] == pytest.approx(7e-200)


def test_each_vector_may_have_its_own_scale_with_cosine() -> None:
    lengths = np.array([1e300, 1e-300, 1, 1e-310, 1e200, 5])[:, None]
    directions = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [-1, 0], [-1, 0.0]])
    for strategy in (FacilityLocation(), KCenter()):
        picks = strategy.select(directions * lengths, budget=3).indices
        assert sorted(picks // 2) == [0, 1, 2]


@given(X=pools(30))
def test_the_type_of_number_changes_no_pick(X: np.ndarray) -> None:
    whole = np.rint(X * 20).clip(-100, 100)
    for strategy in STRATEGIES:
        expected = strategy.select(whole, budget=len(X)).indices.tolist()
        for kind in (np.int8, np.int64, np.float16, np.float32, ">f8", np.longdouble, object):
            assert strategy.select(whole.astype(kind), budget=len(X)).indices.tolist() == expected
        assert strategy.select(whole.tolist(), budget=len(X)).indices.tolist() == expected


def test_scores_are_weighed_at_any_scale() -> None:
    scores = np.array([0, 0.1, 0.9, 1, 0.2, 0.3])
    expected = QualityFacilityLocation().select(POOL, budget=4, scores=scores).indices.tolist()
    for other in (scores * 2.0**1023, scores * 2.0**-1000, (2 * scores - 1) * 1.7e308):
        assert QualityFacilityLocation().select(POOL, budget=4, scores=other).indices.tolist() == expected


# Tensors


@pytest.mark.parametrize(
    "tensor",
    [
        lambda X: X.requires_grad_(),
        torch.nn.Parameter,
        lambda X: X.bfloat16(),
        lambda X: X.half(),
        lambda X: X.to_sparse(),
        lambda X: X.T.contiguous().T,
        lambda X: [row.clone().requires_grad_() for row in X],
    ],
)
def test_tensors_are_taken_as_arrays_are(tensor: Any) -> None:
    X = tensor(torch.tensor(POOL, dtype=torch.float32))
    for strategy in STRATEGIES:
        assert strategy.select(X, budget=4).indices.tolist() == strategy.select(POOL, budget=4).indices.tolist()
    np.testing.assert_array_equal(KCenter().fit(X, budget=2).transform(X), POOL[KCenter().select(X, budget=2).indices])


def test_other_arguments_may_be_tensors_too() -> None:
    scores = torch.linspace(0, 1, 6).requires_grad_()
    picks = UncertainThenDiverse(keep=2).select(torch.tensor(POOL).requires_grad_(), budget=2, scores=scores)
    assert picks.indices.min() >= 2
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    for labels in (groups, list(groups), groups.numpy()):
        picks = Random().select(6, budget=4, groups=labels, already=torch.tensor([0]))
        assert Counter(groups[picks.indices].tolist()) == {0: 2, 1: 2}
    assert MeanEntropy().select([torch.ones(2).bfloat16(), torch.full((1,), 2.0)], budget=1).indices.tolist() == [1]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.ones(3, 2, device="meta"), "values of a tensor cannot be read"),
        (np.ones((3, 2), complex), "complex128"),
        (np.ones((3, 2), "M8[s]"), "datetime64"),
        (np.ma.array(np.ones((3, 2)), mask=[[0, 1]] * 3), "masked"),
        ([[10**400, 1], [1, 2]], "too large"),
        ([[None, 1.0]], "not finite"),
        (np.full((2, 2), np.longdouble("1e4000") if np.finfo(np.longdouble).max > 1e4000 else np.inf), "not finite"),
    ],
)
def test_what_is_no_array_of_numbers_is_one_message(X: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        FacilityLocation().select(X, budget=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FacilityLocation(2.5), "a whole number, 2 or more"),  # type: ignore[arg-type]
        (lambda: FacilityLocation(None), "a whole number, 2 or more"),  # type: ignore[arg-type]
        (lambda: QualityFacilityLocation(quality=1 - 1e-16).select(POOL, budget=1, scores=POOL[:, 0]), "near to 1"),
        (lambda: UncertainThenDiverse(keep=float("inf")), "at least 1, not inf"),
        (lambda: Random().select(-3, budget=0), "a pool should be"),
        (lambda: Random().select(6, budget=1, groups=5), "one label an item, not 5"),  # type: ignore[arg-type]
        (lambda: Random().select(6, budget=1, groups=[[1]] * 6), "a text or a number"),
        (lambda: Random().select(6, budget=1, groups=[np.ones(2)] * 6), "a text or a number"),
        (lambda: Random().select(6, budget=1, already=[[1], [1, 2]]), "a list of indices"),  # type: ignore[list-item]
        (lambda: Random(quotas={1: 2.5}).select(6, budget=1, groups=[1] * 6), "a whole number, 0 or more"),
        (lambda: Random(quotas={1: NAN}).select(6, budget=1, groups=[1] * 6), "a whole number, 0 or more"),
        (lambda: MeanEntropy().select([[10**400]], budget=1), "a list of numbers an item"),
        (lambda: QualityFacilityLocation().select(POOL, budget=1, scores=[10**400] * 6), "one number an item"),
        (lambda: QualityFacilityLocation().select(POOL, budget=1, scores=[1j] * 6), "one number an item"),
    ],
)
def test_impossible_arguments_are_one_message(make: Any, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        make()


def test_a_number_of_neighbours_may_be_numpys() -> None:
    assert FacilityLocation(np.int64(3)).n_neighbors == 3  # type: ignore[arg-type]


def test_keep_may_be_beyond_the_pool() -> None:
    picks = UncertainThenDiverse(keep=1e300).select(POOL, budget=2, scores=POOL[:, 0])
    assert picks.indices.tolist() == FacilityLocation().select(POOL, budget=2).indices.tolist()


# Groups


@pytest.mark.parametrize("strategy", [Random(), FacilityLocation(), KCenter(), FacilityLocation(2)])
@pytest.mark.parametrize(
    "missing",
    [
        np.array([NAN, NAN, NAN, 1, 1, 1]),
        [NAN, float("nan"), np.float32("nan"), "b", "b", "b"],
        [None, NAN, np.datetime64("NaT"), 1, 1, 1],
        np.array(["NaT", "NaT", "NaT", "2024-01-01", "2024-01-01", "2024-01-01"], "M8[ns]"),
        np.ma.array([1, 2, 3, 7, 7, 7], mask=[1, 1, 1, 0, 0, 0]),
        np.array([NAN, None, NAN, "b", "b", "b"], object),
        torch.tensor([NAN, NAN, NAN, 1, 1, 1]),
    ],
    ids=str,
)
def test_items_without_a_group_are_one_group_which_is_said(strategy: Selector, missing: Any) -> None:
    told = Told()
    picks = strategy.select(POOL, budget=4, groups=missing, progress=told)
    assert Counter((picks.indices // 3).tolist()) == {0: 2, 1: 2}
    assert told.warnings == ["3 of 6 items have no group (None or NaN); together they are one"]


def test_one_item_without_a_group_is_said_in_the_singular() -> None:
    told = Told()
    Random().select(3, budget=1, groups=["a", None, "a"], progress=told)
    assert told.warnings == ["1 of 3 items has no group (None or NaN); it is a group of its own"]


def test_a_missing_group_may_have_a_quota() -> None:
    for key in (None, NAN):
        picks = Random(quotas={key: 2, "a": 1}).select(5, budget=3, groups=[NAN, "a", None, "a", float("nan")])
        assert Counter((picks.indices % 2).tolist()) == {0: 2, 1: 1}


def test_pandas_missing_values_are_missing() -> None:
    pandas = pytest.importorskip("pandas")
    for labels in ([pandas.NA, pandas.NaT, None, 1, 1, 1], pandas.Series([1, pandas.NA] * 3, dtype="Int64")):
        told = Told()
        assert len(Random().select(6, budget=4, groups=labels, progress=told)) == 4
        assert len(told.warnings) == 1


def test_labels_are_equal_as_in_a_dict() -> None:
    told = Told()
    labels = [0.0, -0.0, 0, False, np.int64(0), "0", np.str_("0"), "0", "0", "0"]
    picks = Random().select(10, budget=6, groups=labels, progress=told)
    assert Counter((picks.indices // 5).tolist()) == {0: 3, 1: 3}
    assert told.warnings == []
