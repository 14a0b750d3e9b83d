"""Selection is exact: every way to compute a choice makes the plain loop's choice, ties, duplicates and all."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflect_rl.progress import Progress
from reflect_rl.selection import FacilityLocation, KCenter, Picks, byte_products, farthest_first, likeness, neighbours
from reflect_rl.selection import coverage as coverages
from reflect_rl.selection.coverage import SHIFT
from reflect_rl.selection.grid import cosine_grid, euclidean_grid, fold
from selection_pools import plain_facility_location, plain_k_center, pools, similarities, true_similarities


def by_rows(X: np.ndarray, **given: object) -> Picks:
    """Exact facility location that holds no matrix."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverages.Exact, "HELD", 0)
        patch.setattr(coverages, "ROWS", 3)
        patch.setattr(coverages, "SUMMED", 2)
        return FacilityLocation("exact").select(X, **given)  # type: ignore[arg-type]


@given(X=pools(), data=st.data())
def test_every_way_picks_what_plain_greedy_picks(X: np.ndarray, data: st.DataObject) -> None:
    already = np.array(sorted(data.draw(st.sets(st.integers(0, len(X) - 1), max_size=len(X) // 2))), np.int64)
    budget = data.draw(st.integers(0, len(X) - len(already)))
    expected = plain_facility_location(similarities(X), budget, already)
    for picks in (
        FacilityLocation("exact").select(X, budget=budget, already=already),
        by_rows(X, budget=budget, already=already),
    ):
        assert picks.indices.tolist() == expected
        assert_objective(picks, X, already)
        if not len(already):
            assert picks.gains.sum() == pytest.approx(picks.objective, abs=cosine_grid(X).rounding)


@given(X=pools(), data=st.data())
def test_with_neighbours_it_is_plain_greedy_from_each_kth_nearest(X: np.ndarray, data: st.DataObject) -> None:
    folded, similar_NN = fold(cosine_grid(X)), similarities(X)
    distinct = len(folded.points_MD)
    k = data.draw(st.integers(2, 20))
    budget = data.draw(st.integers(0, len(X)))
    first = np.unique(folded.of_N, return_index=True)[1]
    floors_N = np.sort(similar_NN[:, first], axis=1)[:, -k] if k < distinct else 0.0
    picks = FacilityLocation(k).select(X, budget=budget)
    assert picks.indices.tolist() == plain_facility_location(similar_NN, budget, np.empty(0, np.int64), floors_N)
    assert_objective(picks, X)


def assert_objective(picks: Picks, X: np.ndarray, already: np.ndarray | tuple[()] = ()) -> None:
    """It is that of the equation, but where two picks are equally near to an item up to the rounding of the grid."""
    objective = true_similarities(X)[[*already, *picks.indices]].max(axis=0, initial=0).mean()
    assert picks.objective is not None
    assert objective - 2 * cosine_grid(X).rounding - 1e-12 <= picks.objective <= objective + 1e-12


def test_gains_of_near_items_with_many_repeats_do_not_overflow() -> None:
    """Similarities are summed in 32 bits over a few rows at a time, repeated ones among them."""
    draw = np.random.default_rng(1)
    X = draw.normal(size=(500, 12)) * 0.45 + np.eye(12)[0] * 1.8
    X = X[np.r_[np.arange(500), draw.integers(0, 500, 500)]]
    for picks in (FacilityLocation("exact").select(X, budget=10), by_rows(X, budget=10)):
        assert picks.indices.tolist() == plain_facility_location(similarities(X), 10, np.empty(0, np.int64))
        assert picks.gains.sum() == pytest.approx(picks.objective, abs=cosine_grid(X).rounding)


@pytest.mark.parametrize("n_neighbors", ["exact", 16])
def test_the_objective_is_that_of_the_equation_with_the_embeddings_as_they_are(n_neighbors: Any) -> None:
    X = np.random.default_rng(0).standard_normal((400, 384)) * 1e200
    picks = FacilityLocation(n_neighbors).select(X, budget=40, already=[3, 5])
    unit = X / 1e200 / np.linalg.norm(X / 1e200, axis=1, keepdims=True)
    objective = ((1 + unit @ unit[[3, 5, *picks.indices]].T) / 2).max(axis=1).mean()
    assert picks.objective == pytest.approx(objective, abs=2e-6)
    assert picks.certificate is not None
    assert objective < picks.certificate < 1.02 * objective


@given(X=pools(60), level=st.floats(-1, 1))
def test_no_product_above_a_level_is_left_out_by_its_bytes(X: np.ndarray, level: float) -> None:
    points_MD = fold(cosine_grid(X)).points_MD
    if not len(points_MD):
        return
    quick, everything = byte_products.ByteProducts(points_MD), slice(0, len(points_MD))
    levels_M = np.full(len(points_MD), np.float32(level * 2**24))
    above_MM = points_MD @ points_MD.T > levels_M[:, None]
    left_in_MM = quick.block(everything, everything) > quick.cuts(levels_M, everything, everything)[:, None]
    assert (left_in_MM | ~above_MM).all()


def test_bytes_are_not_used_where_their_sums_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert byte_products.right(8, 32, 48)
    product = byte_products._product
    monkeypatch.setattr(byte_products, "_product", lambda a, b: np.clip(product(a, b), -(2**15), 2**15 - 1))
    assert not byte_products.right(8, 32, 48)


@given(X=pools(150), k=st.integers(1, 40), bytes_=st.booleans(), few=st.sampled_from([1, 20]))
def test_neighbours_are_those_of_the_full_matrix(X: np.ndarray, k: int, bytes_: bool, few: int) -> None:
    points_MD = fold(cosine_grid(X)).points_MD
    if not k < len(points_MD):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "ROWS", 7)
        patch.setattr(neighbours, "COLUMNS", 11)
        patch.setattr(neighbours, "worth_it", lambda *args: bytes_)
        patch.setattr(neighbours, "FEW", few)
        patch.setattr(neighbours, "TRIES", 3)
        patch.setattr(likeness, "CHAINED", 5)
        patch.setattr(likeness, "PER_LEADER", 3)
        found = neighbours.nearest(points_MD, k, Progress(), threads=3)
    full_MM = (points_MD @ points_MD.T).astype(np.int64)
    floors_M = np.sort(full_MM, axis=1)[:, -k]
    assert (found.floors_M == floors_M).all()
    for column in range(len(points_MD)):
        part = slice(found.starts_M1[column], found.starts_M1[column + 1])
        rows = np.flatnonzero(full_MM[:, column] > floors_M)
        assert sorted(found.rows_E[part]) == rows.tolist()
        order = np.argsort(found.rows_E[part])
        assert (found.values_E[part][order] == full_MM[rows, column]).all()


@given(X=pools(), data=st.data())
def test_k_center_in_slices_picks_what_the_plain_loop_picks(X: np.ndarray, data: st.DataObject) -> None:
    already = np.array(sorted(data.draw(st.sets(st.integers(0, len(X) - 1), max_size=len(X) // 2))), np.int64)
    budget = data.draw(st.integers(0, len(X) - len(already)))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SMALLEST", 3), ("LARGEST", 12), ("MOST", 5), ("PART", 4)):
            patch.setattr(farthest_first, name, value)
        picks = KCenter().select(X, budget=budget, already=already)
    points_ND = cosine_grid(X).points_ND
    first = int((points_ND @ points_ND.sum(axis=0, dtype=np.float64)).argmax())
    similar_NN = similarities(X)
    assert picks.indices.tolist() == plain_k_center(similar_NN, budget, already, first)
    centres = [*already, *picks.indices]
    if centres and len(centres) < len(X):
        nearest_N = np.delete(similar_NN[centres].max(axis=0), centres)
        assert picks.objective == pytest.approx(chords(X, nearest_N).max(), abs=1e-9)
    assert (np.diff(picks.gains) <= 0).all()


@given(X=pools(), budget=st.integers(1, 5))
def test_euclidean_k_center_is_within_rounding_of_plain_distances(X: np.ndarray, budget: int) -> None:
    budget = min(budget, len(X) - 1)
    picks = KCenter("euclidean").select(X, budget=budget)
    X = X.astype(np.float64)
    distances_NN = np.linalg.norm(X[:, None] - X[None], axis=-1)
    for rank in range(1, budget):
        nearest_N = distances_NN[picks.indices[:rank]].min(axis=0)
        assert nearest_N[picks.indices[rank]] == pytest.approx(nearest_N.max(), abs=1e-5)
        assert picks.gains[rank] == pytest.approx(nearest_N.max(), abs=1e-5)
    assert picks.objective == pytest.approx(distances_NN[picks.indices].min(axis=0).max(), abs=1e-5)


@given(X=pools(9), budget=st.integers(1, 3))
def test_no_other_set_is_beyond_the_certificate(X: np.ndarray, budget: int) -> None:
    """Against every set of that size."""
    budget = min(budget, len(X))
    similar_NN = true_similarities(X)
    sets = list(combinations(range(len(X)), budget))
    best = max(similar_NN[list(chosen)].max(axis=0).mean() for chosen in sets)
    for n_neighbors in ("exact", 2, 4):
        picks = FacilityLocation(n_neighbors).select(X, budget=budget)
        assert picks.certificate is not None
        assert picks.objective is not None
        assert picks.objective <= best + 1e-9
        assert picks.certificate >= best - 1e-9
    for metric, distances_NN in (("euclidean", distances(X)), ("cosine", chords(X, similarities(X)))):
        smallest = min(distances_NN[list(chosen)].min(axis=0).max() for chosen in sets)
        k_center = KCenter(metric).select(X, budget=budget)  # type: ignore[arg-type]
        assert k_center.certificate is not None
        assert k_center.certificate <= smallest + 1e-6


def chords(X: np.ndarray, similar: np.ndarray) -> np.ndarray:
    """Distances of unit vectors, of similarities on the grid."""
    products = similar * 2 * SHIFT - SHIFT
    return np.sqrt(np.maximum(2 - 2 * products / cosine_grid(X).radius ** 2, 0))


def distances(X: np.ndarray) -> np.ndarray:
    X = X.astype(np.float64)
    return np.linalg.norm(X[:, None] - X[None], axis=-1)


@pytest.mark.parametrize("budget", [1, 60, 300])
def test_the_certificate_of_a_larger_pool_is_near_to_what_is_reached(budget: int) -> None:
    """By neighbours where there are enough picks, else by Minoux's bound."""
    X = np.random.default_rng(0).standard_normal((800, 16))
    picks = FacilityLocation("exact").select(X, budget=budget)
    assert picks.objective is not None
    assert picks.certificate is not None
    assert picks.objective <= picks.certificate <= picks.objective * {1: 2.01, 60: 1.02, 300: 1.005}[budget]
    near = FacilityLocation(32).select(X, budget=budget)
    assert near.certificate is not None
    assert near.certificate >= picks.objective


@given(X=pools(), budget=st.integers(1, 20))
def test_a_smaller_budget_picks_a_prefix(X: np.ndarray, budget: int) -> None:
    for strategy in (FacilityLocation(), FacilityLocation(3), KCenter()):
        whole = strategy.select(X, budget=len(X)).indices
        assert strategy.select(X, budget=min(budget, len(X))).indices.tolist() == whole[:budget].tolist()
        assert sorted(whole) == list(range(len(X)))


@given(X=pools())
def test_products_on_the_grid_are_exact_in_any_order(X: np.ndarray) -> None:
    points_ND = cosine_grid(X).points_ND
    exact = points_ND.astype(np.int64) @ points_ND.astype(np.int64).T
    assert (points_ND @ points_ND.T == exact).all()
    assert ((points_ND[:, ::-1].copy() @ points_ND[:, ::-1].T.copy()) == exact).all()
    assert np.abs(exact).max() <= 2**24
    wide_ND = euclidean_grid(X).points_ND
    assert np.abs(wide_ND).max() <= 2**26


def test_the_width_does_not_break_exactness() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 384, 4096):
        points_ND = cosine_grid(rng.standard_normal((20, width)) ** 3).points_ND.astype(np.int64)
        assert (np.abs(points_ND) @ np.abs(points_ND).T).max() <= 2**24


CODE = """
import hashlib
import numpy as np
from reflect_rl.selection import FacilityLocation, KCenter
rng = np.random.default_rng(0)
X = np.repeat(rng.standard_normal((1500, 24)).astype(np.float32), 2, axis=0) + 0.01 * rng.standard_normal((3000, 24))
for strategy in (FacilityLocation("exact"), FacilityLocation(16), KCenter()):
    picks = strategy.select(X, budget=400)
    print(hashlib.sha256(picks.indices.tobytes() + picks.gains.tobytes()).hexdigest())
"""


def test_runs_and_thread_counts_agree_to_the_bit() -> None:
    outputs = set()
    for threads in ("1", "2", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_nothing_is_imported_but_numpy() -> None:
    code = (
        "import sys, reflect_rl.selection; print({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", _with_paths(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(eval(done.stdout)) <= {"numpy", "reflect_rl", "__main__"}  # noqa: S307  what we printed


def _with_paths(code: str) -> str:
    import reflect_rl

    source, packages = Path(reflect_rl.__file__).parents[1], Path(np.__file__).parents[1]
    return f"import sys; sys.path += [{str(source)!r}, {str(packages)!r}]; {code}"


def test_the_number_of_blas_threads_is_put_back() -> None:
    from reflect_rl.selection.blas import _openblas, single_threaded

    if (functions := _openblas()) is None:
        pytest.skip("numpy's matrix products are not OpenBLAS's here")
    get, set_ = functions
    before = get()
    try:
        set_(2)
        with pytest.raises(ZeroDivisionError), single_threaded() as there:
            assert there
            assert get() == 1
            1 / 0  # noqa: B018
        assert get() == 2
    finally:
        set_(before)
