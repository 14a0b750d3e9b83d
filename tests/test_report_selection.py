"""The report's view of the stage select: the stage's own file, the page's data, and the page in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reflect_rl.config import parse_settings
from reflect_rl.data.choose_states import choose_states
from reflect_rl.data.selection_map import MOST_SHOWN, MOST_TEXT, map_points, principal_axes
from reflect_rl.evaluation.report import report
from reflect_rl.evaluation.report_selection import MAP_BYTES, selection_view
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from report_data import ATTACK, invented_run
from report_page import Opened

Tiny = Callable[..., Settings]


def test_axes_are_those_of_a_singular_value_decomposition_with_the_sign_fixed() -> None:
    rows_ND = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) * [5, 3, 1, 1, 1, 1, 1, 1]
    places_N2, shares_2 = principal_axes(rows_ND)
    left_NK, singular_K, right_KD = np.linalg.svd(rows_ND - rows_ND.mean(axis=0), full_matrices=False)
    signs_2 = np.sign(right_KD[:2][[0, 1], np.abs(right_KD[:2]).argmax(axis=1)])
    np.testing.assert_allclose(places_N2, left_NK[:, :2] * singular_K[:2] * signs_2, atol=1e-8)
    np.testing.assert_allclose(shares_2, (singular_K**2 / (singular_K**2).sum())[:2])


@pytest.mark.parametrize("count", [1, 5])
def test_equal_states_lie_on_one_point(count: int) -> None:
    places_N2, shares_2 = principal_axes(np.full((count, 6), 0.1, np.float32))
    assert not places_N2.any()
    assert not shares_2.any()


@pytest.mark.parametrize(("size", "budget", "picked"), [(100, 30, 30), (5000, 100, 100), (9000, 4000, 1500)])
def test_of_a_large_pool_evenly_spaced_states_are_shown(size: int, budget: int, picked: int) -> None:
    embeddings_ND = np.random.default_rng(0).normal(size=(size, 4)).astype(np.float32)
    picks = np.random.default_rng(1).permutation(size)[:budget]
    ids = [str(number) for number in range(size)]
    rows, _ = map_points(ids, ["x" * 2 * MOST_TEXT] * size, embeddings_ND, picks)
    ranks = [row["rank"] for row in rows if row["rank"] is not None]
    assert len(rows) == min(size, MOST_SHOWN)
    assert (len(ranks), ranks[0], ranks[-1]) == (picked, 0, budget - 1)
    assert ranks == sorted(ranks)
    assert len({row["id"] for row in rows}) == len(rows)
    assert max(len(row["text"]) for row in rows) == MOST_TEXT + 2


@pytest.mark.parametrize("strategy", ["random", "facility-location", "k-center"])
def test_the_stage_writes_every_distinct_state_with_its_rank_and_the_same_bytes_twice(
    pooled: RunFolder, tiny: Tiny, strategy: str
) -> None:
    settings = tiny({"select.strategy": strategy, "annotate.reflections": 12})
    counts = choose_states(pooled, Context(settings), Progress())
    first = (pooled / "selection_map.jsonl").read_bytes()
    assert choose_states(pooled, Context(settings), Progress()) == counts
    assert (pooled / "selection_map.jsonl").read_bytes() == first
    rows = pooled.read_jsonl("selection_map.jsonl", dict)
    picks = pooled.read_jsonl("selection.jsonl", dict)
    assert len({row["id"] for row in rows}) == len(rows) == counts["pool_distinct"] <= counts["pool"]
    assert [row["id"] for row in rows[:12]] == [pick["id"] for pick in picks]
    assert [row["rank"] for row in rows] == [*range(12), *[None] * (len(rows) - 12)]
    assert 0 < counts["variance_y"] <= counts["variance_x"] < 1
    assert (picks[0]["gain"] is None) == (strategy == "k-center")


def chosen(strategy: str, gains: list[float | None]) -> list[dict[str, Any]]:
    return [{"id": str(i), "rank": i, "gain": gain, "strategy": strategy} for i, gain in enumerate(gains)]


@pytest.mark.parametrize(
    ("strategy", "gains", "objective", "curve"),
    [
        ("facility-location", [0.5, 0.25, 0.125], 0.875, [(1, 0.5), (2, 0.75), (3, 0.875)]),
        ("facility-location", [0.5, 0.25, 0.125], 1.0, [(1, 0.625), (2, 0.875), (3, 1.0)]),
        ("k-center", [None, 1.5, 1.0], 0.75, [(1, 1.5), (2, 1.0), (3, 0.75)]),
        ("k-center", [None, 1.5, 1.0], None, [(1, 1.5), (2, 1.0)]),
        ("random", [0.0, 0.0, 0.0], None, []),
    ],
)
def test_the_curve_is_the_objective_of_so_many_first_picks(
    strategy: str, gains: list[float | None], objective: float | None, curve: list[tuple[int, float]]
) -> None:
    view = selection_view(chosen(strategy, gains), [], {"counts": {"objective": objective}}, 200)
    assert view["curve"] == curve
    assert view["map"] is None


def test_texts_beyond_the_room_are_left_out_the_picks_having_the_first_of_it() -> None:
    points = [
        {"x": 0.1234, "y": -0.1234, "rank": i if i < 10 else None, "text": f"{i} " + "w" * 600} for i in range(3000)
    ]
    found = selection_view(chosen("k-center", [1.0] * 10), points, {}, 200)["map"]
    kept = [text is not None for text in found["texts"]]
    assert all(kept[:10])
    assert kept == sorted(kept, reverse=True)
    assert not kept[-1]
    assert found["lines"][found["texts"][3][0]] == points[3]["text"]
    assert len(json.dumps(found, separators=(",", ":"))) < MAP_BYTES + 5 * kept.count(False)


def selected_run(folder: Path, strategy: str, size: int = 60, budget: int = 20) -> tuple[RunFolder, Settings]:
    """An invented run with an invented selection; the second pick's text is an attack."""
    run, rng = invented_run(folder), np.random.default_rng(0)
    texts = [f"Last: none\n|{'.' * (i % 7)}T|\nnumber {i}" for i in range(size)]
    texts[1] = ATTACK
    embeddings_ND = rng.normal(size=(size, 4)).astype(np.float32)
    points, shares_2 = map_points([str(i) for i in range(size)], texts, embeddings_ND, np.arange(budget))
    run.write_jsonl("selection_map.jsonl", points)
    gains: dict[str, list[float | None]] = {
        "facility-location": [0.6, *[0.01] * (budget - 1)],
        "k-center": [None, *np.linspace(1.4, 0.9, budget - 1).tolist()],
    }
    run.write_jsonl("selection.jsonl", chosen(strategy, gains.get(strategy, [0.0] * budget)))
    counts = {"pool": 3 * size, "pool_distinct": size, "picked": budget}
    counts |= {"variance_x": float(shares_2[0]), "variance_y": float(shares_2[1])}
    bounds = {"facility-location": (0.79, 0.8), "k-center": (0.8, 0.4)}.get(strategy, (None, None))
    settings = {"select.embedding": "cells", "annotate.reflections": budget}
    found = {"stage": "select", "counts": counts | dict(zip(("objective", "certificate"), bounds, strict=True))}
    run.write_json("manifests/select.json", found | {"settings": settings})
    return run, parse_settings({"select": {"strategy": strategy}})


def opened(browser: Any, run: RunFolder, settings: Settings, **context: Any) -> Opened:
    report(run, Context(settings), Progress())
    page = Opened(browser, run / "report.html", **context)
    page.page.locator("#selection").scroll_into_view_if_needed()
    return page


@pytest.mark.browser
def test_the_map_shows_every_state_and_tells_of_the_one_pointed_at(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, *selected_run(tmp_path, "facility-location"))
    section = page.page.locator("#selection")
    assert "180 states, 60 distinct" in section.locator(".facts").inner_text()
    assert (section.locator(".pick").count(), section.locator(".rest").count()) == (20, 40)
    assert page.text("#selection .detail h3") == "Pick 1 of 20"
    section.locator(".map").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.text("#selection .detail h3") == "Pick 2 of 20"
    assert page.text("#selection .detail .observation").startswith("</script><script>window.attacked")
    assert page.page.evaluate("window.attacked") is None
    place = section.locator(".rest").first.bounding_box()
    page.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    assert "Not picked" in page.text("#selection .detail h3")
    colours = {node.evaluate("node => getComputedStyle(node).fill") for node in section.locator(".pick").all()}
    assert len(colours) == 20
    assert "% of the variance of the embeddings" in page.text("#selection .pool")
    assert page.errors == []


@pytest.mark.browser
@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ("facility-location", "98.8 % of what any choice of 20 states could reach: 0.79 of at most 0.8."),
        ("k-center", "No choice of 20 states has a radius below 0.4, so this one is at most 2.00 times the smallest."),
        ("random", "No curve: a random choice optimises nothing"),
    ],
)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_the_curve_comes_with_its_bound_in_plain_words(
    browser: Any,
    tmp_path: Path,
    strategy: str,
    says: str,
    scheme: str,
    width: int,
) -> None:
    run, settings = selected_run(tmp_path, strategy)
    page = opened(browser, run, settings, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert says in page.text("#selection")
    assert page.page.locator("#selection path.line").count() == (0 if strategy == "random" else 2)
    assert page.page.locator("#selection path.dashed").count() == (0 if strategy == "random" else 1)
    assert page.overflow() <= 0
    assert page.errors == []


@pytest.mark.browser
def test_a_selection_without_its_map_or_manifest_says_so(browser: Any, tmp_path: Path) -> None:
    run, settings = RunFolder(tmp_path), parse_settings({"select": {"strategy": "k-center"}})
    run.write_jsonl("selection.jsonl", chosen("k-center", [None, *[1 / (n + 1) for n in range(899)]]))
    page = opened(browser, run, settings)
    assert page.errors == []
    assert "No map" in page.text("#selection .absent")
    assert "900" in page.text("#selection .facts")
    assert page.page.locator("#selection path.line").count() == 1


def test_what_an_earlier_strategy_left_is_not_shown_and_a_large_pool_keeps_the_page_small(tmp_path: Path) -> None:
    run, settings = selected_run(tmp_path, "k-center", size=6000, budget=2500)
    small = report(run, Context(parse_settings({})), Progress())["bytes"]
    assert '"selection":null' in (run / "report.html").read_text(encoding="utf-8")
    assert report(run, Context(settings), Progress())["bytes"] < small + 130_000
