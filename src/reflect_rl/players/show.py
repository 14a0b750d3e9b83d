"""What the players read, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, expert_choice, facts_of, tasks_of, taught
from reflect_rl.envs.registry import load
from reflect_rl.lm.pretrained import load_tokenizer
from reflect_rl.lm.text import encode_prompt, opening_ids
from reflect_rl.players.context import Context
from reflect_rl.players.labels import MOST_LABELS, find_labels
from reflect_rl.players.load import chat_frames, message_prompts, reflector_labels
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.progress import Progress
from reflect_rl.records import EpisodeMemory, State
from reflect_rl.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANY_TEXT = "(the reflection)"


@dataclass(frozen=True, slots=True)
class Shown:
    """A prompt of one player.

    Attributes:
        who: "reflector" or "policy".
        text: the prompt, with the control tokens of a chat template or a tokenizer by their names; of a reflector
            behind a server, the message alone.
        chat: whether it is in the chat format.
        tokens: its length; None for models from scratch, whose tokenizer is trained later, and behind a server.
        answers: the labels that the policy chooses from; empty for the reflector and the pointer head.
    """

    who: str
    text: str
    chat: bool
    tokens: int | None
    answers: tuple[str, ...] = ()


def shown_prompts(context: Context, progress: Progress, task: str | None = None, steps: int = 1) -> list[Shown]:
    """The prompts of both players in one state of a training task, after some steps of the expert.

    The reflection is the scripted teacher's, if the world has one. Raises ModelError if a tokenizer cannot be loaded.
    """
    settings = context.settings
    state, note = _state(context, task, steps)
    shown = []
    if settings.reflector.is_served:
        message = message_prompts(context).reflector_prompt(state).text
        shown.append(Shown("reflector", message, True, None))
    if settings.reflector.is_loaded:
        shown.append(_shown(context, "reflector", settings.reflector.model, state, None, progress))
    return [*shown, _shown(context, "policy", settings.policy.model, state, note, progress)]


def _state(context: Context, task: str | None, steps: int) -> tuple[State, str | None]:
    """A state and the teacher's reflection on it; the last state of the episode if it ends before."""
    settings, env = context.settings, context.make_env()
    memory = EpisodeMemory(settings.prompt.history, settings.prompt.reflections)
    observation, actions, _ = begin(env, settings.seed, {"task": task or tasks_of(env, "train")[0]})
    while True:
        facts = facts_of(env)
        state = memory.observe(observation, actions, facts)
        note = _note(settings, env, facts)
        if not steps:
            return state, note
        steps -= 1
        choice = expert_choice(env, actions) or 0  # worlds without an expert say None
        observation, actions, _, stop = advance(env, choice)
        if stop is not None:
            return state, note
        memory.acted(choice, note)


def _note(settings: Settings, env: TextEnv, facts: dict[str, Any]) -> str | None:
    """The teacher's reflection; None without a reflector."""
    if settings.reflector.kind == "none":
        return None
    style = settings.annotate.teacher
    return taught(load(settings.env.name), facts, style) if style in env.teachers else ANY_TEXT


def _shown(
    context: Context, who: str, part: ModelSettings, state: State, note: str | None, progress: Progress
) -> Shown:
    settings = context.settings
    tokenizer = None if part.source == "scratch" else load_tokenizer(part.source)
    frames = None if tokenizer is None else chat_frames(settings, part, tokenizer, progress)
    labels = reflector_labels(frames)
    if tokenizer is not None and who == "policy" and settings.policy.head == "labels":
        labels = list(find_labels(tokenizer, MOST_LABELS, frames is not None))
    shown = labels if settings.policy.head == "labels" else None
    gated = settings.policy.gated_mixture
    count = None if tokenizer is None else partial(_tokens, tokenizer)
    builder = PromptBuilder(context.world.task_text, settings.prompt, shown, count, gated, frames=frames)
    prompt = builder.reflector_prompt(state) if who == "reflector" else builder.policy_prompt(state, note)
    answers = tuple(shown or ())[: prompt.actions] if who == "policy" else ()
    opening = ""
    if tokenizer is not None and not prompt.controls:
        opening = "".join(tokenizer.convert_ids_to_tokens(list(opening_ids(tokenizer))))
    return Shown(who, opening + prompt.text, frames is not None, count(prompt) if count else None, answers)


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> int:
    return len(encode_prompt(tokenizer, prompt.text, prompt.controls))
