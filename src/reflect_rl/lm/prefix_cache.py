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

from reflect_rl.lm.backbone import Backbone, KeysValues

if TYPE_CHECKING:
    from reflect_rl.lm.encoded import Encoded

MOST_BYTES = 2**28
"""Of prefixes and openings together. What one pass needs is always kept."""


class Openings:
    """Keys and values of prefixes and openings, for as long as the weights do not change; for `Backbone.fast` alone.

    Openings of one length are read by the same number of rows at a time, always, so that an opening's numbers do not
    depend on its company. most_bytes: if more would be kept, all is dropped first.
    """

    def __init__(self, backbone: Backbone, most_bytes: int = MOST_BYTES) -> None:
        self.backbone = backbone
        self.most_bytes = most_bytes
        self._prefixes: dict[tuple[int, ...], KeysValues] = {}
        self._shelves: dict[tuple[tuple[int, ...], int], _Shelf] = {}

    @property
    def bytes(self) -> int:
        """What is kept."""
        prefixes = sum(map(len, self._prefixes)) * self.backbone.token_bytes
        return prefixes + sum(shelf.bytes for shelf in self._shelves.values())

    def sections(self, rows: Sequence[Encoded]) -> Iterator[list[int]]:
        """Places of rows of one bucket, as many at a time as their openings have room for; these have been read then.

        Rows with equal openings are neighbours.
        """
        order = sorted(range(len(rows)), key=lambda place: rows[place].opening)
        start = 0
        while start < len(order):
            end, wanted = start, dict[tuple[int, ...], None]()
            most = max(self._shelf(rows[0]).chunk, self._room(rows[0], 0)) if rows[0].cut else len(order)
            while end < len(order) and (rows[order[end]].opening in wanted or len(wanted) < most):
                wanted[rows[order[end]].opening] = None
                end += 1
            self._read(rows[0], list(wanted))
            yield order[start:end]
            start = end

    def before(self, rows: Sequence[Encoded]) -> list[KeysValues]:
        """What stands before the rest of these rows of one bucket, read already: their prefix, and their openings."""
        known = self._prefix(rows[0].prefix)
        return [*known, self._shelf(rows[0]).of([row.opening for row in rows])] if rows[0].cut else known

    def _read(self, row: Encoded, openings: Sequence[tuple[int, ...]]) -> None:
        """Have these openings of the row's bucket, and its prefix; all others are dropped if there is no room."""
        shelf = self._shelf(row)
        missing = [opening for opening in openings if opening not in shelf.places] if row.cut else []
        if len(shelf.places) + len(missing) > self._room(row, self.bytes - shelf.bytes):
            self._prefixes.clear()
            self._shelves.clear()
            shelf, missing = self._shelf(row), list(openings) if row.cut else []
        before = self._prefix(row.prefix)
        shelf.read(missing, before, self._room(row, self.bytes - shelf.bytes))

    def _room(self, row: Encoded, taken: int) -> int:
        """Openings such as the row's for which there is room beside its prefix and so many bytes of others."""
        taken += 0 if row.prefix in self._prefixes else len(row.prefix) * self.backbone.token_bytes
        return (self.most_bytes - taken) // (max(1, row.cut) * self.backbone.token_bytes)

    def _prefix(self, prefix: tuple[int, ...]) -> list[KeysValues]:
        if not prefix:
            return []
        if prefix not in self._prefixes:
            self._prefixes[prefix] = self.backbone.read(torch.tensor([prefix], device=self.backbone.device))
        return [self._prefixes[prefix]]

    def _shelf(self, row: Encoded) -> _Shelf:
        chunk = self.backbone.passes.rows(max(1, row.cut))
        return self._shelves.setdefault((row.prefix, row.cut), _Shelf(self.backbone, chunk))


class _Shelf:
    """Openings of one length behind one prefix, `chunk` of them a pass.

    kept: (2 x blocks, room, heads, length, D / heads).
    """

    def __init__(self, backbone: Backbone, chunk: int) -> None:
        self.backbone = backbone
        self.chunk = chunk
        self.places: dict[tuple[int, ...], int] = {}
        self.kept: Tensor | None = None

    @property
    def bytes(self) -> int:
        """What the openings take, those there is room for included."""
        return 0 if self.kept is None else self.kept.numel() * self.kept.element_size()

    def read(self, openings: Sequence[tuple[int, ...]], before: Sequence[KeysValues], most: int) -> None:
        """Add these, which are not there yet. most: openings for which there may be room ahead."""
        total = len(self.places) + len(openings)
        room = max(total, min(2 * len(self.places), most))
        for start in range(0, len(openings), self.chunk):
            part = openings[start : start + self.chunk]
            filled = [*part, *[part[-1]] * (self.chunk - len(part))]
            ids_BL = torch.from_numpy(np.array(filled, dtype=np.int64)).to(self.backbone.device)
            self._keep(part, torch.stack([each for pair in self.backbone.read(ids_BL, before) for each in pair]), room)

    def _keep(self, openings: Sequence[tuple[int, ...]], read: Tensor, room: int) -> None:
        first = len(self.places)
        self.places.update((opening, first + place) for place, opening in enumerate(openings))
        have = 0 if self.kept is None else self.kept.shape[1]
        if len(self.places) > have:
            empty = read.new_empty((read.shape[0], room - have, *read.shape[2:]))
            self.kept = empty if self.kept is None else torch.cat([self.kept, empty], dim=1)
        assert self.kept is not None
        self.kept[:, first : len(self.places)] = read[:, : len(openings)]

    def of(self, openings: Sequence[tuple[int, ...]]) -> KeysValues:
        """Keys and values of these, in order."""
        assert self.kept is not None
        rows = torch.tensor([self.places[opening] for opening in openings], device=self.backbone.device)
        chosen = self.kept.index_select(1, rows)
        return [(chosen[number], chosen[number + 1]) for number in range(0, len(chosen), 2)]
