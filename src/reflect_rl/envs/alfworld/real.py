"""RealAlfred: ALFWorld's own engine (textworld and alfworld, unmodified) behind the interface of the fast one.

It is what `verify` compares with, and the engine to use for rules that the fast one does not know. It needs the extra
`reflect-rl[alfworld]`. Steps take about 0.1 s and loading some seconds: for anything but comparisons take FastAlfred.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from reflect_rl.envs.alfworld.game import GameFile, read_game
from reflect_rl.envs.alfworld.real_process import RealEngineError, RealProcess
from reflect_rl.envs.alfworld.rules import GRAMMARS, known_grammar

__all__ = ["RealAlfred", "RealEngineError", "RealProcess"]

TASK = re.compile(r"Your task is to: (.*?)(?:\n|$)")
PARAMETER = re.compile(r"[A-Za-z0-9_]*")


class RealAlfred:
    """One game on ALFWorld's own engine, in a process of its own.

    game_file: the path of a game.tw-pddl with its traj_data.json beside it, or a GameFile.
    grammar: "put" plays by the game's own, older rules. "move" plays by the newer ones: the game's own if it carries
        them (with its own task sentence), else those of the installed alfworld package.
    seed: what the engine's generator starts from, before it draws the task's wording and shuffles names.
    shuffle: give out the numbers in names in a random order (alfworld's domain randomisation).
    expert: "shipped" or "fixed" has the handcoded expert watch the game and say its next command (`self.expert`).
    process: an engine process to play in, kept open afterwards, for many games in turn; else one of its own.
    trust_rules: allow a game's own rules even when they are not those of the released games. The engine evaluates
        expressions in them as Python code: only for files whose origin you trust.

    Raises RealEngineError: packages missing, rules unknown, game malformed, engine crashed, `timeout` seconds passed.
    """

    def __init__(
        self,
        game_file: str | Path | GameFile,
        *,
        grammar: str = "move",
        seed: int = 0,
        shuffle: bool = False,
        expert: str | None = None,
        process: RealProcess | None = None,
        timeout: float = 120.0,
        trust_rules: bool = False,
    ) -> None:
        if grammar not in GRAMMARS:
            raise RealEngineError(f"There is no grammar {grammar!r}; there are: {', '.join(GRAMMARS)}.")
        game = read_game(game_file) if isinstance(game_file, str | Path) else game_file
        own_rules = _plays_own_rules(game, grammar, trust_rules)
        self._files = _game_files(game, own_rules)
        self._load = {"installed": not own_rules, "seed": seed, "shuffle": shuffle, "expert": expert}
        self._own = process is None
        self._process = process or RealProcess(timeout=timeout)
        self._started = False
        self.task, self.steps = "", 0
        self.admissible: tuple[str, ...] = ()
        self.won, self.done, self.score = False, False, 0
        self.expert: str | None = None
        """The next command of the handcoded expert, if one was asked for."""
        self.gave_up: str | None = None
        """Why the handcoded expert gave up, if it did."""
        try:
            self._ensure_loaded()
        except RealEngineError:
            self.close()
            raise

    def reset(self) -> str:
        """Begin anew: the intro, with the task. A new process takes over if the last one ended."""
        self._ensure_loaded()
        text = self._ask(do="reset")
        self._started, self.steps = True, 0
        found = TASK.search(text)
        self.task = found[1] if found else ""
        return text

    def step(self, command: str) -> str:
        """The engine's answer to a command, admissible or not."""
        if not self._started or self._process.player is not self:
            raise RealEngineError("step() was called without a game under way. Call reset() to begin one.")
        text = self._ask(do="step", command=command)
        self.steps += 1
        return text

    def close(self) -> None:
        """Let go of the game, and of the process if it is this game's own. Safe to call twice."""
        self._started = False
        if self._own:
            self._process.close()

    def _ensure_loaded(self) -> None:
        if self._process.alive and self._process.player is self:
            return
        for name, text in self._files.items():
            (self._process.folder / name).write_text(text, encoding="utf-8")
        self._ask(do="load", folder=str(self._process.folder), **self._load)
        self._process.player = self

    def _ask(self, **request: Any) -> str:
        """Send a request, and take over the state it leads to; the engine's text."""
        try:
            state = self._process.ask(**request)
        except RealEngineError:
            self._started = False
            raise
        self.admissible = tuple(state.get("admissible", ()))
        self.won, self.done, self.score = bool(state.get("won")), bool(state.get("done")), int(state.get("score", 0))
        self.expert, self.gave_up = state.get("expert"), state.get("gave_up")
        return state.get("feedback", "")


def _plays_own_rules(game: GameFile, grammar: str, trust_rules: bool) -> bool:
    """Whether the game is played by rules of its own; raises RealEngineError for rules that must not be played."""
    own = bool(game.domain and game.grammar)
    known = known_grammar(game.grammar or "") if own else None
    if grammar == "move":
        return known == "move"
    if not own:
        raise RealEngineError(
            f"The game {game.id} carries no rules of its own, so that it cannot be played with grammar='put'. Use "
            f"grammar='move', or a game.tw-pddl file of ALFWorld's release."
        )
    if known == "move":
        raise RealEngineError(f"The game {game.id} carries the newer rules. Play it with grammar='move'.")
    if known is None and not trust_rules:
        raise RealEngineError(
            f"The game {game.id} carries a grammar that is not ALFWorld's. Its own engine would run expressions in it "
            f"as Python code. If you trust the file, say trust_rules=True."
        )
    return True


def _game_files(game: GameFile, own_rules: bool) -> dict[str, str]:
    """The texts of game.tw-pddl and traj_data.json; raises RealEngineError for what it would evaluate."""
    for name, value in game.traj.get("pddl_params", {}).items():
        if isinstance(value, str) and not PARAMETER.fullmatch(value):
            raise RealEngineError(f"In the trajectory of {game.id}, {name} is {value!r}; it should be a plain name.")
    domain, grammar = (game.domain, game.grammar) if own_rules else ("", "")
    whole = {"pddl_domain": domain, "grammar": grammar, "pddl_problem": game.problem, "walkthrough": game.walkthrough}
    texts = {"game.tw-pddl": whole, "traj_data.json": game.traj}
    return {name: json.dumps(content, allow_nan=False) for name, content in texts.items()}
