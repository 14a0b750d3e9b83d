"""A reflector behind a model server."""

from __future__ import annotations

from collections.abc import Sequence

from reflect_rl.lm.chat import ChatFrames
from reflect_rl.memo import Memo
from reflect_rl.model_servers.model import ServedModel
from reflect_rl.model_servers.records import Answer, Ask, Failed, Message
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.players.reflector import Keep, ModelReflector
from reflect_rl.progress import Progress
from reflect_rl.settings import ReflectorSettings

UNFRAMED = ChatFrames("", "", "", "")
"""Prompts in the chat format without a template: the server has its own."""


class ServedReflector(ModelReflector):
    """Asks a model server for each reflection; all that are wanted together are asked for side by side.

    server: remembers its answers on disk. prompts: in the chat format, with UNFRAMED frames; each is the only message
    of a conversation. progress: is warned of prompts that the server does not answer.
    """

    def __init__(
        self, server: ServedModel, prompts: PromptBuilder, settings: ReflectorSettings, progress: Progress
    ) -> None:
        super().__init__(prompts, settings, Memo(None, ""))
        self.server = server
        self.progress = progress

    def _write(self, prompts: Sequence[Prompt], sample: int, keep: Keep) -> None:
        most = self.settings.max_new_tokens
        asks = [Ask((Message("user", prompt.text),), most, sample=sample) for prompt in prompts]

        def arrived(index: int, answer: Answer | Failed) -> None:
            keep({prompts[index].text: answer.text.strip() if isinstance(answer, Answer) else ""})

        empty = [why for answer in self.server.ask(asks, arrived) if (why := self._why_empty(answer))]
        if empty:
            self.progress.warn_here(f"{len(empty)} of {len(asks)} reflections are empty: {empty[0]}.")

    def _why_empty(self, answer: Answer | Failed) -> str:
        """Why there is no reflection in an answer; "" if there is one."""
        if isinstance(answer, Failed):
            return f"the server gives none ({answer.reason})"
        if answer.text.strip():
            return ""
        if answer.finish == "length":
            return (
                f"the answer was cut after {self.settings.max_new_tokens} tokens, and held nothing but thoughts. Let "
                f"the model answer without thinking (reflector.server.extra), or raise reflector.max_new_tokens"
            )
        return "the model said nothing"
