"""Chat templates: the text that an instruct model's template puts before, between and after messages.

The template is rendered once, around placeholders. Prompts then put texts between its frames, so that control tokens
come from the template only, whatever an observation or a reflection says.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from reflect_rl.errors import ModelError
from reflect_rl.lm.models import control_ids, end_id
from reflect_rl.lm.text import encode_frame

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST, WRITTEN, SECOND = "PLACEHOLDER-ONE", "PLACEHOLDER-TWO", "PLACEHOLDER-THREE"
TODAY = date(2024, 7, 26)
"""The date in templates that tell it, so that prompts are the same every day. It is the default of Llama's own."""
_FIELDS = "".join(f" | replace('%{letter}', '{TODAY.strftime(f'%{letter}')}')" for letter in "aAbBdmyYjHIMSp")
TELL_TODAY = f"{{% macro strftime_now(format) %}}{{{{ format | replace('%-', '%'){_FIELDS} }}}}{{% endmacro %}}\n"
"""The beginning of such a template, which replaces the clock that transformers gives it."""


@dataclass(frozen=True, slots=True)
class ChatFrames:
    """The parts of a rendered chat: opening, user's text, and then either of two.

    write, and the model writes its answer. Or answered, the model's earlier answer, again, user's second text, write.

    Attributes:
        opening: before the user's first text, a system prompt included if the template has one.
        write: after a user's text, before the answer that the model is to write.
        answered: the same before an answer that was written earlier; equal to `write` in most templates.
        again: after that answer, before the user's second text. It begins with the end of the model's turn.
    """

    opening: str
    write: str
    answered: str
    again: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatFrames:
        """The frames of a tokenizer's template. Raises ModelError if there is none, or it changes the texts."""
        name = tokenizer.name_or_path or "this model"
        if not tokenizer.chat_template:
            raise ModelError(f"The tokenizer of {name} has no chat template. Set prompt.format: plain.")
        try:
            opening, write = _rendered(tokenizer, FIRST)
            begin, answered, again, end = _rendered(tokenizer, FIRST, WRITTEN, SECOND)
        except Exception as error:  # a template is a program of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"The chat template of {name} cannot be used ({reason}). Set prompt.format: plain."
            ) from error
        if (begin, end) != (opening, write):
            raise ModelError(
                f"The chat template of {name} begins or ends differently after a second message, which is not "
                f"understood here. Set prompt.format: plain."
            )
        return cls(opening, write, answered, again)


def _rendered(tokenizer: PreTrainedTokenizerBase, *texts: str) -> list[str]:
    """The template's text around the texts of user and assistant in turn. Raises ValueError if it changes a text."""
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = TELL_TODAY + template
    # Templates that know no thinking ignore the last option.
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    rendered = str(tokenizer.apply_chat_template(messages, chat_template=template, **options))
    parts = []
    for text in texts:
        before, found, rendered = rendered.partition(text)
        if not found:
            raise ValueError("it leaves a message out")
        parts.append(before)
    if any(text in rendered for text in texts):
        raise ValueError("it repeats a message")
    return [*parts, rendered]


def turn_end(tokenizer: PreTrainedTokenizerBase, frames: ChatFrames | None) -> int:
    """The token that ends the model's turn: the template's own, or the end-of-text token."""
    after = encode_frame(tokenizer, frames.again) if frames else []
    return after[0] if after and after[0] in control_ids(tokenizer) else end_id(tokenizer)
