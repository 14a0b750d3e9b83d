"""The served teacher: a language model that writes reflections on the states of a pool, and labels their actions.

Its prompts are text files. A paragraph that names something unknown in this state, such as {mistake} where nothing went
wrong, is left out. What the model answers is only ever read as text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from reflect_rl.data.pool import PoolState
from reflect_rl.model_servers.answers import named_actions, words_of
from reflect_rl.model_servers.model import ServedModel
from reflect_rl.model_servers.records import Ask, Estimate, Message
from reflect_rl.model_servers.usable import Unusable, ask_usable
from reflect_rl.players.context import Context
from reflect_rl.progress import Bar, Progress
from reflect_rl.runs.folder import RunFolder

ANSWERS = "teacher.sqlite"
"""The file of a run folder that keeps every answer."""
PROMPTS = Path(__file__).parent / "prompts"
INSTRUCTIONS = "go|move|head|drive|walk|turn|choose|take|do|try|use|pick|select|action|next|should|must"
"""Words after which the name of an action is advice to take it."""

Found = TypeVar("Found")


class ServedTeacher:
    """Asks a language model for the labels of a pool. A context manager.

    failed: reasons why labels could not be had, with their numbers. meter: calls, tokens and cost. Raises
    SettingsError: see `ServedModel`.
    """

    def __init__(self, run: RunFolder, context: Context, progress: Progress, store: bool = True) -> None:
        settings = context.settings
        self.settings = settings.teacher
        self.failed: Counter[str] = Counter()
        self._task = settings.prompt.task or context.world.task_text
        self._prompts = {
            "reflect": self.settings.reflect or shipped_prompt(settings.env.name, "reflect"),
            "act": self.settings.act or shipped_prompt(settings.env.name, "act"),
        }
        self._model = ServedModel(self.settings, run / ANSWERS if store else None, progress)
        self.meter = self._model.meter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close()

    def reflect(self, entries: Sequence[PoolState], bar: Bar) -> list[str | None]:
        """A reflection on each state; None where none could be used. Raises ServerError."""
        return self._asked(self.asks("reflect", entries), lambda index, text: self._note(entries[index], text), bar)

    def act(self, entries: Sequence[PoolState], bar: Bar) -> list[int | None]:
        """The index of an action in each state; None where none was named. Raises ServerError."""
        return self._asked(self.asks("act", entries), lambda index, text: choice_in(entries[index], text), bar)

    def asks(self, kind: str, entries: Iterable[PoolState]) -> list[Ask]:
        """The calls that ask for reflections ("reflect") or actions ("act")."""
        limit = self.settings.max_tokens
        return [Ask((Message("user", filled(self._prompts[kind], self._shown(entry))),), limit) for entry in entries]

    def estimate(self, asks: Iterable[Ask]) -> Estimate:
        """What these calls would cost, without those that are stored."""
        return self._model.estimate(asks)

    def counts(self) -> dict[str, Any]:
        """Figures for the manifest."""
        meter = self.meter
        return {
            "teacher_calls": meter.calls,
            "teacher_prompt_tokens": meter.prompt_tokens,
            "teacher_completion_tokens": meter.completion_tokens,
            "teacher_usd": meter.usd,
            "teacher_failed": dict(sorted(self.failed.items())),
        }

    def _shown(self, entry: PoolState) -> dict[str, str | None]:
        """The placeholders of a prompt; None is unknown."""
        state = entry.state
        past = state.history[-self.settings.history :] if self.settings.history else ()
        hint = " or ".join(f'"{state.actions[index]}"' for index in entry.wanted) if self.settings.hint else ""
        return {
            "task": self._task,
            "history": "\n".join(f"{observation}\n> {action}" for observation, action in past) or None,
            "notes": "\n".join(f"- {note}" for note in state.reflections) or None,
            "observation": state.observation,
            "actions": "\n".join(f"- {action}" for action in state.actions),
            "mistake": entry.mistake,
            "expert": hint or None,
            "words": str(self.settings.max_words),
        }

    def _asked(self, asks: Sequence[Ask], read: Callable[[int, str], Found], bar: Bar) -> list[Found | None]:
        """What is read in the answers. Answers that cannot be used are asked for once more."""
        found, reasons = ask_usable(self._model, asks, read, bar)
        self.failed.update(reasons.values())
        return found

    def _note(self, entry: PoolState, text: str) -> str:
        note = " ".join(text.split())
        if len(note.split()) > self.settings.max_words:
            raise Unusable("too long")
        if self.settings.hint and entry.wanted and gives_away(note, entry):
            raise Unusable("gives the hint away")
        return note


def shipped_prompt(world: str, kind: str) -> str:
    """The text of the prompt that ships for a world; a general one for other worlds."""
    folder = world if (PROMPTS / world).is_dir() and world.isidentifier() else "generic"
    return (PROMPTS / folder / f"{kind}.txt").read_text(encoding="utf-8").strip()


def filled(prompt: str, shown: Mapping[str, str | None]) -> str:
    """A prompt with its placeholders filled in, without the paragraphs that name an unknown one."""
    named = re.compile(rf"\{{({'|'.join(shown)})\}}")
    paragraphs = [
        named.sub(lambda match: shown[match[1]] or "", paragraph)
        for paragraph in re.split(r"\n\s*\n", prompt)
        if all(shown[name] is not None for name in named.findall(paragraph))
    ]
    return "\n\n".join(paragraphs)


def choice_in(entry: PoolState, text: str) -> int:
    """The index of the one action that a text names. Raises Unusable."""
    actions = entry.state.actions
    if text in actions:
        return actions.index(text)
    named = named_actions(text, actions)
    if len(named) != 1:
        raise Unusable("names several actions" if named else "names no action")
    return named.pop()


def gives_away(note: str, entry: PoolState) -> bool:
    """Whether a note tells of the hint, or the only action that it tells to take is one of the expert's.

    An action of one word, such as "south", is told to be taken only after a word such as "go"; elsewhere it describes.
    """
    if re.search(r"\b(hint|expert|perfect (player|driver|robot))", note.lower()):
        return True
    actions, said = entry.state.actions, words_of(note)
    told = {
        index
        for index in named_actions(note, actions)
        if len(word := words_of(actions[index]).split()) > 1
        or re.search(rf" ({INSTRUCTIONS})( \w+){{0,2}} {re.escape(word[0])} ", said)
    }
    told -= {index for index in told if actions[index] == entry.mistake}
    return len(told) == 1 and told <= set(entry.wanted)
