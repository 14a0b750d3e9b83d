"""The processes of `accelerate launch` or torchrun: which one this is, and what they exchange.

The first rank alone writes the run folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long the other ranks wait for the first one, which collects, labels and reports alone."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """rank: index of this process. count: number of processes; 1 without a launcher. cuda: each has a GPU.

    alike: every rank does all the work, since each holds only some of the weights (`compute.shard`).
    """

    rank: int = 0
    count: int = 1
    cuda: bool = False
    alike: bool = False

    @classmethod
    def here(cls, cuda: bool = False, shard: bool = False) -> Ranks:
        """Read the environment variables that launchers set."""
        rank, count = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
        return cls(rank, count, cuda, shard and count > 1)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def sharing(self) -> bool:
        """Whether each rank does a share of the work."""
        return self.count > 1 and not self.alike

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """This rank's part of the work."""
        return work[self.rank :: self.count] if self.sharing else work

    def gather(self, part: T) -> list[T]:
        """The parts of all ranks that share the work."""
        if not self.sharing:
            return [part]
        parts: list[Any] = [None] * self.count
        self.group().all_gather_object(parts, part)
        return parts

    def gather_in_order(self, part: Sequence[T]) -> list[T]:
        """The parts of all ranks in the order that they had before `share`."""
        parts = self.gather(part)
        return [parts[place % len(parts)][place // len(parts)] for place in range(sum(map(len, parts)))]

    def agree(self, decision: T | None = None) -> T:
        """The first rank's decision, on every rank. The other ranks pass None and wait for it."""
        decided: list[Any] = [decision]
        if self.count > 1:
            self.group().broadcast_object_list(decided)
        return decided[0]

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Sum the gradients of the shares. A weight without a gradient on every rank stays without one.

        Ranks that work alike have the same gradients up to rounding; they take the mean, so that their weights never
        drift apart.
        """
        import torch

        if self.count == 1:
            return
        weights = list(weights)
        grads = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        known = torch.tensor([weight.grad is not None for weight in weights], device=grads[0].device)
        flat = torch.cat([known.float(), *(grad.flatten().float() for grad in grads)])
        self.group().all_reduce(flat)
        if self.alike:
            flat /= self.count
        known, *sums = flat.split([len(weights), *(grad.numel() for grad in grads)])
        for weight, is_known, total in zip(weights, known.tolist(), sums, strict=True):
            weight.grad = total.view_as(weight).to(weight.dtype) if is_known else None

    def group(self) -> Any:
        """torch.distributed with all ranks in its group; objects go between CPUs, gradients between GPUs."""
        import torch
        import torch.distributed as group

        if not group.is_initialized():
            if self.cuda:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            group.init_process_group("cpu:gloo,cuda:nccl" if self.cuda else "gloo", timeout=PATIENCE)
        return group


ALONE = Ranks()
