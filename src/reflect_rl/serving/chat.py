"""The OpenAI protocol: the agent as a chat model, whose user tells it states and whose answers are actions.

A user message tells one state, as text that ends in the actions, one a line below the line "Actions:", or as the JSON
object {"observation": ..., "actions": [...], "facts"?: {...}}. The last one is the state to act in. Each earlier one
that an assistant message follows directly is a past step: the assistant's last line is the action that was taken, and
what stands before it, and an empty line, is the reflection. All other messages are ignored.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import ConfigDict, StrictBool, StrictInt
from starlette.exceptions import HTTPException

from reflect_rl.players.agent import Agent, Decision, Told
from reflect_rl.records import State
from reflect_rl.serving.batcher import Batcher
from reflect_rl.serving.limits import Limits
from reflect_rl.serving.requests import Ask, read_as, told

WITH_REFLECTION = "-with-reflection"
"""The end of the name under which the agent tells its reflection too."""
FORM = 'Tell a state as its observation, a line "Actions:" and one action a line, or as JSON.'
OTHERS = ConfigDict(extra="ignore")


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a chat. content: text, or parts of it."""

    __pydantic_config__ = OTHERS

    role: str
    content: str | tuple[Mapping[str, Any], ...] | None = None

    @property
    def text(self) -> str:
        """The text of all parts. Raises HTTPException (400) if a part is none."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        texts = [part.get("text") for part in self.content]
        if not all(isinstance(text, str) for text in texts):
            raise HTTPException(400, "A message holds something other than text, which is all that an agent reads.")
        return "".join(map(str, texts))


@dataclass(frozen=True, slots=True)
class Chat:
    """A request for a completion. What concerns sampling is accepted and ignored: the agent takes the best action."""

    __pydantic_config__ = OTHERS

    model: str
    messages: tuple[Message, ...]
    n: StrictInt | None = 1
    stream: StrictBool | None = False


class ChatModel:
    """The agent as the two models `name` and `name`-with-reflection."""

    def __init__(self, name: str, agent: Agent, batcher: Batcher, limits: Limits) -> None:
        self._names = name, name + WITH_REFLECTION
        self._agent = agent
        self._batcher = batcher
        self._limits = limits
        self._created = int(time.time())

    def models(self) -> dict[str, Any]:
        """The answer to `GET /v1/models`."""
        about = {"object": "model", "created": self._created, "owned_by": "reflect-rl"}
        return {"object": "list", "data": [{"id": name, **about} for name in self._names]}

    async def complete(self, chat: Chat) -> dict[str, Any]:
        """A `chat.completion`.

        Raises:
            HTTPException: 400 (no state can be read), 404 (another model), 413 or 422 (see `requests.told`), or as
                `Batcher.decide`.
        """
        if chat.model not in self._names:
            raise HTTPException(404, f"There is no model {chat.model!r}; there are {' and '.join(self._names)}.")
        if chat.n not in (None, 1):
            raise HTTPException(400, f"n is {chat.n}. The agent has one answer to a state: ask for n = 1.")
        (decision,) = await self._batcher.decide([self._state(chat.messages)])
        text = decision.action if chat.model == self._names[0] else _with_reflection(decision)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        about = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": chat.model}
        return {**about, "object": "chat.completion", "choices": [choice]}

    def _state(self, messages: Sequence[Message]) -> State:
        """The state to act in, with the past steps of the chat."""
        spoken = [message for message in messages if message.role in ("user", "assistant")]
        if not spoken or spoken[-1].role != "user":
            raise HTTPException(400, f"The last message is not the user's. {FORM}")
        memory = self._agent.new_memory()
        for asked, answered in pairwise(spoken):
            if (asked.role, answered.role) == ("user", "assistant"):
                state = memory.observe(*self._told(asked.text))
                memory.acted(*self._taken(answered.text, state.actions))
        return memory.observe(*self._told(spoken[-1].text))

    def _told(self, text: str) -> Told:
        return told(state_in(text), self._limits)

    def _taken(self, text: str, actions: Sequence[str]) -> tuple[int, str | None]:
        """The action that an assistant's message took, and its reflection."""
        before, parted, action = text.rpartition("\n\n")
        stripped = [each.strip() for each in actions]
        if action not in actions and action.strip() not in stripped:
            raise HTTPException(400, f"The assistant's message {text[:80]!r} does not end in an action of its state.")
        settings = self._agent.settings
        if not parted and settings.prompt.reflections and settings.reflector.kind != "none":
            raise HTTPException(
                400, f"This agent reads its past reflections: keep them in the chat, with the model {self._names[1]}."
            )
        choice = actions.index(action) if action in actions else stripped.index(action.strip())
        return choice, before if parted else None


def state_in(text: str) -> Ask:
    """The state that a user's message tells. Raises HTTPException (400)."""
    if text.lstrip().startswith("{"):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None  # an observation may begin with a brace
        if data is not None:
            return read_as(Ask, data, "The JSON in the user's message")
    lines = text.split("\n")
    heads = [place for place, line in enumerate(lines) if line.strip().lower() == "actions:"]
    if not heads:
        raise HTTPException(400, f"The user's message {text[:80]!r} names no actions. {FORM}")
    actions = [line.strip().removeprefix("- ").strip() for line in lines[heads[-1] + 1 :]]
    return Ask("\n".join(lines[: heads[-1]]).rstrip("\n"), tuple(filter(None, actions)))


def _with_reflection(decision: Decision) -> str:
    return decision.action if decision.reflection is None else f"{decision.reflection}\n\n{decision.action}"


def streamed(completion: Mapping[str, Any]) -> Iterator[str]:
    """A completion as server-sent events: the answer in one piece, then its end."""
    (choice,) = completion["choices"]
    about = {**completion, "object": "chat.completion.chunk"}
    for delta, finish in ((choice["message"], None), ({}, choice["finish_reason"])):
        piece = {**about, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        yield f"data: {json.dumps(piece, allow_nan=False)}\n\n"
    yield "data: [DONE]\n\n"
