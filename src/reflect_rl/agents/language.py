"""A language model behind a server as the agent: direct choice, ReAct, and Reflexion."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reflect_rl.agents.evaluation import Plan
from reflect_rl.agents.play import Finished, Moved, play
from reflect_rl.agents.player import Game, Move, Played, Player, Turn
from reflect_rl.data.teacher import filled
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.isolated import open_world
from reflect_rl.errors import SettingsError
from reflect_rl.model_servers.answers import (
    begins_with_choice,
    has_single_tokens,
    labels_for,
    read_choice,
    read_thought,
)
from reflect_rl.model_servers.model import ServedModel, check_server
from reflect_rl.model_servers.records import Answer, Ask, Failed, Message
from reflect_rl.progress import Progress
from reflect_rl.records import StopReason
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream_seed
from reflect_rl.settings.server import ServerSettings

PROMPTS = Path(__file__).parent / "prompts"
ANSWERS = "answers.sqlite"
Style = Literal["direct", "react", "reflexion"]
FILES: dict[str, tuple[str, ...]] = {
    "direct": ("direct.txt",),
    "react": ("react.txt",),
    "reflexion": ("react.txt", "reflect.txt"),
}
"""The prompts of each style."""
NEEDED = {
    "direct.txt": ("observation", "choices"),
    "react.txt": ("observation", "choices"),
    "reflect.txt": ("history",),
}
MOST_TOKENS = {"direct": 64, "react": 256, "reflexion": 256}
LESSONS = "Lessons from your earlier tries:\n"
MOST_LESSONS = 3
"""The newest lessons that are told, as in Reflexion (arXiv 2303.11366)."""
WAVES = 4
"""Episodes side by side, as a multiple of the calls in flight, so that a slow answer does not leave the server idle."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """How a language model is asked.

    Attributes:
        style: "direct": for a label; "react": for a thought and an action; "reflexion": as react, in several trials of
            a task, with a reflection after each that fails.
        prompts: the texts of the prompts, by file name.
        trials: how often reflexion tries a task.
        history: maximum past steps shown; None shows all.
        max_tokens: maximum tokens of an answer.
    """

    style: Style
    prompts: Mapping[str, str]
    trials: int = 3
    history: int | None = None
    max_tokens: int = 256

    @classmethod
    def load(
        cls, style: Style, folder: Path | None, trials: int, history: int | None, max_tokens: int | None
    ) -> Prompting:
        """Read the prompts; those in `folder` replace the library's. Raises SettingsError."""
        names = FILES[style]
        own = {name for name in names if folder and (folder / name).is_file()}
        if folder and not own:
            why = f"has none of {', '.join(names)}" if folder.is_dir() else f"is no folder. Name one with {names[0]}"
            raise SettingsError(f"--prompts {folder} {why}.")
        prompts = {name: _read((folder if folder and name in own else PROMPTS) / name) for name in names}
        return cls(style, prompts, trials, history, max_tokens or MOST_TOKENS[style])


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as text: {error}.") from error
    missing = [field for field in NEEDED[path.name] if f"{{{field}}}" not in text]
    if missing:
        raise SettingsError(f"{path} lacks {{{missing[0]}}}, in whose place the {missing[0]} is put.")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePlan(Plan):
    """The evaluation of a language model behind a server."""

    prompting: Prompting
    server: ServerSettings

    @property
    def trials(self) -> int:
        return self.prompting.trials if self.prompting.style == "reflexion" else 1

    def identity(self) -> dict[str, Any]:
        prompting = self.prompting
        texts = "\0".join(f"{name}\0{text}" for name, text in sorted(prompting.prompts.items()))
        return {
            **Plan.about(self),
            "style": prompting.style,
            "history": prompting.history,
            "max_tokens": prompting.max_tokens,
            **({"trials": self.trials} if self.trials > 1 else {}),  # no lesson is written after the last one
            "prompts": hashlib.sha256(texts.encode()).hexdigest(),
            "temperature": self.server.temperature,
            "extra": self.server.extra,
            "task_text": self.settings.prompt.task,
            **self._played_on(),
        }

    def about(self) -> dict[str, Any]:
        known = self.identity()
        names = ("style", "history", "max_tokens", "temperature", "prompts")
        style = {name: known[name] for name in names} | {"trials": self.trials}
        return {**Plan.about(self), "prompting": style}

    def check(self, world: TextEnv) -> None:
        if self.workers > 1:
            raise SettingsError(
                "--workers is for agents that act on this machine. A language model's requests go out side by side: "
                "set --server.concurrency."
            )
        check_server(self.server)

    def play(
        self,
        run: RunFolder,
        world: TextEnv,
        games: Sequence[Game],
        finished: Finished,
        moved: Moved,
        progress: Progress,
    ) -> None:
        task = self.settings.prompt.task or world.task_text
        with ServedModel(self.server, run / ANSWERS, progress) as model:
            player = LanguagePlayer(model, self.prompting, task, self.trials, progress)
            env = self.settings.env
            play(player, lambda: open_world(env), games, finished, moved, env.processes)
            meter = model.meter
            cost = "" if meter.usd is None else f", {meter.usd:.4f} USD"
            progress.say(
                f"{self.server.model}: {meter.calls:,} answers, {meter.prompt_tokens:,} tokens read and "
                f"{meter.completion_tokens:,} written{cost}"
            )


class LanguagePlayer(Player):
    """Asks the model for a move in all episodes at once.

    An answer that names no single choice, or that the server refuses to give, is no move.
    """

    def __init__(
        self, model: ServedModel, prompting: Prompting, task: str, trials: int = 1, progress: Progress | None = None
    ) -> None:
        self.model = model
        self.progress = progress or Progress()
        self._told = False
        self.prompting = prompting
        self.task = task
        self.trials = trials
        self.num_envs = WAVES * model.settings.concurrency

    def moves(self, turns: Sequence[Turn]) -> list[Move]:
        answers = self.model.ask([self._ask(turn) for turn in turns])
        self._warn_of_long_prompts(answers)
        read = self._direct if self.prompting.style == "direct" else self._react
        return [read(turn, answer) for turn, answer in zip(turns, answers, strict=True)]

    def _warn_of_long_prompts(self, answers: Sequence[Answer | Failed]) -> None:
        """Warn once: the model's success is that of the first action wherever it could not read the prompt."""
        long = [answer.reason for answer in answers if isinstance(answer, Failed) and not answer.final]
        if long and not self._told:
            self._told = True
            self.progress.warn(
                f"A prompt was {long[0]}. Wherever that happens, the first action is taken, and counted as invalid. "
                f"Stop, and show fewer steps with --history, or begin anew with a longer context at the server."
            )

    def end(self, played: Sequence[Played]) -> list[dict[str, Any]]:
        """After a failed trial that is not the last one, the model writes a lesson for the next."""
        told: list[dict[str, Any]] = [{} for _ in played]
        failed = [place for place, each in enumerate(played) if not each.success and each.stop != StopReason.LOST]
        again = [place for place in failed if played[place].game.trial < self.trials]
        answers = self.model.ask([self._ask_lesson(played[place]) for place in again]) if again else []
        for place, answer in zip(again, answers, strict=True):
            text = answer.text if isinstance(answer, Answer) else ""
            told[place] = {"lesson": text.strip(), **_usage(answer)}
        return told

    def _ask(self, turn: Turn) -> Ask:
        state, style, game = turn.state, self.prompting.style, turn.game
        labels = labels_for(len(state.actions))
        thoughts = state.reflections if style != "direct" else [""] * len(state.history)
        steps = [(seen, thought, act) for (seen, act), thought in zip(state.history, thoughts, strict=True)]
        messages = self._messages(
            "direct.txt" if style == "direct" else "react.txt",
            lessons=_lessons(game),
            history=self._history(steps),
            observation=state.observation,
            choices="\n".join(f"{label}) {action}" for label, action in zip(labels, state.actions, strict=True)),
        )
        scored = tuple(labels) if style == "direct" and has_single_tokens(labels) else ()
        return Ask(messages, self.prompting.max_tokens, scored, self._sample(game, len(state.history)))

    def _ask_lesson(self, played: Played) -> Ask:
        steps = [(step["observation"], step["reflection"], step["actions"][step["choice"]]) for step in played.steps]
        text = self._history(steps)
        messages = self._messages("reflect.txt", lessons=_lessons(played.game), history=text, stop=played.stop)
        return Ask(messages, self.prompting.max_tokens, (), self._sample(played.game, len(steps)))

    def _sample(self, game: Game, step: int) -> int:
        """Sampled answers differ between episodes and steps; greedy ones depend on the prompt alone."""
        return stream_seed(game.seed, "answer", game.trial, step) if self.model.settings.temperature else 0

    def _messages(self, name: str, **fields: str) -> tuple[Message, ...]:
        """A prompt as messages: what stands above the line "---" is the system's.

        Paragraphs for which there is nothing to say are left out.
        """
        above, found, below = self.prompting.prompts[name].partition("\n---\n")
        parts = [("system", above), ("user", below)] if found else [("user", above)]
        shown = {"task": self.task, **{field: text or None for field, text in fields.items()}}
        return tuple(Message(role, filled(text, shown).strip()) for role, text in parts)

    def _history(self, steps: Sequence[tuple[str, str | None, str]]) -> str:
        """The last steps as text: what was seen, thought and done."""
        most = self.prompting.history
        shown = steps if most is None else steps[-most:] if most else ()
        lines = [
            part
            for seen, thought, action in shown
            for part in (seen, f"Thought: {thought}" if thought else "", f"Action: {action}")
        ]
        return "\n".join(line for line in lines if line)

    def _direct(self, turn: Turn, answer: Answer | Failed) -> Move:
        """The most probable label, if the server gives probabilities of a first token that is a label.

        Else the choice that the answer names: the first token may be a word, such as "I".
        """
        actions, labels = turn.state.actions, labels_for(len(turn.state.actions))
        if isinstance(answer, Failed) or not answer.logprobs or not begins_with_choice(answer.text, actions, labels):
            return self._move(answer, _text(answer), turn, None)
        most = max(answer.logprobs.values())
        shares = {label: math.exp(value - most) for label, value in answer.logprobs.items()}
        total = sum(shares.values())
        choice = max(range(len(actions)), key=lambda index: shares.get(labels[index], 0.0))
        more = {
            "said": _text(answer),
            "log_prob": math.log(shares[labels[choice]] / total),
            "probabilities": [round(shares.get(label, 0.0) / total, 6) for label in labels],
        }
        return Move(choice, None, more | _usage(answer))

    def _react(self, turn: Turn, answer: Answer | Failed) -> Move:
        if isinstance(answer, Failed):
            return self._move(answer, "", turn, "")
        thought, action = read_thought(_text(answer))
        return self._move(answer, action, turn, thought)

    @staticmethod
    def _move(answer: Answer | Failed, named: str, turn: Turn, thought: str | None) -> Move:
        actions = turn.state.actions
        choice = read_choice(named, actions, labels_for(len(actions))) if isinstance(answer, Answer) else None
        return Move(choice, thought, {"said": _text(answer), **_usage(answer)})


def _lessons(game: Game) -> str:
    return LESSONS + "\n".join(f"- {lesson}" for lesson in game.lessons[-MOST_LESSONS:]) if game.lessons else ""


def _text(answer: Answer | Failed) -> str:
    return answer.text if isinstance(answer, Answer) else f"[no answer: {answer.reason}]"


def _usage(answer: Answer | Failed) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "usd": answer.usd,  # None: not known
    }
