"""ALFWorld's own engine in a process of its own: it plays, and whatever goes wrong in it is one clear message."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alfworld_games import PLACE, folder_data, needs_data, needs_real_engine, small_games
from reflect_rl.envs.alfworld import real_process
from reflect_rl.envs.alfworld.handcoded import play_handcoded
from reflect_rl.envs.alfworld.real import RealAlfred, RealEngineError, RealProcess

TWO_CLOCKS = "train/pick_two_obj_and_place-AlarmClock-None-Dresser-318/trial_T20190908_032459_936721"
GRAMMAR = '{"task": [{"rhs": "Your task is to: put a mug in shelf."}], "intro": [{"rhs": "{1 + 1}"}]}'


def game_file(**changes: Any) -> Any:
    """A game that never reaches an engine."""
    traj = {"task_type": "pick_and_place_simple", "pddl_params": {"object_target": "Mug"}}
    given = {"id": "train/a/b", "problem": "", "domain": "d", "grammar": GRAMMAR, "traj": traj, "walkthrough": None}
    return SimpleNamespace(**given | changes)


@pytest.fixture(scope="module")
def process() -> Iterator[RealProcess]:
    """One engine for the whole file: starting it takes a second or two."""
    process = RealProcess(timeout=120)
    yield process
    process.close()


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_process, "find_spec", lambda name: None)
    with pytest.raises(RealEngineError, match=r'missing: textworld, alfworld, .* pip install "reflect-rl\[alfworld\]"'):
        RealAlfred(game_file())


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"grammar": "old"}, "no grammar 'old'; there are: move, put"),
        ({}, {"grammar": "put"}, "not ALFWorld's.*as Python code.*trust_rules=True"),
        ({"grammar": None}, {"grammar": "put"}, "carries no rules of its own"),
        ({"grammar": GRAMMAR.replace("mug", "{exit()}")}, {"grammar": "put"}, "not ALFWorld's.*as Python code"),
        ({"traj": {"pddl_params": {"object_target": "{exit()}"}}}, {}, r"object_target is '\{exit\(\)\}'"),
    ],
)
def test_no_file_has_the_engine_run_code_of_its_own(changes: Any, options: Any, words: str) -> None:
    with pytest.raises(RealEngineError, match=words):
        RealAlfred(game_file(**changes), **options)


@needs_data
@needs_real_engine
class TestEngine:
    def game(self, **changes: Any) -> Any:
        return replace(folder_data().load(small_games()[0]), **changes)

    def test_it_plays_a_game_in_both_grammars_and_the_seed_decides_the_names(self, process: RealProcess) -> None:
        texts = {}
        for grammar, seed in (("move", 0), ("move", 0), ("move", 1), ("put", 0)):
            game = RealAlfred(self.game(), grammar=grammar, seed=seed, shuffle=True, process=process)
            text = game.reset()
            assert text.startswith("-= Welcome to TextWorld, ALFRED! =-")
            assert text.endswith(f"Your task is to: {game.task}")
            assert (game.won, game.score, game.done, game.steps) == (False, 0, False, 0)
            assert texts.setdefault((grammar, seed), text) == text
            assert list(game.admissible) == sorted(game.admissible)
        assert len(set(texts.values())) == 3
        before = game.admissible
        assert game.step("fly to the moon\n\x00\ud800") == "Nothing happens."
        assert game.admissible == before
        assert game.step(f" {before[0]} ") != "Nothing happens."
        assert game.steps == 2
        assert game.reset() == text

    def test_a_game_that_carries_the_newer_rules_keeps_its_own_task_sentence(self, process: RealProcess) -> None:
        spec = find_spec("alfworld")
        assert spec is not None
        assert spec.origin is not None
        rules = Path(spec.origin).parent / "data"
        grammar = (rules / "alfred.twl2").read_text().replace("UNKNOWN GOAL", "juggle with a mug")
        game = self.game(domain=(rules / "alfred.pddl").read_text(), grammar=grammar)
        assert RealAlfred(game, process=process).reset().endswith("Your task is to: juggle with a mug.")
        with pytest.raises(RealEngineError, match="Play it with grammar='move'"):
            RealAlfred(game, grammar="put", process=process)

    @pytest.mark.parametrize("problem", ["", "(define", "(define (problem p) (:domain alfred) (:init (frob x)))"])
    def test_a_malformed_game_is_refused_and_the_process_plays_on(self, process: RealProcess, problem: str) -> None:
        with pytest.raises(RealEngineError, match="refused to load the game"):
            RealAlfred(self.game(problem=problem), process=process)
        assert process.alive

    def test_exit_called_by_the_engine_is_reported(self, process: RealProcess) -> None:
        problem = self.game().problem.replace("(:init", "(:init (= (totalCost) frob)", 1)
        with pytest.raises(RealEngineError, match=r"refused to load .*\(SystemExit: Illegal assignment"):
            RealAlfred(self.game(problem=problem), process=process)

    def test_a_killed_engine_is_one_message_and_the_next_reset_starts_another(self, process: RealProcess) -> None:
        game = RealAlfred(self.game(), process=process)
        text = game.reset()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(RealEngineError, match=r"ended \(exit code -9\) at a step"):
            game.step("look")
        with pytest.raises(RealEngineError, match=r"Call reset\(\)"):
            game.step("look")
        assert game.reset() == text

    def test_a_slow_engine_is_ended_and_leaves_no_process(self) -> None:
        process = RealProcess(timeout=0.01)
        with pytest.raises(RealEngineError, match=r"did not load within 0\.01 seconds"):
            RealAlfred(self.game(), process=process)
        assert not process.alive
        process.close()
        assert not process.folder.exists()

    def test_closing_ends_the_process_for_good(self) -> None:
        game = RealAlfred(self.game())
        pid = game._process.pid
        assert pid is not None
        game.close()
        game.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_another_game_in_the_same_process_takes_it_over(self, process: RealProcess) -> None:
        first = RealAlfred(self.game(), process=process)
        text = first.reset()
        RealAlfred(folder_data().load(small_games()[1]), process=process)
        with pytest.raises(RealEngineError, match="without a game under way"):
            first.step("look")
        assert first.reset() == text

    def test_the_shipped_handcoded_expert_loses_two_objects_that_the_fixed_one_places(
        self, process: RealProcess
    ) -> None:
        if TWO_CLOCKS not in folder_data().ids:
            pytest.skip(f"the game {TWO_CLOCKS} is not at {PLACE}")
        game = folder_data().load(TWO_CLOCKS)
        outcomes = {
            (variant, grammar): play_handcoded(game, variant, grammar=grammar, process=process, max_steps=20)
            for variant, grammar in (("shipped", "move"), ("fixed", "move"), ("fixed", "put"))
        }
        assert {key: episode.won for key, episode in outcomes.items()} == {
            ("shipped", "move"): False,
            ("fixed", "move"): True,
            ("fixed", "put"): True,
        }
        assert any(command.startswith("put ") for command in outcomes["fixed", "put"].commands)


def test_unknown_experts_and_patched_engines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RealEngineError, match="there are: shipped, fixed"):
        play_handcoded(game_file(), "clever")
    monkeypatch.setattr(real_process, "find_spec", lambda name: name)
    with pytest.raises(RealEngineError, match="not on a patched one"):
        play_handcoded(game_file(), process=RealProcess(patched=True))
