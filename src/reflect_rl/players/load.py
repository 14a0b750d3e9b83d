"""Load the two players of a run from its folder."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from reflect_rl.lm.adapters import CONFIG as ADAPTERS
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.layers import load_player_model, recompute_layers
from reflect_rl.lm.models import base_model, fingerprint
from reflect_rl.lm.packed import why_not
from reflect_rl.lm.text import encode
from reflect_rl.lm.torch_setup import check_device
from reflect_rl.players.context import Context
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.labels import candidates
from reflect_rl.players.memo import Memo
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import LocalReflector, NoReflector, Reflector, ScriptedReflector
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ComputeSettings, ModelSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEMO = "reflections.sqlite"
MOST_LABELS = 256
PADDED = {"cpu": 2048, "mps": 2**13, "cuda": 2**15}
PACKED = {"cpu": 600, "mps": 2048, "cuda": 4096}
"""Default tokens of a forward pass by device. Packed passes are smaller, since their mask is dense."""
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


def load_policy(folder: Path, settings: Settings, adapters: bool = False, progress: Progress | None = None) -> Policy:
    """Load a saved policy in eval mode. Raises ModelError.

    adapters: if the settings request adapters and the policy has none, add new ones to train. progress: is warned if
    the policy cannot read as requested.
    """
    compute, part = settings.compute, settings.policy.model
    check_device(compute.device)
    model, tokenizer = load_player_model(_saved(folder, part, adapters), compute)
    passes = forward_passes(compute, part, model, progress)
    policy = Policy.load(folder, model, tokenizer, passes)
    policy.eval()
    return policy


def policy_prompts(policy: Policy, context: Context) -> PromptBuilder:
    """The builder of the policy's prompts, limited to its context length."""
    settings, labels = context.settings, None if policy.labels is None else list(policy.labels)
    gated, reads = policy.gate is not None, policy.backbone.context
    remedy = _remedy(settings.policy.model, "policy")
    return PromptBuilder(context.world.task_text, settings.prompt, labels, policy.count, gated, reads, remedy)


def reflector_prompts(context: Context, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PromptBuilder:
    """The builder of the reflector's prompts: the policy's up to the reflection, with room for one."""
    settings, task_text = context.settings, context.world.task_text
    labels = list(itertools.islice(candidates(), MOST_LABELS)) if settings.policy.head == "labels" else None
    reads = Backbone(model).context
    room = max(reads - settings.reflector.max_new_tokens, reads // 2)
    remedy = _remedy(settings.reflector.model, "reflector")
    return PromptBuilder(
        task_text, settings.prompt, labels, lambda text: len(encode(tokenizer, text)), context=room, remedy=remedy
    )


def _remedy(part: ModelSettings, who: str) -> str:
    """Advice about a prompt that exceeds a player's context length."""
    return f"Raise {who}.model.context" if part.source == "scratch" else "Use a model that reads more"


def load_decisions(
    run: RunFolder, context: Context, policy: Policy | None = None, progress: Progress | None = None
) -> Decisions:
    """Both players of a run. policy: used instead of the trained one in policy/. progress: as for `load_policy`."""
    policy = load_policy(run / "policy", context.settings, progress=progress) if policy is None else policy
    return Decisions(policy, load_reflector(run, context, progress), policy_prompts(policy, context))


def load_reflector(run: RunFolder, context: Context, progress: Progress | None = None) -> Reflector:
    """The frozen reflector of a run: none, the scripted teacher, or the trained model with its memo."""
    settings = context.settings
    if settings.reflector.kind == "none":
        return NoReflector()
    if settings.reflector.kind == "scripted":
        return ScriptedReflector(type(context.world), settings.annotate.teacher)
    check_device(settings.compute.device)
    model, tokenizer = load_player_model(_saved(run / "reflector", settings.reflector.model), settings.compute)
    return local_reflector(run, context, model, tokenizer, progress)


def local_reflector(
    run: RunFolder,
    context: Context,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress | None = None,
) -> LocalReflector:
    """A reflector around a model; its memo in the run folder is keyed by the model's fingerprint.

    The memo of ranks that work alike is not on disk: one rank could find a text that another has yet to write.
    """
    settings, part = context.settings, context.settings.reflector
    mark = "" if context.ranks.alike else fingerprint(model, tokenizer)
    namespace = f"{mark} {part.decoding} {part.max_new_tokens}"
    if part.decoding == "sample":
        namespace += f" {part.temperature} {settings.seed}"
    prompts = reflector_prompts(context, model, tokenizer)
    memo = Memo(None if context.ranks.alike else run / MEMO, namespace)
    exact = is_exact(settings.compute, part.model)
    chunk = part.batch or DECODED[settings.compute.device]
    return LocalReflector(model, tokenizer, prompts, part, memo, settings.seed, chunk, exact, progress)


def _saved(folder: Path, part: ModelSettings, fresh: bool = False) -> ModelSettings:
    """Settings that load a saved model as it was trained: with its own adapters, and its base quantised as before."""
    rank = part.lora_rank if fresh or (folder / ADAPTERS).is_file() else 0
    bits = part.bits if rank or part.bits == 16 else 32
    return ModelSettings(source=str(folder.resolve()), lora_rank=rank, bits=bits)
