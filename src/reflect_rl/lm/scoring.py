"""Token scores of a causal LM for the tokens after a prompt, its own or given ones, before any label exists.

    for row, scores in generated_scores(model, tokenizer, prompts, new_tokens=32):
        scores.text, scores.entropies, scores.margins, scores.logprobs

The uncertainty strategies of `reflect_rl.selection` rank by these scores (arXiv 2401.06692). Memory does not grow with
the number of prompts, and no vocabulary-wide tensor outlives its step. Batch composition changes a score only by
rounding (below 1e-4 in float32; if the two most likely tokens are closer than that, the text may differ). Batches
depend on the texts and settings only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reflect_rl.errors import ModelError
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.batches import CELLS, TOKEN_BUDGET, Encoder, Item, Pair, Texts, batches
from reflect_rl.lm.decoding import decoding_steps, mixes_lengths
from reflect_rl.lm.models import end_ids, pad_id
from reflect_rl.lm.packed import PACKED, packs, why_not
from reflect_rl.lm.reading import make_reader
from reflect_rl.lm.text import Framed, decode
from reflect_rl.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Stats = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """Scores of the T tokens after a prompt, float32 (T,), from the model's distribution before each token.

    text: the tokens as text, without special tokens. entropies: in nats, at least 0. margins: probability of the most
    likely token minus that of the second, in [0, 1]. logprobs: log-probability of the token, at most 0.
    """

    text: str
    entropies: np.ndarray
    margins: np.ndarray
    logprobs: np.ndarray


def generated_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts[str | Framed],
    *,
    new_tokens: int = 32,
    turn_end: int | None = None,
    token_budget: int = TOKEN_BUDGET,
    done_N: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, TokenScores]]:
    """(index of the text, scores) of the greedy continuation of each text, in order of computation.

    new_tokens: maximum number of generated tokens, at least 1. The end token is scored too and ends the text, so there
    is at least one token. turn_end: a token that ends a text besides the model's own end tokens. token_budget: maximum
    rows times tokens of a batch. done_N: (N,) bool, texts to leave out.
    Raises ModelError for an empty text, no room for the tokens, or numbers that are not finite.
    """
    if new_tokens < 1:
        raise ModelError(f"{new_tokens} new tokens cannot be scored. Ask for 1 or more.")
    scorer = Scorer(model, tokenizer, turn_end, token_budget=token_budget, progress=progress)
    yield from scorer.scores(len(texts), ((text, None) for text in texts), new_tokens, done_N)


def given_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts[str],
    targets: Texts[str],
    *,
    token_budget: int = TOKEN_BUDGET,
    done_N: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, TokenScores]]:
    """(index of the text, scores) of a given target after each text (teacher forcing); otherwise as `generated_scores`.

    Targets are tokenized separately, without special tokens, so a space between text and target must belong to one of
    them. The end of a target is not scored.
    """
    scorer = Scorer(model, tokenizer, token_budget=token_budget, progress=progress)
    yield from scorer.scores(len(texts), zip(texts, targets, strict=True), 0, done_N)


class Scorer:
    """A model with its batch limits; the basis of `generated_scores` and `given_scores`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        turn_end: int | None = None,
        *,
        token_budget: int = TOKEN_BUDGET,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.progress = progress or Progress()
        self.encoder = Encoder(model, tokenizer, self.progress)
        ends = {*end_ids(model, tokenizer), *([] if turn_end is None else [turn_end])}
        self.ends_E = torch.tensor(sorted(ends), device=model.device)
        self.token_budget = token_budget
        self.backbone = Backbone(model, Passes(why_not(model) is None, PACKED[model.device.type]))

    def batches(self, pairs: Iterable[Pair], new_tokens: int, done_N: np.ndarray) -> Iterator[list[Item]]:
        """The batches for `score`. new_tokens: 0 for given targets. done_N: (N,) bool, texts to leave out."""
        return batches(
            self.encoder,
            pairs,
            room=new_tokens,
            token_budget=self.token_budget,
            most_rows=max(1, CELLS // vocabulary(self.model)),
            padded=mixes_lengths(self.backbone),
            done_N=done_N,
        )

    def scores(
        self, size: int, pairs: Iterable[Pair], new_tokens: int, done_N: np.ndarray | None
    ) -> Iterator[tuple[int, TokenScores]]:
        done_N = np.zeros(size, bool) if done_N is None else done_N
        with self.progress.bar("score", size, "prompts", int(done_N.sum())) as bar:
            for batch in self.batches(pairs, new_tokens, done_N.copy()):
                for item, scores in zip(batch, self.score(batch, new_tokens), strict=True):
                    for row in item.rows:
                        if not done_N[row]:
                            yield row, scores
                            bar.update()

    @torch.no_grad()
    def score(self, batch: Sequence[Item], new_tokens: int) -> list[TokenScores]:
        """Scores of one batch: of `new_tokens` generated tokens, or of the targets if it is 0."""
        if new_tokens:
            ids_BT, *stats = self._written(batch, new_tokens)
        elif self.backbone.passes.packed:
            ids_BT, *stats = self._packed(batch)
        else:
            ids_BT, *stats = self._followed(batch)
        values_BT = [stat.cpu().numpy() for stat in stats]
        scores = []
        for number, (item, ids) in enumerate(zip(batch, ids_BT.tolist(), strict=True)):
            T = len(item.target) or self._length(ids)
            parts = [values[number, :T].copy() for values in values_BT]
            if not all(np.isfinite(part).all() for part in parts):
                raise ModelError(
                    f"The model gives numbers that are not finite after item {item.rows[0]}: its weights or its number "
                    f"format are unsound. Try 32 bits, or another model."
                )
            scores.append(TokenScores(decode(self.tokenizer, ids[:T]), *parts))
        return scores

    def _written(self, batch: Sequence[Item], most: int) -> Stats:
        """Greedy decoding until all rows have ended: ids_BT and three statistics of each token."""
        prompts = [item.prompt for item in batch]
        longest = max(map(len, prompts))
        decode_next = decoding_steps(self.backbone, prompts, longest, longest + most, pad_id(self.tokenizer))
        steps, logits_BV = [], decode_next.first()
        ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=self.model.device)
        for step in range(most):
            next_B = logits_BV.argmax(-1)
            steps.append((next_B, *token_stats(logits_BV, next_B)))
            ended_B |= torch.isin(next_B, self.ends_E)
            if step == most - 1 or bool(ended_B.all()):
                break
            logits_BV = decode_next(next_B[:, None])
        ids_BT, entropies_BT, margins_BT, logprobs_BT = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
        return ids_BT, entropies_BT, margins_BT, logprobs_BT

    def _packed(self, batch: Sequence[Item]) -> Stats:
        """Read prompts with their targets as tries: the targets and three statistics of each token, padded by 0."""
        most = max(len(item.target) for item in batch)
        ids_BT = self._tensor([item.target + [0] * (most - len(item.target)) for item in batch])
        stats_3BT = torch.zeros(3, *ids_BT.shape, device=self.model.device)
        piece = max(1, CELLS // vocabulary(self.model))
        for pack in packs([item.prompt + item.target[:-1] for item in batch], self.backbone.passes.tokens):
            x_TD = self.backbone.nodes(pack)
            for place, path in zip(pack.rows, pack.paths, strict=True):
                item = batch[place]
                nodes_T = torch.from_numpy(path[len(item.prompt) - 1 :]).to(x_TD.device)
                for first in range(0, len(item.target), piece):
                    end = min(first + piece, len(item.target))
                    logits_KV = self.backbone.logits(x_TD[nodes_T[first:end]])
                    stats_3BT[:, place, first:end] = torch.stack(token_stats(logits_KV, ids_BT[place, first:end]))
        entropies_BT, margins_BT, logprobs_BT = stats_3BT
        return ids_BT, entropies_BT, margins_BT, logprobs_BT

    def _followed(self, batch: Sequence[Item]) -> Stats:
        """The same with padded rows; targets are read in pieces that keep logits_BKV within CELLS."""
        longest, T = max(len(item.prompt) for item in batch), max(len(item.target) for item in batch)
        fill, B = pad_id(self.tokenizer), len(batch)
        pads = [longest - len(item.prompt) for item in batch]
        read = make_reader(self.model, torch.tensor(pads, device=self.model.device), longest + T)
        targets_BT = self._tensor([item.target + [fill] * (T - len(item.target)) for item in batch])
        logits_BKV = read(self._tensor([[fill] * pad + item.prompt for pad, item in zip(pads, batch, strict=True)]))
        parts, first = [token_stats(logits_BKV, targets_BT[:, :1])], 0
        piece = max(1, CELLS // (B * logits_BKV.shape[-1]))
        del logits_BKV
        while first < T - 1:
            end = min(first + piece, T - 1)
            parts.append(token_stats(read(targets_BT[:, first:end], end - first), targets_BT[:, first + 1 : end + 1]))
            first = end
        entropies_BT, margins_BT, logprobs_BT = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return targets_BT, entropies_BT, margins_BT, logprobs_BT

    def _length(self, ids: list[int]) -> int:
        """Number of tokens up to and including the first end token."""
        ends = set(self.ends_E.tolist())
        return next((place for place, token in enumerate(ids, 1) if token in ends), len(ids))

    def _tensor(self, rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, device=self.model.device)


def token_stats(logits_V: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(entropy, margin, log-probability of `chosen`) of each distribution. logits_V: (..., V), chosen: (...)."""
    logprobs_V = logits_V.log_softmax(-1)
    probs_V = logprobs_V.exp()
    entropy = torch.special.entr(probs_V).sum(-1).clamp(min=0)
    first_second = probs_V.topk(2, dim=-1).values
    margin = (first_second[..., 0] - first_second[..., 1]).clamp(0, 1)
    return entropy, margin, logprobs_V.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).clamp(max=0)


def vocabulary(model: PreTrainedModel) -> int:
    """Number of logits per position."""
    return int(model.get_output_embeddings().weight.shape[0])  # type: ignore[union-attr]
