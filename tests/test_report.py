"""The report in a real headless browser, on a made-up run and a made-up comparison."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Heard
from reflect_rl.errors import RunFolderError
from reflect_rl.evaluation.report import CURVES, MAX_TEXT, fit, report, report_compare
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.trained import read_config
from reflect_rl.settings import Settings
from report_data import SETTINGS, comparison, detailed, episode, invented_run, manifest, metrics
from report_page import Opened


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = invented_run(tmp_path_factory.mktemp("runs") / "taxi")
    counts = report(run, Context(SETTINGS), Progress())
    assert counts["iterations"] == 20
    assert counts["episodes"] == 13
    return run / "report.html"


def test_every_curve_is_of_a_figure_that_a_run_writes(whole: Path) -> None:
    """And so are the invented ones here."""
    row = RunFolder(whole).read_jsonl("metrics.jsonl", dict)[-1]
    assert sorted(set(CURVES) - {name for name, value in row.items() if value is not None}) == []
    made = metrics(0)
    assert set(made) == set(row)
    assert set(made["seconds"]) == set(row["seconds"])


@pytest.fixture(scope="module")
def opened(browser: Any, invented: Path) -> Opened:
    return Opened(browser, invented)


@pytest.mark.browser
def test_page_asks_for_nothing_but_itself_and_has_no_errors(opened: Opened, invented: Path) -> None:
    opened.page.locator("#provenance").scroll_into_view_if_needed()
    for block in opened.page.locator("details > summary").all():
        block.click()
    opened.page.wait_for_timeout(100)
    assert opened.errors == []
    assert opened.requests == [invented.resolve().as_uri()]
    assert invented.stat().st_size < 1_000_000


@pytest.mark.browser
def test_headline_shows_the_results_with_horizon_and_budgets(opened: Opened) -> None:
    assert opened.page.locator(".tile .big").all_inner_texts() == ["96.7 %", "95.4 %", "99.3 %"]
    assert opened.text(".tile .note") == "95 % interval 88.6 – 99.1 % · 60 episodes"
    budget = "horizon 20 · 1,000 action labels (377 distinct) · 2,000 reflection labels (391 distinct)"
    assert opened.text(".headline > .note") == f"Measured at {budget}"
    assert budget in opened.text("#result caption")


@pytest.mark.browser
def test_results_by_kind_of_task_stand_below(opened: Opened) -> None:
    rows = opened.page.locator("#result table").nth(1).locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[2:4] for row in rows] == [
        ["far start", "97.5 %"],
        ["near start", "95.0 %"],
        ["all, within 10 steps", "50.0 %"],
    ]


@pytest.mark.browser
def test_every_curve_is_drawn_with_names_and_units(opened: Opened) -> None:
    charts = opened.page.locator("#learning .charts").nth(1).locator("figure.chart")
    assert charts.locator(".name").all_inner_texts() == [
        "Success",
        "Return",
        "Why episodes ended",
        "Entropy",
        "KL",
        "Time",
    ]
    for index in range(6):
        drawing = charts.nth(index).locator("svg")
        assert len(drawing.locator("text").all()) >= 6
        assert {"iteration"} < set(drawing.locator("text.axis-name").all_text_contents())
        assert drawing.locator("path.line, path.area").first.get_attribute("d").count("M") >= 1
    charts.first.locator("svg").hover()
    assert "training" in opened.text("#tip")
    assert "[" in opened.text("#tip")


@pytest.mark.browser
def test_the_loss_of_each_warm_up_is_drawn_at_every_step_or_as_means(opened: Opened) -> None:
    charts = opened.page.locator("#learning .charts").first.locator("figure.chart")
    assert charts.locator(".name").all_inner_texts() == ["SFT of the reflector", "SFT of the policy"]
    drawn = json.loads(opened.page.locator("#data").inner_text())
    assert drawn["sft_reflector"] == {"step": [1, 2, 3, 4, 5], "loss": [3.0, 1.5, 1.0, 0.75, 0.6]}
    assert drawn["sft_policy"]["step"] == [3 * i for i in range(1, 201)]
    assert drawn["sft_policy"]["loss"] == [2.0] + [1.0] * 199
    assert {"step"} < set(charts.first.locator("text.axis-name").all_text_contents())


@pytest.mark.browser
def test_time_is_shown_by_stage_in_the_order_of_the_pipeline(opened: Opened) -> None:
    names = opened.page.locator("#time .bars > li:not(.nested) .name").all_inner_texts()
    assert names == ["collect", "annotate", "sft reflector", "sft policy", "rl", "evaluate"]
    assert "2 min 8 s" in opened.text("#time .note")


@pytest.mark.browser
def test_viewer_steps_by_button_and_by_arrow_keys(browser: Any, invented: Path) -> None:
    page = Opened(browser, invented)
    page.page.locator(".viewer").scroll_into_view_if_needed()
    page.page.locator(".episodes button").nth(1).click()
    seen = [viewed(page)]
    for action in ("click", "ArrowRight", "ArrowRight"):
        page.page.locator("#next").click() if action == "click" else page.page.keyboard.press(action)
        seen.append(viewed(page))
    for before, after in pairwise(seen):
        assert all(x != y for x, y in zip(before, after, strict=True))
    assert page.page.locator(".observation mark").count() > 0
    page.page.keyboard.press("ArrowLeft")
    assert viewed(page) == seen[2]
    page.page.locator("#previous").click()
    assert viewed(page) == seen[1]
    assert page.text(".where").startswith("step 2 of")
    page.page.locator(".slide input").fill("0")
    assert viewed(page) == seen[0]


def viewed(page: Opened) -> tuple[str, str, tuple[str, ...]]:
    """Grid, reflection and bars as they are on the page now."""
    bars = page.page.locator(".actions .fill").evaluate_all("nodes => nodes.map(node => node.style.width)")
    return page.text(".observation"), page.text(".reflection"), tuple(bars)


@pytest.mark.browser
def test_viewer_marks_choice_and_expert_and_tells_how_the_episode_ended(browser: Any, invented: Path) -> None:
    page = Opened(browser, invented)
    last = json.loads((invented.parent / "evaluation.jsonl").read_text(encoding="utf-8").split("\n")[0])["steps"][-1]
    page.page.locator(".slide input").press("End")
    assert page.page.locator(".actions .tag.chosen").count() == 1
    assert page.page.locator(".actions li.chosen").get_attribute("data-action") == str(last["choice"])
    expert = page.page.locator(".actions li", has=page.page.locator(".tag.expert"))
    assert expert.get_attribute("data-action") == str(last["expert"])
    outcome = page.text(".outcome")
    assert "−1.00" in outcome
    assert "ends: dangerous" in outcome


@pytest.mark.browser
def test_viewer_filters_by_result_and_mode_and_plays(browser: Any, invented: Path) -> None:
    page = Opened(browser, invented)
    page.page.get_by_role("group", name="result").get_by_text("failure").click()
    page.page.get_by_role("group", name="mode").get_by_text("sampled").click()
    shown = page.page.locator(".episodes small").all_inner_texts()
    assert len(shown) == 1
    assert all("dangerous · sampled" in line for line in shown)
    page.page.locator("#play").click()
    page.page.wait_for_timeout(1100)
    assert page.text(".where").startswith("step 2 of")


@pytest.mark.browser
def test_model_text_is_shown_as_text_and_never_executed(browser: Any, invented: Path) -> None:
    page = Opened(browser, invented)
    page.page.locator(".episodes button").first.click()
    assert "</script><script>window.attacked = true</script><img src=x" in page.text(".reflection")
    assert page.page.evaluate("window.attacked") is None
    assert page.page.locator(".stage img, .stage script").count() == 0
    assert invented.read_text(encoding="utf-8").lower().count("</script") == 2


@pytest.mark.browser
def test_reflector_shows_differing_examples_first_with_the_words_marked(opened: Opened) -> None:
    first = opened.page.locator(".example").first
    assert first.locator("mark").all_inner_texts() == ["east.", "west."]
    assert "97.0 %" in opened.text("#reflector .facts")
    assert "97.0 % held out, 61.8 % in test tasks" in opened.text("#result .facts")
    opened.page.locator("#reflector .more").click()
    assert opened.page.locator(".example").count() == 9


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 390), ("dark", 1280), ("light", 768)])
def test_page_fits_phones_and_dark_mode(browser: Any, invented: Path, scheme: str, width: int) -> None:
    page = Opened(browser, invented, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.overflow() <= 0
    colours = page.page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    paper, ink = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    dark, light = min(paper, ink), max(paper, ink)
    assert dark < 150
    assert light > 600
    assert (paper == dark) == (scheme == "dark")
    assert page.errors == []


@pytest.mark.browser
def test_all_of_the_viewer_can_be_reached_on_a_phone(browser: Any, tmp_path: Path) -> None:
    """A file of rollouts has eight modes with long names."""
    run, rng = invented_run(tmp_path / "run"), np.random.default_rng(0)
    names = [f"evaluate the panel {n}" for n in range(8)]
    run.write_jsonl("evaluation.jsonl", [episode(rng, n, name, True, "Go.") for n, name in enumerate(names)])
    report(run, Context(SETTINGS), Progress())
    page = Opened(browser, run / "report.html", viewport={"width": 360, "height": 800})
    assert all(page.page.get_by_role("button", name=name, exact=True).is_visible() for name in names)
    ends = "(found) => found.map((each) => each.getBoundingClientRect().right)"
    (edge,) = page.page.locator(".viewer").evaluate_all(ends)
    assert max(page.page.locator(".viewer *").evaluate_all(ends)) <= edge


@pytest.mark.browser
def test_empty_run_says_what_is_missing_and_invents_nothing(browser: Any, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "empty")
    assert report(run, Context(Settings.model_validate({})), Progress())["episodes"] == 0
    page = Opened(browser, run / "report.html")
    assert page.errors == []
    for name in ("result", "episodes", "learning", "reflector", "time"):
        assert page.page.locator(f"#{name} .absent").count() == 1
    assert "%" not in page.text("main")


@pytest.mark.browser
def test_half_filled_files_are_accepted(browser: Any, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "half")
    run.write_json("results.json", {"panels": {"test": {"greedy": {"success": 0.5}}}})
    run.write_text("metrics.jsonl", '{"iteration": 0, "success": NaN}\n{"iteration": 1, "kl": Infinity}\n')
    run.write_json("reflector.json", {"kind": "local"})
    step = {"observation": "x", "actions": [f"open {n}" for n in range(40)], "choice": 39}
    run.write_jsonl("evaluation.jsonl", [{"task": "a", "stop": "failure", "steps": [step]}, {"task": "b", "steps": []}])
    run.write_json("manifests/rl.json", {"stage": "rl"})
    run.write_json("guard.json", {"kept": "no reflection", "valid": {"reflection": 0.9, "none": 0.95}})
    run.write_json("compare.json", comparison())
    report(run, Context(SETTINGS), Progress())
    page = Opened(browser, run / "report.html")
    assert page.errors == []
    assert "50.0 %" in page.text(".tile")
    assert "not measured" in page.text(".tile:nth-child(2)")
    assert "28 less likely actions are not shown." in page.text(".mind")


@pytest.mark.browser
def test_comparison_page_draws_every_seed_mean_and_interval(browser: Any, tmp_path: Path) -> None:
    data = comparison()
    RunFolder(tmp_path).write_json("compare.json", data)
    page = Opened(browser, report_compare(tmp_path))
    assert page.errors == []
    assert len(page.requests) == 1
    assert page.page.locator(".regime").count() == 2
    drawing = page.page.locator(".regime").first.locator("svg")
    assert drawing.locator(".seed").count() == 30
    assert drawing.locator(".mean").count() == drawing.locator(".whisker").count() == 6
    assert "horizon 20 · 200 action labels · 2,000 reflection labels" in page.text(".regime")
    best = data["regimes"]["scarce actions"]["arms"]["reflect-rl"]
    row = page.text(".regime table tr:nth-child(5)")
    assert f"{100 * best['success'][0]:.1f}" in row
    assert "validation" in page.text(".regime table tr")
    assert f"{100 * best['valid']['mean']:.1f} %" in row
    phone = Opened(browser, tmp_path / "report.html", viewport={"width": 360, "height": 780})
    assert phone.overflow() <= 0
    assert phone.errors == []


@pytest.mark.browser
def test_panels_and_kinds_of_a_comparison_are_folded_tables(browser: Any, tmp_path: Path) -> None:
    page = Opened(browser, _compared(tmp_path, detailed()))
    assert page.errors == []
    folded = page.page.locator(".regime").first.locator("details.detail")
    assert folded.count() == 3
    assert page.page.locator(".regime").last.locator("details").count() == 0
    folded.first.locator("summary").click()
    assert "9.2" in folded.first.locator("table").inner_text()
    phone = Opened(browser, tmp_path / "report.html", viewport={"width": 360, "height": 780})
    phone.page.locator("details.detail summary").first.click()
    assert phone.overflow() <= 0


@pytest.mark.browser
def test_growing_budgets_of_reflections_are_drawn_as_curves(browser: Any, tmp_path: Path) -> None:
    data = comparison()
    assert "By label budget" not in Opened(browser, _compared(tmp_path / "both", data)).text("main")
    for count, regime in zip((100, 1000), data["regimes"].values(), strict=True):
        regime["labels"] = {"actions": 200, "reflections": count}
        regime["settings"] = {"annotate.reflections": count, "annotate.actions": 200}
        for arm in regime["arms"].values():
            arm["reflector"] = {"mean": 0.5, "interval": [0.4, 0.6]}
    page = Opened(browser, _compared(tmp_path / "reflections", data))
    assert page.errors == []
    curves = page.page.locator(".regime").first
    assert "By label budget" in curves.inner_text()
    assert curves.locator("svg").count() == 3
    assert (
        curves.locator("svg").first.locator(".line").count()
        == curves.locator("svg").first.locator(".band").count()
        == 6
    )
    assert "50.0 %" in page.text(".regime table")
    for regime in data["regimes"].values():
        for arm in regime["arms"].values():
            arm |= {"seeds": [0], "success": arm["success"][:1]}
    page = Opened(browser, _compared(tmp_path / "one", data))
    assert page.page.locator(".regime").first.locator(".line").count() > 0
    assert page.page.locator(".band").count() == 0  # of one seed there is no interval
    data["regimes"]["equal labels"]["settings"]["rl.iterations"] = 12
    assert "By label budget" not in Opened(browser, _compared(tmp_path / "more", data)).text("main")


def _compared(folder: Path, data: dict[str, Any]) -> Path:
    RunFolder(folder).write_json("compare.json", data)
    return report_compare(folder)


def test_same_folder_gives_the_same_bytes_and_a_large_run_stays_small(tmp_path: Path) -> None:
    run, rng = invented_run(tmp_path / "run"), np.random.default_rng(0)
    report(run, Context(SETTINGS), Progress())
    before = (run / "report.html").read_bytes()
    run.write_json("manifests/report.json", manifest("report", 1.0))
    report(run, Context(SETTINGS), Progress())
    assert (run / "report.html").read_bytes() == before

    long = episode(rng, 0, "greedy", True, "word " * 20_000)
    run.write_jsonl("evaluation.jsonl", [long] * 60)
    run.write_jsonl("metrics.jsonl", map(metrics, range(3_000)))
    counts = report(run, Context(SETTINGS), Progress())
    assert counts["bytes"] == (run / "report.html").stat().st_size < 1_000_000
    assert 0 < counts["episodes"] < 60
    assert counts["iterations"] == 3_000
    assert f"{'word ' * (MAX_TEXT // 5)}" in (run / "report.html").read_text(encoding="utf-8")


def test_one_record_that_is_too_large_does_not_hide_those_after_it() -> None:
    large, small = {"steps": ["x" * 90] * 3}, {"steps": ["x"]}
    assert fit([small, large, small, small], 60) == [small, small, small]


@pytest.mark.browser
def test_policy_that_is_kept_is_named_and_has_the_large_dot(browser: Any, tmp_path: Path) -> None:
    run = invented_run(tmp_path)
    for after, named, large in (
        (10, "after 10 of 20 iterations, with 93.2 %", ["3", "6", "3", "3"]),
        (0, "before RL, with 93.2 %", ["3"] * 4),
    ):
        kept = {"iterations": after, "valid_success": 0.932}
        run.write_json("manifests/rl.json", manifest("rl", 1.0) | {"counts": {"kept": kept}})
        report(run, Context(SETTINGS), Progress())
        page = Opened(browser, run / "report.html")
        assert page.errors == []
        assert named in page.text("#learning p.note")
        dots = page.page.locator("#learning .charts").nth(1).locator("svg").first.locator("circle.dot")
        assert [dot.get_attribute("r") for dot in dots.all()] == large
        page.page.close()


@pytest.mark.browser
def test_counts_that_a_stage_has_not_are_left_out_and_intervals_read_as_such(browser: Any, tmp_path: Path) -> None:
    run = invented_run(tmp_path)
    counts = {"agreement_interval": [0.25, 1.0], "kept": None}
    run.write_json("manifests/rl.json", manifest("rl", 1.0) | {"counts": counts})
    report(run, Context(SETTINGS), Progress())
    rows = Opened(browser, run / "report.html").page.locator("#provenance tbody").first.inner_text()
    assert "agreement interval 0.25, 1" in rows
    assert "kept" not in rows


@pytest.mark.browser
def test_results_of_an_earlier_agent_are_told_from_those_of_the_one_that_is_there(
    browser: Any, run: Path, heard: Heard
) -> None:
    folder, told = RunFolder(run), "of an earlier agent"
    for trained_anew in (False, True):
        if trained_anew:
            folder.write_text("policy/generation_config.json", "{}")
        report(folder, Context(read_config(folder)), heard)
        assert (told in Opened(browser, run / "report.html").text("#result")) == trained_anew
    assert [told in text for text in heard.warned] == [True]


def test_damaged_files_are_refused_with_their_name(tmp_path: Path) -> None:
    run = invented_run(tmp_path)
    run.write_text("metrics.jsonl", '{"iteration": 0}\n{"iter')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is damaged at line 2"):
        report(run, Context(SETTINGS), Progress())
    with pytest.raises(RunFolderError, match=r"compare\.json does not exist"):
        report_compare(tmp_path)
