"""Checkpoints hold everything needed for an exact resume, in safetensors and JSON, never pickles.

Random number generators need no state: every stream is derived from (seed, purpose, indices).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reflect_rl.errors import NonFiniteError, RunFolderError
from reflect_rl.runs.folder import RunFolder

EARLIER = "earlier.safetensors"


@dataclass
class Checkpoint:
    """done: finished steps or iterations. extra: JSON data besides weights and optimizer. earlier: as for `save`."""

    done: int
    extra: dict[str, Any] = field(default_factory=dict)
    earlier: dict[str, Tensor] = field(default_factory=dict)


class Checkpointer:
    """Saves to and loads from one folder of a run. Only the newest checkpoint is kept.

    done: finished steps or iterations in the checkpoint last saved or loaded; 0 if there is none.
    """

    def __init__(self, run: RunFolder, name: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.run = run
        self.name = name
        self.module = module
        self.optimizer = optimizer
        self.done = 0

    def save(self, done: int, earlier: dict[str, Tensor] | None = None, **extra: Any) -> None:
        """Write atomically. The previous checkpoint stays until this one is complete.

        earlier: weights that the module had before, kept as well.
        Raises NonFiniteError, keeping the previous checkpoint, if a weight or a moment is not finite.
        """
        self.check_finite()
        with self.run.replacing(self.name) as folder:
            folder.mkdir()
            save_file(trained_weights(self.module), folder / "weights.safetensors")
            if earlier:
                save_file(earlier, folder / EARLIER)
            save_file(self._optimizer_state(), folder / "optimizer.safetensors")
            state = json.dumps({"done": done, "extra": extra, "earlier": bool(earlier)}, allow_nan=False)
            (folder / "state.json").write_text(
                json.dumps({"sha256": _digest(state), **json.loads(state)}, allow_nan=False)
            )
        self.done = done

    def check_finite(self) -> None:
        """Raise NonFiniteError unless all trained weights and the optimizer's state are finite."""
        moments = (value for state in self.optimizer.state.values() for value in state.values())
        parts = {"a weight": [weight for _, weight in named_trained(self.module)], "the optimizer's state": moments}
        for what, tensors in parts.items():
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
                raise NonFiniteError(f"{what} is not finite")

    def load(self) -> Checkpoint | None:
        """Restore weights and optimizer; None if there is no checkpoint. Raises RunFolderError if it is damaged."""
        folder = self.run / self.name
        if not (folder / "state.json").is_file():
            return None
        try:
            state = json.loads((folder / "state.json").read_bytes())
            if state.pop("sha256") != _digest(json.dumps(state, allow_nan=False)):
                raise ValueError("state.json is not what was written")
            weights = load_file(folder / "weights.safetensors")
            moments = load_file(folder / "optimizer.safetensors")
            earlier = load_file(folder / EARLIER) if state.get("earlier") else {}
            checkpoint = Checkpoint(state["done"], state["extra"], earlier)
            with torch.no_grad():
                for name, weight in named_trained(self.module):
                    weight.copy_(weights[name])
            self._restore(moments)
        except Exception as error:
            raise RunFolderError(f"The checkpoint {folder} is damaged ({error}). Delete it to start anew.") from error
        self.done = checkpoint.done
        return checkpoint

    def _optimizer_state(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}.{key}": value.detach().cpu().contiguous().clone()
            for index, values in state.items()
            for key, value in values.items()
        }

    def _restore(self, moments: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in moments.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def named_trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().contiguous().clone() for name, weight in named_trained(module)}
