"""How prompts begin, read once while the weights stand still.

Prompts of one world are alike at first: the same task, the same grid but for the taxi, the same steps so far. Each
prompt is cut after about half of its own tokens, at a place that depends on the prompt alone; its opening, the part
before the cut, is read once for all prompts that begin so, behind the static text that all of them share. This is the
prefix caching of inference servers (Kwon et al. 2023, arXiv 2309.06180, section 4.4) with one cut instead of many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reflect_rl.players.backbone import Backbone, KeysValues

if TYPE_CHECKING:
    from reflect_rl.players.policy import Encoded

MOST_BYTES = 2**28
"""Of prefixes and openings together; beyond that all are dropped. What one batch needs is always kept."""


class Openings:
    """Keys and values of prefixes and openings, for as long as the weights do not change; for `Backbone.fast` alone.

    chunk: rows of a forward pass, always exactly these, so that an opening's numbers do not depend on its company.
    """

    def __init__(self, backbone: Backbone, chunk: int, most_bytes: int = MOST_BYTES) -> None:
        self.backbone = backbone
        self.chunk = chunk
        self.most_bytes = most_bytes
        self._bytes = 0
        self._prefixes: dict[tuple[int, ...], KeysValues] = {}
        self._shelves: dict[tuple[tuple[int, ...], int], _Shelf] = {}

    def sections(self, rows: Sequence[Encoded]) -> Iterator[list[int]]:
        """Places of rows of one bucket, as many at a time as their openings have room for; these have been read then.

        Rows with equal openings are neighbours.
        """
        if self._bytes > self.most_bytes:
            self._bytes = 0
            self._prefixes.clear()
            self._shelves.clear()
        order = sorted(range(len(rows)), key=lambda place: rows[place].opening)
        if not rows[0].cut:
            yield order
            return
        shelf = self._shelf(rows[0])
        start = 0
        while start < len(order):
            end, wanted = start, dict[tuple[int, ...], None]()
            while end < len(order) and (rows[order[end]].opening in wanted or len(wanted) < shelf.most):
                wanted[rows[order[end]].opening] = None
                end += 1
            self._bytes -= shelf.bytes
            shelf.read(list(wanted), self._prefix(rows[0].prefix))
            self._bytes += shelf.bytes
            yield order[start:end]
            start = end

    def before(self, rows: Sequence[Encoded]) -> list[KeysValues]:
        """What stands before the rest of these rows of one bucket, read already: their prefix, and their openings."""
        known = self._prefix(rows[0].prefix)
        return [*known, self._shelf(rows[0]).of([row.opening for row in rows])] if rows[0].cut else known

    def _prefix(self, prefix: tuple[int, ...]) -> list[KeysValues]:
        if not prefix:
            return []
        if prefix not in self._prefixes:
            self._bytes += len(prefix) * self.backbone.token_bytes
            self._prefixes[prefix] = self.backbone.read(torch.tensor([prefix], device=self.backbone.device))
        return [self._prefixes[prefix]]

    def _shelf(self, row: Encoded) -> _Shelf:
        key = row.prefix, row.cut
        if key not in self._shelves:
            most = self.most_bytes // (row.cut * self.backbone.token_bytes)
            self._shelves[key] = _Shelf(self.backbone, self.chunk, max(self.chunk, most))
        return self._shelves[key]


class _Shelf:
    """Openings of one length behind one prefix. kept: (2 x blocks, room, heads, length, D / heads)."""

    def __init__(self, backbone: Backbone, chunk: int, most: int) -> None:
        self.backbone = backbone
        self.chunk = chunk
        self.most = most
        self.places: dict[tuple[int, ...], int] = {}
        self.kept: Tensor | None = None

    @property
    def bytes(self) -> int:
        """What the openings take, those there is room for included."""
        return 0 if self.kept is None else self.kept.numel() * self.kept.element_size()

    def read(self, openings: Sequence[tuple[int, ...]], before: Sequence[KeysValues]) -> None:
        """Have these, no more than `most`; others are dropped if there is no room for all."""
        missing = [opening for opening in openings if opening not in self.places]
        if len(self.places) + len(missing) > self.most:
            self.places.clear()
            missing = list(openings)
        for start in range(0, len(missing), self.chunk):
            part = missing[start : start + self.chunk]
            filled = part + [part[-1]] * (self.chunk - len(part))
            ids_BL = torch.from_numpy(np.array(filled, dtype=np.int64)).to(self.backbone.device)
            self._keep(part, torch.stack([each for pair in self.backbone.read(ids_BL, before) for each in pair]))

    def _keep(self, openings: Sequence[tuple[int, ...]], read: Tensor) -> None:
        first = len(self.places)
        self.places.update((opening, first + place) for place, opening in enumerate(openings))
        if self.kept is None:
            self.kept = torch.empty_like(read)
        while self.kept.shape[1] < len(self.places):
            self.kept = torch.cat([self.kept, torch.empty_like(self.kept)], dim=1)
        self.kept[:, first : len(self.places)] = read[:, : len(openings)]

    def of(self, openings: Sequence[tuple[int, ...]]) -> KeysValues:
        """Keys and values of these, in order."""
        assert self.kept is not None
        rows = torch.tensor([self.places[opening] for opening in openings], device=self.backbone.device)
        chosen = self.kept.index_select(1, rows)
        return [(chosen[number], chosen[number + 1]) for number in range(0, len(chosen), 2)]
