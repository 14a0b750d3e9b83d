"""This process among those of `accelerate launch` or torchrun: one writes the run folder, all help where they can."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=7)
"""How long the ranks that help wait for the first one, which does all stages but RL alone."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """rank: this process's number from 0. count: how many there are; 1 without a launcher. cpu: do without a GPU."""

    rank: int
    count: int
    cpu: bool

    @classmethod
    def here(cls, cpu: bool) -> Ranks:
        """From the environment that launchers set."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), cpu)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, decision: bool | None = None) -> bool:
        """The first rank's decision, on every rank; the others pass None and wait for it."""
        if self.count == 1:
            return bool(decision)
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        PartialState(cpu=self.cpu, timeout=PATIENCE)
        return bool(broadcast_object_list([decision])[0])


ALONE = Ranks(0, 1, True)
