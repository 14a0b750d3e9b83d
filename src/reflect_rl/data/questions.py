"""Questions about source files, written by a language model behind a server: the paper's way to AutoExplore's tasks.

A question that a filter drops is asked for once more. What the model answers is only ever read as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Self

from reflect_rl.data.teacher import filled, shipped_prompt
from reflect_rl.envs.autoexplore.build import Reason, Source, Written
from reflect_rl.model_servers.model import ServedModel
from reflect_rl.model_servers.records import Ask, Estimate, Message
from reflect_rl.model_servers.usable import Unusable, ask_usable
from reflect_rl.progress import Progress
from reflect_rl.settings.server import ServerSettings

SHOWN = 6000
"""Characters of a file that the model reads."""
LONGEST = 400
"""Tokens of an answer; models that reason need some."""


class QuestionWriter:
    """Asks a language model for a question on each source file: an `Author` for `find_tasks`. A context manager.

    Args:
        settings: The server and the model.
        store: An SQLite file of answers, so that nothing is paid for twice; None keeps them in memory.
        prompt: The prompt, with the placeholders {source} and {forbidden}; empty for the one that ships.
        progress: Shows a bar.

    Raises:
        SettingsError: See `ServedModel`.
    """

    def __init__(self, settings: ServerSettings, store: Path | None, prompt: str, progress: Progress) -> None:
        self._prompt = prompt or shipped_prompt("autoexplore", "question")
        self._progress = progress
        self._model = ServedModel(settings, store, progress)

    def __call__(self, sources: Sequence[Source], reason: Reason) -> list[Written]:
        """A question for each source. Raises ServerError or BudgetError: see `ServedModel.ask`."""

        def read(index: int, text: str) -> str:
            question = question_in(text)
            if why := reason(index, question):
                raise Unusable(why)
            return question

        with self._progress.bar("ask", len(sources), "questions") as bar:
            found, reasons = ask_usable(self._model, [self._ask(source) for source in sources], read, bar)
        return [Written(question or "", reasons.get(index, "")) for index, question in enumerate(found)]

    def estimate(self, sources: Sequence[Source]) -> Estimate:
        """What the questions would cost, without those that are stored."""
        return self._model.estimate(self._ask(source) for source in sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close()

    def _ask(self, source: Source) -> Ask:
        shown = {"source": source.text[:SHOWN], "forbidden": ", ".join(forbidden(source.path)) or None}
        return Ask((Message("user", filled(self._prompt, shown)),), LONGEST)


def question_in(text: str) -> str:
    """The question in an answer: its last line that is not empty, without what is written around it."""
    line = text.strip().splitlines()[-1]
    line = re.sub(r"^\W*question\W*:", "", line, flags=re.IGNORECASE)
    return " ".join(line.strip(" \t\"'`*_").split())


def forbidden(path: str) -> list[str]:
    """The words of a path, of which none may stand in its question."""
    return list(dict.fromkeys(re.findall(r"[a-z]{3,}", str(PurePosixPath(path).with_suffix("")).lower())))
