"""Load the two players of a run from its folder."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from reflect_rl.envs.registry import load
from reflect_rl.errors import ModelError
from reflect_rl.lm.adapters import CONFIG as ADAPTERS
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.bases import Bases
from reflect_rl.lm.chat import ChatFrames
from reflect_rl.lm.layers import load_player_model, recompute_layers
from reflect_rl.lm.models import base_model, fingerprint
from reflect_rl.lm.packed import PACKED, why_not
from reflect_rl.lm.text import encode_prompt
from reflect_rl.lm.torch_setup import check_device
from reflect_rl.memo import Memo
from reflect_rl.model_servers.model import ServedModel
from reflect_rl.players.context import Context
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.labels import MOST_LABELS, candidates
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import LocalReflector, NoReflector, Reflector, ScriptedReflector
from reflect_rl.players.served_reflector import UNFRAMED, ServedReflector
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.trained import is_exported
from reflect_rl.settings import ComputeSettings, ModelSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEMO = "reflections.sqlite"
SERVED = "reflections-served.sqlite"
PADDED = {"cpu": 2048, "mps": 2**13, "cuda": 2**15}
"""Default tokens of a padded pass by device."""
DECODED = {"cpu": 8, "mps": 64, "cuda": 256}
"""Default number of prompts decoded in one batch, by device."""


def is_exact(compute: ComputeSettings, part: ModelSettings) -> bool:
    """Whether a player's results must not depend, to the bit, on what is batched together."""
    return part.source == "scratch" and compute.device == "cpu" if compute.exact == "auto" else compute.exact


def forward_passes(
    compute: ComputeSettings, part: ModelSettings, model: PreTrainedModel, progress: Progress | None = None
) -> Passes:
    """How prompts go through a player's model. progress: is warned if the model cannot read packed prompts."""
    if compute.gradient_checkpointing and part.source != "scratch":
        recompute_layers(model)
    if not is_exact(compute, part) and not Backbone(model).lookup:
        with Backbone(model).computing():
            reason = why_not(model)
        if reason is None:
            return Passes(True, compute.tokens or PACKED[compute.device], progress=progress or Progress())
        if progress is not None:
            progress.warn(
                f"{type(base_model(model)).__name__} reads whole padded prompts, which is slower: packed ones it "
                f"cannot read ({reason})."
            )
    return Passes(False, compute.tokens or PADDED[compute.device], compute.tokens, progress or Progress())


def load_policy(
    folder: Path,
    settings: Settings,
    adapters: bool = False,
    progress: Progress | None = None,
    bases: Bases | None = None,
) -> Policy:
    """Load a saved policy in eval mode. Raises ModelError.

    adapters: if the settings request adapters and the policy has none, add new ones to train. progress: is warned if
    the policy cannot read as requested. bases: base models that other players share.
    """
    compute, part = settings.compute, settings.policy.model
    check_device(compute.device)
    model, tokenizer = load_player_model(_saved(folder, part, adapters), compute, bases=bases)
    passes = forward_passes(compute, part, model, progress)
    policy = Policy.load(folder, model, tokenizer, passes)
    policy.eval()
    return policy


def chat_frames(
    settings: Settings, part: ModelSettings, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None
) -> ChatFrames | None:
    """The frames of a player's prompts; None for the plain format. progress: is warned if `auto` has to fall back.

    Raises ModelError if prompt.format is chat, and the tokenizer has no template that can be used.
    """
    wanted = settings.prompt.format
    if wanted == "plain" or (wanted == "auto" and (part.source == "scratch" or not tokenizer.chat_template)):
        return None
    try:
        return ChatFrames.of(tokenizer)
    except ModelError as error:
        if wanted == "chat":
            raise
        if progress is not None:
            progress.warn(f"Prompts are plain text: {error}")
        return None


def policy_prompts(policy: Policy, context: Context) -> PromptBuilder:
    """The builder of the policy's prompts, limited to its context length."""
    settings, labels = context.settings, None if policy.labels is None else list(policy.labels)
    part = settings.policy.model
    return PromptBuilder(
        context.world.task_text,
        settings.prompt,
        labels,
        policy.count,
        gated=policy.gate is not None,
        context=policy.backbone.context,
        remedy=_remedy(part, "policy"),
        frames=chat_frames(settings, part, policy.tokenizer),
    )


def reflector_labels(frames: ChatFrames | None) -> list[str]:
    """The labels on the action lines of a reflector's prompts, which it never answers with."""
    return list(itertools.islice(candidates(frames is not None), MOST_LABELS))


def reflector_prompts(
    context: Context, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None
) -> PromptBuilder:
    """The builder of the reflector's prompts, see `PromptBuilder`, with room for a reflection."""
    settings, task_text = context.settings, context.world.task_text
    frames = chat_frames(settings, settings.reflector.model, tokenizer, progress)
    reads = Backbone(model).context
    return PromptBuilder(
        task_text,
        settings.prompt,
        reflector_labels(frames) if settings.policy.head == "labels" else None,
        lambda prompt: len(encode_prompt(tokenizer, prompt.text, prompt.controls)),
        context=max(reads - settings.reflector.max_new_tokens, reads // 2),
        remedy=_remedy(settings.reflector.model, "reflector"),
        frames=frames,
    )


def _remedy(part: ModelSettings, who: str) -> str:
    """Advice about a prompt that exceeds a player's context length."""
    return f"Raise {who}.model.context" if part.source == "scratch" else "Use a model that reads more"


def load_decisions(
    run: RunFolder, context: Context, policy: Policy | None = None, progress: Progress | None = None
) -> Decisions:
    """Both players of a run. policy: used instead of the trained one in policy/. progress: as for `load_policy`."""
    if policy is None:
        policy = load_policy(run / "policy", context.settings, progress=progress, bases=context.bases)
    return Decisions(policy, load_reflector(run, context, progress), policy_prompts(policy, context))


def load_reflector(run: RunFolder, context: Context, progress: Progress | None = None) -> Reflector:
    """The frozen reflector of a run: none, the scripted teacher, or a model with its memo."""
    settings = context.settings
    if settings.reflector.kind == "none":
        return NoReflector()
    if settings.reflector.kind == "scripted":
        return ScriptedReflector(load(settings.env.name), settings.annotate.teacher)
    if settings.reflector.is_served:
        return served_reflector(run, context, progress)
    check_device(settings.compute.device)
    part = settings.reflector.model
    if settings.reflector.kind == "local":
        part = _saved(run / "reflector", part)
    model, tokenizer = load_player_model(part, settings.compute, bases=context.bases)
    return local_reflector(run, context, model, tokenizer, progress)


def served_reflector(run: RunFolder, context: Context, progress: Progress | None = None) -> ServedReflector:
    """The reflector of a run that is behind a server. Its answers are stored in the run folder.

    Raises SettingsError if the settings name no server or model.
    """
    part, progress = context.settings.reflector, progress or Progress()
    server = ServedModel(part.asked, None if is_exported(run) else run / SERVED, progress)
    return ServedReflector(server, message_prompts(context), part, progress)


def message_prompts(context: Context) -> PromptBuilder:
    """The builder of the messages to a reflector behind a server: as `reflector_prompts`, without a template's frames.

    The server's tokenizer is not known: histories are shortened by an estimate of four bytes a token.
    """
    return PromptBuilder(
        context.world.task_text,
        context.settings.prompt,
        reflector_labels(UNFRAMED) if context.settings.policy.head == "labels" else None,
        lambda prompt: len(prompt.text.encode()) // 4,
        frames=UNFRAMED,
    )


def local_reflector(
    run: RunFolder,
    context: Context,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress | None = None,
) -> LocalReflector:
    """A reflector around a model; its memo is keyed by the model's fingerprint.

    The memo lies in the run folder. An exported agent keeps it in memory, and its folder as it is; so do ranks that
    work alike, since one could find a text that another has yet to write; and so does, with a warning, an agent whose
    folder may not be written to. progress: is warned if the reflector cannot read or be asked as requested.
    """
    settings, part = context.settings, context.settings.reflector
    mark = "" if context.ranks.alike else fingerprint(model, tokenizer)
    bits = " bf16" if getattr(base_model(model), "computes_in_bfloat16", False) else ""
    namespace = f"{mark}{bits} {part.decoding} {part.max_new_tokens}"
    if part.decoding == "sample":
        namespace += f" {part.temperature} {settings.seed}"
    prompts = reflector_prompts(context, model, tokenizer, progress)
    memo = Memo(None if context.ranks.alike else _memo_of(run, progress), namespace)
    exact = is_exact(settings.compute, part.model)
    passes = forward_passes(settings.compute, part.model, model, progress)
    chunk = part.batch or DECODED[settings.compute.device]
    return LocalReflector(model, tokenizer, prompts, part, memo, settings.seed, chunk, exact, passes)


def _memo_of(run: RunFolder, progress: Progress | None) -> Path | None:
    """Where reflections are remembered; None for in memory."""
    path = run / MEMO
    if is_exported(run):
        return None
    if not all(os.access(place, os.W_OK) for place in (run.path, path) if place.exists()):
        if progress:
            progress.warn(f"{path} may not be written to: reflections are remembered as long as this process lives.")
        return None
    return path


def _saved(folder: Path, part: ModelSettings, fresh: bool = False) -> ModelSettings:
    """Settings that load a saved model as it was trained: with its own adapters, and its base quantised as before."""
    rank = part.lora_rank if fresh or (folder / ADAPTERS).is_file() else 0
    bits = part.bits if rank or part.bits == 16 else 32
    return ModelSettings(source=str(folder.resolve()), lora_rank=rank, bits=bits)
