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

        failed = [answer.reason for answer in self.server.ask(asks, arrived) if isinstance(answer, Failed)]
        if failed:
            self.progress.warn_here(
                f"{len(failed)} of {len(asks)} reflections are empty, since the server gives none: {failed[0]}."
            )
