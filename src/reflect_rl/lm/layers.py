"""The layers of a pretrained model: sharded over ranks, or computed again in the backward pass, to save memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reflect_rl.lm.bases import Bases
from reflect_rl.lm.models import base_model
from reflect_rl.lm.pretrained import load_pretrained
from reflect_rl.ranks import Ranks
from reflect_rl.settings import ComputeSettings, ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_player_model(
    part: ModelSettings, compute: ComputeSettings, seed: int = 0, bases: Bases | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load_pretrained` on the device; with `compute.shard`, this rank's share of the layers of a frozen base.

    bases: base models that several players share. A sharded base belongs to one player.
    """
    ranks = Ranks.here(compute.device == "cuda", compute.shard)
    if not (ranks.alike and part.lora_rank):
        return load_pretrained(part, compute.device, seed, bases=bases)
    model, tokenizer = load_pretrained(part, "cpu", seed)
    shard_layers(model, compute.device, ranks)
    return model.to(compute.device), tokenizer  # type: ignore[arg-type]


def shard_layers(model: PreTrainedModel, device: str, ranks: Ranks) -> None:
    """Keep 1 / ranks of each layer's frozen weights here, and gather a layer while it computes (FSDP2).

    Adapters, embeddings, final norm and output layer stay whole on every rank. All ranks have to make the same passes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    ranks.group()
    mesh = init_device_mesh(device, (ranks.count,))
    whole = {weight for weight in model.parameters() if weight.requires_grad}
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    body: Any = base_model(model).base_model
    fully_shard(body, mesh=mesh, ignored_params=set(body.parameters()))  # ties the layers together, owns nothing
    base_model(model).is_sharded = True  # type: ignore[assignment]


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether `shard_layers` has been applied."""
    return getattr(base_model(model), "is_sharded", False)


def recompute_layers(model: PreTrainedModel) -> None:
    """From now on, compute each layer's activations again in the backward pass instead of keeping them.

    The switch of transformers works in training mode only, and all players are in eval mode.
    """
    if recomputes(model):
        return
    for layer in _layers(model):
        layer.forward = partial(_recomputed, layer.forward)
    base_model(model).recomputes_layers = True  # type: ignore[assignment]


def recomputes(model: PreTrainedModel) -> bool:
    """Whether `recompute_layers` has been applied."""
    return getattr(base_model(model), "recomputes_layers", False)


def _recomputed(forward: Any, *given: Any, **named: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, **named)  # no dropout


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in base_model(model).modules() if isinstance(module, GradientCheckpointingLayer)]
