"""The rank of this process under `accelerate launch` or torchrun. The first rank alone writes the run folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=7)
"""How long the other ranks wait for the first one, which runs all stages except RL alone."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """rank: index of this process. count: number of processes; 1 without a launcher. cpu: do not use a GPU."""

    rank: int
    count: int
    cpu: bool

    @classmethod
    def here(cls, cpu: bool) -> Ranks:
        """Read the environment variables that launchers set."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), cpu)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, decision: bool | None = None) -> bool:
        """Return the first rank's decision on every rank. The other ranks pass None and wait for it."""
        if self.count == 1:
            return bool(decision)
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        PartialState(cpu=self.cpu, timeout=PATIENCE)
        return bool(broadcast_object_list([decision])[0])


ALONE = Ranks(0, 1, True)
