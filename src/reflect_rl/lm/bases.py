"""Frozen base models, each in memory once, however many players have adapters on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Bases:
    """A cache of loaded base models. Nothing that comes from it may be trained except through adapters."""

    def __init__(self) -> None:
        self._loaded: dict[Hashable, PreTrainedModel] = {}

    def get(self, key: Hashable, load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """A model with the base's own layers in a module tree of its own, so adapters can be attached to it."""
        if key not in self._loaded:
            self._loaded[key] = load()
        return sharing_layers(self._loaded[key])


def sharing_layers(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the module tree over the same weights: its leaves are the model's own modules, quantised ones included.

    Adapters replace leaves of the copy by wrappers around them, so several copies can carry different adapters.
    """
    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    weights: list[Any] = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(shared): shared for shared in [*leaves, *weights]})
