"""Forward passes of encoded prompts in either mode of `Passes`: hidden states at the read positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import numpy as np
import torch
from torch import Tensor

from reflect_rl.lm.backbone import Backbone, TokenBatch
from reflect_rl.lm.encoded import Encoded
from reflect_rl.lm.packed import packs


class Forward:
    """fill: the padding token id. by_length: whether the padded rows of a pass have similar lengths."""

    def __init__(self, backbone: Backbone, fill: int, by_length: bool) -> None:
        self.backbone = backbone
        self.fill = fill
        self.by_length = by_length

    def parts(self, rows: Sequence[Encoded]) -> list[list[int]]:
        """Split rows, by index, into parts for one pass with gradients each; gradients accumulate over parts."""
        most = self.backbone.learning_tokens
        if self.backbone.passes.packed:
            return [pack.rows for pack in packs([row.ids for row in rows], most)]
        together = max(1, most // max((len(row.prefix) + row.length for row in rows), default=1))
        return [list(range(first, min(first + together, len(rows)))) for first in range(0, len(rows), together)]

    def hidden(self, rows: Sequence[Encoded]) -> Iterator[tuple[list[int], Tensor]]:
        """Indices of rows with equally many read positions, and their hidden_BRD, with gradients."""
        return self._packed(rows) if self.backbone.passes.packed else self._padded(rows)

    def _packed(self, rows: Sequence[Encoded]) -> Iterator[tuple[list[int], Tensor]]:
        """Without gradients, what all rows begin with is read once, and kept for later calls."""
        opens = not torch.is_grad_enabled() and len({row.prefix for row in rows}) == 1 and len(rows[0].prefix) > 0
        opening = self.backbone.opening(rows[0].prefix) if opens else None
        for pack in packs([row.rest if opens else row.ids for row in rows], self.backbone.passes.tokens):
            x_TD = self.backbone.nodes(pack, opening)
            groups: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
            for place, path in zip(pack.rows, pack.paths, strict=True):
                read = list(rows[place].read) if opens else rows[place].places
                groups[len(read)].append((place, path[read]))
            for members in groups.values():
                places, nodes = zip(*members, strict=True)
                yield list(places), x_TD[torch.from_numpy(np.stack(nodes)).to(x_TD.device)]

    def _padded(self, rows: Sequence[Encoded]) -> Iterator[tuple[list[int], Tensor]]:
        groups: dict[object, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            groups[row.bucket if self.by_length else (row.prefix, len(row.read))].append(place)
        for places in groups.values():
            yield places, self.backbone.hidden(self.batch([rows[place] for place in places]))

    def alike(self, rows: Sequence[Encoded]) -> Iterator[tuple[list[int], list[Encoded], Tensor]]:
        """Indices of some rows of one bucket, these rows filled up with copies, and their hidden_BRD.

        A row's results do not depend, to the bit, on its batch: the chunk size depends on the bucket only, and the last
        chunk is filled up with copies.
        """
        groups: dict[object, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            groups[row.bucket].append(place)
        for members in groups.values():
            row = rows[members[0]]
            chunk = self.backbone.passes.rows(row.length + (0 if self.backbone.fast else len(row.prefix)))
            for start in range(0, len(members), chunk):
                places = members[start : start + chunk]
                filled = [rows[place] for place in (*places, *[places[-1]] * (chunk - len(places)))]
                yield places, filled, self.backbone.hidden(self.batch(filled))

    def batch(self, rows: Sequence[Encoded]) -> TokenBatch:
        """A padded batch of rows with the same prefix and number of read positions."""
        prefix = rows[0].prefix
        length = min(max(row.length for row in rows), self.backbone.context - len(prefix))
        filled = chain.from_iterable((*row.rest, *repeat(self.fill, length - len(row.rest))) for row in rows)
        ids_BL = torch.from_numpy(np.fromiter(filled, np.int64, len(rows) * length).reshape(len(rows), -1))
        read_BR = torch.tensor([row.read for row in rows])
        return TokenBatch(torch.tensor(prefix, dtype=torch.long), ids_BL, read_BR).to(self.backbone.device)
