"""The losses of the two warm-ups. With packed prompts they come in parts, one per forward pass.

The reflector's loss is the cross-entropy of the teacher's texts given their prompts, the policy's that of the expert's
choice. Vocabulary logits are computed only at scored positions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reflect_rl.lm.backbone import Backbone, TokenBatch
from reflect_rl.lm.encoded import Encoded
from reflect_rl.lm.packed import packs
from reflect_rl.players.policy import Policy

IGNORE = -100
LENGTH_STEP = 64
"""Texts in the same bucket of this many tokens are padded to one length."""
TextRow = tuple[Encoded, Sequence[int]]
"""A prompt followed by a text, read before each of the text's tokens; and these tokens."""


class ChoiceRow(NamedTuple):
    """A prompt, the indices of its correct actions, and how much the example weighs."""

    prompt: Encoded
    wanted: Sequence[int]
    weight: float = 1.0


Loss = Callable[[Sequence[int], Sequence[int]], Iterable[Tensor]]
"""What a share of a batch adds to the mean loss of the batch, in parts to be summed, one per forward pass. Share and
batch are indices of examples.
"""


def text_loss(backbone: Backbone, rows: Sequence[TextRow], pad: int) -> Loss:
    """Mean cross-entropy of the texts' tokens; prompt tokens are not scored."""
    return _packed_loss(backbone, rows) if backbone.passes.packed else _padded_loss(backbone, rows, pad)


def _packed_loss(backbone: Backbone, rows: Sequence[TextRow]) -> Loss:
    """Each edge of the trie is weighted by the number of texts that pass along it."""

    def loss(share: Sequence[int], batch: Sequence[int]) -> Iterator[Tensor]:
        chosen = [rows[index] for index in share]
        tokens = sum(len(rows[index][1]) for index in batch)
        for pack in packs([row.ids for row, _ in chosen], backbone.learning_tokens):
            pairs = zip(pack.rows, pack.paths, strict=True)
            nodes = np.concatenate([path[chosen[place][0].places] for place, path in pairs])
            wanted = np.concatenate([chosen[place][1] for place in pack.rows])
            edges, times = np.unique(np.stack([nodes, wanted]), axis=1, return_counts=True)
            read, place_of = np.unique(edges[0], return_inverse=True)
            read_N, place_E, want_E, times_E = (
                torch.from_numpy(values).to(backbone.device) for values in (read, place_of, edges[1], times)
            )
            logits_NV = backbone.logits(backbone.nodes(pack)[read_N])
            yield ((logits_NV.logsumexp(1)[place_E] - logits_NV[place_E, want_E]) * times_E).sum() / tokens

    return loss


def _padded_loss(backbone: Backbone, rows: Sequence[TextRow], pad: int) -> Loss:
    """Rows of similar length are batched. The passes of a step are one part, unless a bound was set for passes."""
    device = backbone.output_rows.device

    def loss(share: Sequence[int], batch: Sequence[int]) -> Iterator[Tensor]:
        groups: dict[int, list[TextRow]] = defaultdict(list)
        for index in share:
            groups[-(-len(rows[index][0].rest) // LENGTH_STEP)].append(rows[index])
        tokens = sum(len(rows[index][1]) for index in batch)
        if not backbone.passes.learning:
            if groups:
                yield torch.stack([total(chosen) for chosen in groups.values()]).sum() / tokens
            return
        for chosen in groups.values():
            longest = max(len(row.ids) for row, _ in chosen)
            most = max(1, backbone.passes.learning // longest)
            for first in range(0, len(chosen), most):
                yield total(chosen[first : first + most]) / tokens

    def total(chosen: Sequence[TextRow]) -> Tensor:
        prefix = chosen[0][0].prefix
        bodies = [row.rest if row.prefix == prefix else row.prefix + row.rest for row, _ in chosen]
        if any(row.prefix != prefix for row, _ in chosen):
            bodies, prefix = [row.prefix + row.rest for row, _ in chosen], ()
        shift = [len(body) - len(row.rest) for body, (row, _) in zip(bodies, chosen, strict=True)]
        length, width = max(map(len, bodies)), max(len(said) for _, said in chosen)
        ids_BL = torch.tensor([body + (pad,) * (length - len(body)) for body in bodies])
        reads = [[place + s for place in row.read] for s, (row, _) in zip(shift, chosen, strict=True)]
        read_BR = torch.tensor([read + [0] * (width - len(read)) for read in reads])
        want_BR = torch.tensor([(*said, *[IGNORE] * (width - len(said))) for _, said in chosen], device=device)
        batch = TokenBatch(torch.tensor(prefix, dtype=torch.long), ids_BL, read_BR).to(device)
        logits_BRV = backbone.logits(backbone.hidden(batch))
        return F.cross_entropy(logits_BRV.flatten(0, 1), want_BR.flatten(), ignore_index=IGNORE, reduction="sum")

    return loss


def weights_of(pairs: Sequence[tuple[Hashable, Hashable]]) -> list[float]:
    """The weight of each distinct (prompt, label), in the order of their first occurrence.

    A repeat teaches nothing new, so each weighs 1; but if a prompt has several labels, each weighs as often as it was
    given, 1 on average: 180 times "left" and 20 times "right" weigh 1.8 and 0.2.
    """
    counts = Counter(pairs)
    of_prompt: dict[Hashable, list[int]] = defaultdict(list)
    for (prompt, _), count in counts.items():
        of_prompt[prompt].append(count)
    return [count * len(of_prompt[prompt]) / sum(of_prompt[prompt]) for (prompt, _), count in counts.items()]


def choice_loss(policy: Policy, rows: Sequence[ChoiceRow], smoothing: float) -> Loss:
    """Cross-entropy of the choice among the admissible actions, with label smoothing; mean over a mixture's heads.

    If several actions are correct, their total probability counts.
    """

    def loss(share: Sequence[int], batch: Sequence[int]) -> Iterator[Tensor]:
        for part in policy.through.parts([rows[i].prompt for i in share]):
            yield mean([share[place] for place in part]) * (len(part) / len(batch))

    def mean(indices: Sequence[int]) -> Tensor:
        chosen = [rows[i] for i in indices]
        width = max(row.prompt.actions for row in chosen)
        heads_BHN = policy([row.prompt for row in chosen], width).heads_BHN
        allowed_BHN = torch.isfinite(heads_BHN)
        finite_BHN = heads_BHN.masked_fill(~allowed_BHN, 0.0)
        right_BN = torch.zeros(len(chosen), width, dtype=torch.bool)
        for place, row in enumerate(chosen):
            right_BN[place, list(row.wanted)] = True
        right_B1N = right_BN.unsqueeze(1).to(heads_BHN.device)
        hit_BH = finite_BHN.masked_fill(~right_B1N, -torch.inf).logsumexp(2)
        uniform_BH = finite_BHN.sum(2) / allowed_BHN.sum(2)
        weight_B1 = torch.tensor([[row.weight] for row in chosen], device=heads_BHN.device)
        return -(((1 - smoothing) * hit_BH + smoothing * uniform_BH) * weight_B1).mean()

    return loss
