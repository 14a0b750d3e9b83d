"""The comparison of engines finds what differs and only that, and a sweep can be cut off anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alfworld_games import folder_data, needs_data, needs_real_engine, small_games
from reflect_rl.envs.alfworld.real import RealAlfred, RealEngineError, RealProcess
from reflect_rl.envs.alfworld.sweep import Total, read_reports, sweep
from reflect_rl.envs.alfworld.verify import Difference, Plan, Report, verify
from reflect_rl.envs.alfworld.walk import Walk
from reflect_rl.seeding import stream


class Room:
    """All that a walk looks at."""

    admissible = ("go to bed 1", "go to desk 1", "inventory", "look", "take pen 1 from desk 1")


@pytest.fixture(scope="module")
def patched() -> Iterator[RealProcess]:
    process = RealProcess(patched=True)
    yield process
    process.close()


@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_walks_depend_on_their_seed_alone(seed: int, invalid: float, guided: float) -> None:
    room: Any = Room()
    options: dict[str, Any] = {"invalid": invalid, "guided": guided, "guide": lambda game: ["look", "inventory"]}
    first, second = (Walk(stream(seed, "walk"), **options) for _ in range(2))
    assert [first.next(room) for _ in range(30)] == [second.next(room) for _ in range(30)]


def test_the_share_of_invalid_commands_is_what_was_asked_for_and_no_verb_drowns_the_others() -> None:
    room: Any = Room()
    walk = Walk(stream(0, "walk"), invalid=0.2)
    commands = [walk.next(room) for _ in range(5000)]
    valid = [command for command in commands if command in room.admissible]
    assert 0.15 < 1 - len(valid) / len(commands) < 0.2  # now and then a spoilt command is admissible after all
    assert all(0.2 < valid.count(each) / len(valid) < 0.3 for each in ("inventory", "look", "take pen 1 from desk 1"))


def test_a_guide_is_followed_while_its_plan_fits() -> None:
    room: Any = Room()
    walk = Walk(stream(1, "walk"), invalid=0, guided=1, guide=lambda game: ["inventory", "look"])
    commands = [walk.next(room) for _ in range(100)]
    assert commands.count("inventory") + commands.count("look") == 100
    lost = Walk(stream(1, "walk"), invalid=0, guided=1, guide=lambda game: [])
    assert {lost.next(room) for _ in range(200)} == set(room.admissible)


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"invalid": 2.0}, {"grammars": ("old",)}, {"shuffle": "maybe"}])
def test_an_impossible_plan_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RealEngineError, match=next(iter(wrong))):
        Plan(**wrong)


def test_reports_of_another_plan_are_not_mixed_in(tmp_path: Path) -> None:
    file = tmp_path / "reports.jsonl"
    file.write_text('{"plan": {"steps": 3}}\n')
    with pytest.raises(RealEngineError, match="another plan"):
        next(sweep(file, ["a"], Plan(), load=None))
    file.write_text("something else\n")
    with pytest.raises(RealEngineError, match="not a file of reports"):
        next(sweep(file, ["a"], Plan(), load=None))


def test_totals_add_up() -> None:
    total = Total()
    total.add(Report("a", states=10, real_steps=8, real_step_seconds=2.0))
    total.add(Report("b", states=5, differences=[Difference("move", False, 1, "look", "won", True, False)]))
    assert (total.games, total.same, total.states, total.differences) == (2, 1, 15, 1)
    assert total.real_steps_per_second == 4


@needs_data
@needs_real_engine
class TestEngines:
    def test_the_shortcuts_change_no_text_and_a_cut_sweep_goes_on(self, patched: RealProcess, tmp_path: Path) -> None:
        """The unmodified engine against the patched one: the proof that `patched=True` may be used."""
        games = small_games()
        plan = Plan(steps=12, guided=0)
        file = tmp_path / "reports.jsonl"

        def fast(game: Any, **options: Any) -> Any:
            return RealAlfred(game, process=patched, **options)

        options: dict[str, Any] = {"load": folder_data().load, "fast": fast}
        first = next(sweep(file, games, plan, **options))
        with file.open("a") as stream:
            stream.write('{"game": "cut o')
        reports = list(sweep(file, games, plan, **options))
        assert reports[0] == first
        assert [report.game for report in reports] == list(games)
        assert all(report.same and report.states == 26 for report in reports)
        assert set(read_reports(file, plan)) == set(games)
        assert len(file.read_text().splitlines()) == 3

    @pytest.mark.parametrize("what", ["feedback", "admissible", "won"])
    def test_a_difference_is_told_with_its_place(self, patched: RealProcess, what: str) -> None:
        class Spoilt(RealAlfred):
            def step(self, command: str) -> str:
                text = super().step(command)
                if self.steps == 2:
                    self.admissible = ("look",) if what == "admissible" else self.admissible
                    self.won = True if what == "won" else self.won
                    return text + " " if what == "feedback" else text
                return text

        own = RealProcess(patched=True)
        plan = Plan(grammars=("move",), steps=3, guided=0, patched=True)
        load, games = folder_data().load, small_games()[:1]
        [report] = verify(load, games, plan, fast=lambda game, **options: Spoilt(game, process=own, **options))
        own.close()
        [difference] = report.differences
        assert (difference.what, difference.step, difference.grammar) == (what, 2, "move")
        assert difference.command
        assert difference.fast != difference.real
        assert not report.same
        json.dumps(difference.real)

    def test_a_game_that_the_engine_refuses_is_an_error_of_that_game_alone(self, patched: RealProcess) -> None:
        data = folder_data()
        broken, whole = small_games()

        def load(game_id: str) -> Any:
            from dataclasses import replace

            game = data.load(game_id)
            return replace(game, problem="(define") if game_id == broken else game

        plan = Plan(grammars=("move",), steps=1, guided=0, patched=True)
        fast: Any = lambda game, **options: RealAlfred(game, process=patched, **options)  # noqa: E731
        first, second = verify(load, [broken, whole], plan, fast=fast)
        assert "refused to load" in first.errors[0]
        assert second.same

    @pytest.mark.parametrize("grammars", [("move",), ("put",)])
    def test_the_fast_engine_is_the_real_one(self, grammars: tuple[str, ...]) -> None:
        pytest.importorskip("reflect_rl.envs.alfworld.engine", reason="the fast engine is not there")
        kinds = ("pick_heat", "look_at")
        games = [small_games(kind, 1)[0] for kind in kinds]
        reports = list(verify(folder_data().load, games, Plan(grammars=grammars, steps=25, patched=True)))
        assert [(report.differences, report.errors) for report in reports] == [([], [])] * len(games)
        assert sum(report.states for report in reports) == 26 * len(games)
