"""The two players of a run, from its folder."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from reflect_rl.envs.base import TextEnv
from reflect_rl.players.backbone import Backbone
from reflect_rl.players.labels import candidates
from reflect_rl.players.memo import Memo
from reflect_rl.players.models import check_device, fingerprint, load_pretrained
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import LocalReflector, NoReflector, Reflector, ScriptedReflector
from reflect_rl.run_folder import RunFolder
from reflect_rl.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEMO = "reflections.sqlite"
MOST_LABELS = 256
CHUNK = {"cpu": 8, "mps": 64, "cuda": 256}
"""Rows of a forward pass without gradients, by device."""


def load_policy(folder: Path, settings: Settings, adapters: bool = False) -> Policy:
    """A saved policy, in eval mode; with fresh `adapters` to train if the settings ask for any. Raises ModelError."""
    check_device(settings.compute.device)
    saved = _saved(folder, settings.policy.model)
    if adapters:
        saved = saved.model_copy(update={"lora_rank": settings.policy.model.lora_rank})
    model, tokenizer = load_pretrained(saved, settings.compute.device)
    policy = Policy.load(folder, model, tokenizer, CHUNK[settings.compute.device])
    policy.eval()
    return policy


def policy_prompts(policy: Policy, task_text: str, settings: Settings) -> PromptBuilder:
    """The builder of a policy's prompts, within what it can read."""
    labels = None if policy.labels is None else list(policy.labels)
    context = policy.backbone.context
    return PromptBuilder(
        task_text, settings.prompt, labels, policy.count, hedge=policy.gate is not None, context=context
    )


def reflector_prompts(
    task_text: str, settings: Settings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PromptBuilder:
    """The builder of a reflector's prompts: the same text as the policy's, up to the reflection, with room for one."""
    labels = list(itertools.islice(candidates(), MOST_LABELS)) if settings.policy.head == "labels" else None
    context = Backbone(model).context
    room = max(context - settings.reflector.max_new_tokens, context // 2)
    return PromptBuilder(task_text, settings.prompt, labels, lambda text: len(tokenizer.encode(text)), context=room)


def load_reflector(run: RunFolder, settings: Settings, world: TextEnv) -> Reflector:
    """The frozen reflector of a run: none, the scripted teacher, or the trained model with its memo."""
    if settings.reflector.kind == "none":
        return NoReflector()
    if settings.reflector.kind == "scripted":
        return ScriptedReflector(type(world), settings.annotate.teacher)
    check_device(settings.compute.device)
    saved = _saved(run / "reflector", settings.reflector.model)
    model, tokenizer = load_pretrained(saved, settings.compute.device)
    return local_reflector(run, settings, world.task_text, model, tokenizer)


def local_reflector(
    run: RunFolder, settings: Settings, task_text: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LocalReflector:
    """A reflector around a model, remembering in the run folder under the model's fingerprint."""
    part = settings.reflector
    namespace = f"{fingerprint(model, tokenizer)} {part.decoding} {part.max_new_tokens}"
    if part.decoding == "sample":
        namespace += f" {part.temperature} {settings.seed}"
    prompts = reflector_prompts(task_text, settings, model, tokenizer)
    memo = Memo(run / MEMO, namespace)
    return LocalReflector(model, tokenizer, prompts, part, memo, settings.seed, _rows(settings, part.batch))


def _rows(settings: Settings, batch: int) -> int:
    """Rows of a forward pass: those of the device, if it takes more than the settings say."""
    return batch if settings.compute.device == "cpu" else max(batch, CHUNK[settings.compute.device])


def _saved(folder: Path, part: ModelSettings) -> ModelSettings:
    """Settings that load a saved model: its adapters are merged already."""
    return ModelSettings(source=str(folder.resolve()), bits=part.bits if part.bits == 16 else 32)
