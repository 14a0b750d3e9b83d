"""Prompts: from a state to the text that the players read.

The order is: task, actions, past reflections, history, observation, reflection, answer cue. Static text comes first, so
that all prompts of a batch share its computation. With the pointer head, the actions come after the reflection, so that
the end of each action's line has seen everything it is scored by. To fit the budget, the oldest steps are dropped
first; task, actions, observation and reflection are never dropped.

There are two formats. Plain: one text, which the players continue after "Reflection:" and "Action:". Chat, for instruct
models, in the frames of their template: the user describes the state, and asks for a reflection; the model writes it;
the user asks for a choice; the model answers. In both, the reflector's prompt is the policy's up to the reflection,
unless it reads the pointer head's choices too (`prompt.reflector_choices`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reflect_rl.errors import PromptError
from reflect_rl.lm.chat import ChatFrames
from reflect_rl.lm.remembered import Remembered
from reflect_rl.records import State
from reflect_rl.settings import PromptSettings

CUE_REFLECTION = "\nReflection:"
CUE_ACTION = "\nAction:"
REFLECT = "Reflect briefly: what matters now?"
CHOOSE = "Which choice? Answer with its label."
POINT = "Which choice?"
"""Default instructions in the chat format; the plain format has none."""
MOST_CHARACTERS = 2**25
"""Maximum characters in cached prompts; with their keys, a character takes about 2 bytes."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text with the structure that the policy needs.

    text: what the model reads. static: number of leading characters shared by all prompts of this world. actions:
    number of choices. line_ends: for the pointer head, the position after each action's line. state_end: for a gated
    mixture, the position where the state ends and the reflection's text begins. controls: the frames of the chat
    template, as (start, end); only there are control tokens recognised.
    """

    text: str
    static: int
    actions: int
    line_ends: tuple[int, ...] = ()
    state_end: int | None = None
    controls: tuple[tuple[int, int], ...] = ()


class _Draft:
    """A prompt's text while it is written."""

    def __init__(self) -> None:
        self.text = ""
        self.controls: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.text)

    def add(self, text: str) -> None:
        self.text += text

    def frame(self, text: str) -> None:
        if text:
            self.controls.append((len(self.text), len(self.text) + len(text)))
            self.text += text


class PromptBuilder:
    """Builds the prompts of one world.

    labels: the label strings in the order of the choices; None for the pointer head. count: number of tokens of a
    prompt, for the budget. gated: record where a policy prompt's state ends. context: the model's context length; the
    budget is the smaller of this and prompt.max_tokens. remedy: advice on how to raise `context`. frames: those of the
    model's chat template; None for the plain format.
    """

    def __init__(
        self,
        task_text: str,
        settings: PromptSettings,
        labels: Sequence[str] | None,
        count: Callable[[Prompt], int] | None = None,
        gated: bool = False,
        context: int | None = None,
        remedy: str = "Use a model that reads more",
        frames: ChatFrames | None = None,
    ) -> None:
        self.task_text = settings.task or task_text
        self.frames = frames
        self.settings = settings
        self.labels = labels
        self.gated = gated
        self.budget = min(settings.max_tokens, context or settings.max_tokens)
        self._remedy = "Raise prompt.max_tokens" if self.budget == settings.max_tokens else remedy
        self._count = count
        self._known = Remembered[object, Prompt](MOST_CHARACTERS)

    def reflector_prompt(self, state: State) -> Prompt:
        """The prompt that the reflector continues."""
        return self._remember(("reflector",), lambda shown: self._reflector(state, shown), state)

    def policy_prompt(self, state: State, reflection: str | None) -> Prompt:
        """The prompt that the policy answers. A `reflection` of None omits the line; "" leaves it empty.

        Raises PromptError if task, actions, observation and reflection alone exceed the budget, or if there are more
        actions than labels.
        """
        return self._remember(("policy", reflection), lambda shown: self._policy(state, reflection, shown), state)

    def key(self, state: State) -> object:
        """Everything that prompts show of a state: equal keys mean equal prompts."""
        settings, window = self.settings, ()
        if settings.history:
            window = state.history[-settings.history :]
            if settings.history_shows == "actions":
                window = tuple([action for _, action in window])
        notes = self._notes(state) if settings.notes else None
        return state.observation, state.actions, window, notes, self._reflections(state, settings.reflections)

    def _remember(self, kind: tuple[str | None, ...], build: Callable[[int], Prompt], state: State) -> Prompt:
        """Build the prompt once per distinct state."""
        key = (kind, self.key(state))
        prompt = self._known.get(key)
        if prompt is None:
            prompt = self._fit(build, state, kind[-1] if len(kind) > 1 else None)
            self._known.keep(key, prompt, len(prompt.text))
        return prompt

    def _fit(self, build: Callable[[int], Prompt], state: State, reflection: str | None) -> Prompt:
        told = min(self.settings.reflections, len(state.reflections))
        most, tokens = max(min(self.settings.history, len(state.history)), told), 0
        if self._count is None:
            return build(most)
        for shown in range(most, -1, -1):
            prompt = build(shown)
            if len(prompt.text.encode()) <= self.budget:  # no token is shorter than a byte
                return prompt
            tokens = self._count(prompt)
            if tokens <= self.budget:
                return prompt
        also = f", {len(reflection)} of a reflection" if reflection else ""
        raise PromptError(
            f"A prompt needs {tokens} tokens without any history, over the budget of {self.budget} "
            f"({len(state.actions)} actions, {len(state.observation)} characters of observation{also}). "
            f"{self._remedy}, or have the environment say less."
        )

    def _reflector(self, state: State, shown: int) -> Prompt:
        draft = _Draft()
        static = self._state(draft, state, shown)
        if self.settings.reflector_choices:
            self._choices(draft, state)
        self._ask_reflection(draft)
        return Prompt(draft.text, static, len(state.actions), controls=tuple(draft.controls))

    def _policy(self, state: State, reflection: str | None, shown: int) -> Prompt:
        draft = _Draft()
        static = self._state(draft, state, shown)
        state_end = None
        if reflection is not None:
            state_end = self._told(draft, reflection)
        ends = self._choices(draft, state)
        self._ask_choice(draft)
        kept = state_end if self.gated and self.labels is not None else None
        return Prompt(draft.text, static, len(state.actions), ends, kept, tuple(draft.controls))

    def _choices(self, draft: _Draft, state: State) -> tuple[int, ...]:
        """Write the action lines for the pointer head; return where each ends. With labels they come first instead."""
        if self.labels is not None:
            return ()
        draft.add(self._line("Choices:", draft))
        ends: list[int] = []
        for line in self._lines(state):
            draft.add(f"\n{line}")
            ends.append(len(draft))
        return tuple(ends)

    def _state(self, draft: _Draft, state: State, shown: int) -> int:
        """Write task, actions, history and observation; return where the static text ends."""
        if self.frames:
            draft.frame(self.frames.opening)
        draft.add(self.task_text if self.labels is None else self._static(state))
        static = len(draft)
        draft.add(self._history(state, shown) + "\n" + state.observation)
        return static

    def _ask_reflection(self, draft: _Draft, answered: bool = False) -> None:
        """Ask for the reflection. answered: it follows."""
        instruction = self.settings.reflect or (REFLECT if self.frames else "")
        draft.add(f"\n{instruction}" if instruction else "")
        if self.frames:
            draft.frame(self.frames.answered if answered else self.frames.write)
        else:
            draft.add(CUE_REFLECTION)

    def _told(self, draft: _Draft, reflection: str) -> int:
        """Write the reflection as an answer; return where the state ends."""
        self._ask_reflection(draft, answered=True)
        end = len(draft)
        if self.frames:
            draft.add(reflection)
            draft.frame(self.frames.again)
        else:
            draft.add(f" {reflection}" if reflection else "")
        return end

    def _ask_choice(self, draft: _Draft) -> None:
        instruction = self.settings.act or ((POINT if self.labels is None else CHOOSE) if self.frames else "")
        draft.add(self._line(instruction, draft) if instruction else "")
        if self.frames:
            draft.frame(self.frames.write)
        else:
            draft.add(CUE_ACTION)

    @staticmethod
    def _line(text: str, draft: _Draft) -> str:
        """The text on a line of its own; a message begins without a line break."""
        begins = bool(draft.controls) and draft.controls[-1][1] == len(draft)
        return text if begins else f"\n{text}"

    def _lines(self, state: State) -> list[str]:
        """The actions for the pointer head, with their notes if asked for."""
        actions = [_on_one_line(action) for action in state.actions]
        if not self.settings.notes:
            return actions
        notes = zip(actions, self._notes(state), strict=True)
        return [f"{action}: {note}" if note else action for action, note in notes]

    def _notes(self, state: State) -> tuple[str, ...]:
        """A note on each action, from the facts. Raises PromptError if the world provides none."""
        notes = state.facts.get("notes")
        if (
            not isinstance(notes, list | tuple)
            or len(notes) != len(state.actions)
            or not all(isinstance(note, str | None) for note in notes)
        ):
            raise PromptError(
                'prompt.notes needs a world whose describe() tells "notes", a text for each action; this one does not. '
                "Set prompt.notes: false."
            )
        return tuple(notes)

    def _static(self, state: State) -> str:
        labels = self.labels or ()
        if len(state.actions) > len(labels):
            raise too_many_actions(len(state.actions), f"but this tokenizer has {len(labels)}")
        choices = zip(labels, state.actions, strict=False)
        lines = "".join(f"\n{label}) {_on_one_line(action)}" for label, action in choices)
        return f"{self.task_text}\nChoices:{lines}"

    @staticmethod
    def _reflections(state: State, most: int) -> tuple[str, ...]:
        return state.reflections[-most:] if most else ()

    def _history(self, state: State, shown: int) -> str:
        """At most `shown` past steps: their reflections, then their actions."""
        written = self._reflections(state, min(shown, self.settings.reflections))
        return "".join(f"\n- {text}" for text in written) + self._steps(state, min(shown, self.settings.history))

    def _steps(self, state: State, shown: int) -> str:
        if not self.settings.history:
            return ""
        past = state.history[-shown:] if shown else ()
        if self.settings.history_shows == "actions":
            return "\nLast: " + (", ".join(action for _, action in past) if past else "none")
        return "".join(f"\n{observation}\nDone: {action}" for observation, action in past)


def state_id(prompt: Prompt, actions: Sequence[str] = ()) -> str:
    """The id of the state shown in a reflector prompt: states with the same text are the same state.

    actions: the admissible actions, if the reflector reads them but this prompt does not contain them.
    """
    return hashlib.blake2b("\n".join((prompt.text, *actions)).encode(), digest_size=10).hexdigest()


def _on_one_line(action: str) -> str:
    """An action as one line, so that what follows a line break in it is not read as another choice."""
    return " ".join(action.splitlines()) if "\n" in action or "\r" in action else action


def too_many_actions(actions: int, labels: str) -> PromptError:
    """The error of a state with more actions than labels. labels: how many there are, as a clause."""
    return PromptError(
        f"A state offers {actions} actions, {labels} single-token labels. Use policy.head: pointer, which scores each "
        f"action's line and has no such limit."
    )
