"""Reflectors write the text that the policy reads with the state. All are frozen.

`reflect(states, sample=0) -> list[str]`: equal prompts are written once and remembered. `sample` distinguishes several
texts for one state with sampled decoding; greedy decoding ignores it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from reflect_rl.envs.checked import taught
from reflect_rl.errors import NonFiniteError, PromptError
from reflect_rl.lm.backbone import Backbone
from reflect_rl.lm.decoding import decoding_steps
from reflect_rl.lm.layers import is_sharded
from reflect_rl.lm.models import end_id
from reflect_rl.lm.out_of_memory import fitted
from reflect_rl.lm.text import decode, encode
from reflect_rl.players.memo import Memo
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.progress import Progress
from reflect_rl.ranks import Ranks
from reflect_rl.records import State
from reflect_rl.seeding import stream, stream_seed
from reflect_rl.settings import ReflectorSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflect_rl.envs.base import TextEnv


LENGTH_STEP = 128
"""Prompts are padded to a multiple of this many tokens, if the architecture allows padding."""


class Reflector(Protocol):
    """A writer of reflections. `sampled`: whether `sample` matters."""

    sampled: bool

    def reflect(self, states: Sequence[State], sample: int = 0) -> list[str | None]:
        """A text for each state; None without reflection."""
        ...

    def has_at_hand(self, state: State, sample: int = 0) -> bool:
        """Whether `reflect` would answer at once, without many forward passes of a model."""
        ...


class NoReflector:
    """The arm without reflection."""

    sampled = False

    def reflect(self, states: Sequence[State], sample: int = 0) -> list[str | None]:
        return [None] * len(states)

    def has_at_hand(self, state: State, sample: int = 0) -> bool:
        return True


class ScriptedReflector:
    """The world's own teacher, which reads the facts in the state: an upper bound, not a learned reflector."""

    sampled = False

    def __init__(self, world: type[TextEnv], style: str) -> None:
        self.world = world
        self.style = style

    def reflect(self, states: Sequence[State], sample: int = 0) -> list[str | None]:
        return [taught(self.world, state.facts, self.style) for state in states]

    def has_at_hand(self, state: State, sample: int = 0) -> bool:
        return True


class LocalReflector:
    """A causal LM in eval mode that continues the reflector prompt up to its end token.

    memo: stores texts by the model's fingerprint and decoding parameters. chunk: maximum number of prompts decoded
    together. Only prompts of equal length share a chunk; if the architecture allows padding, lengths are rounded up to
    LENGTH_STEP. exact: chunks are filled up with copies, so a text does not depend, to the bit, on its batch. progress:
    is warned if the device runs out of memory and chunks become smaller.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: PromptBuilder,
        settings: ReflectorSettings,
        memo: Memo,
        seed: int = 0,
        chunk: int = 16,
        exact: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.backbone = Backbone(model)
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.settings = settings
        self.sampled = settings.decoding == "sample"
        self.memo = memo
        self.seed = seed
        self.chunk = chunk
        self.exact = exact
        self.progress = progress or Progress()
        self.written = 0
        self.step = LENGTH_STEP if self.backbone.lookup else 1

    def reflect(self, states: Sequence[State], sample: int = 0) -> list[str | None]:
        sample = sample if self.sampled else 0
        texts = [self.prompts.reflector_prompt(state).text for state in states]
        wanted = [(text, sample) for text in dict.fromkeys(texts)]
        known = self.memo.get(wanted)
        missing = [pair for pair in wanted if pair not in known]
        if missing:
            written = fitted(lambda: self._write([text for text, _ in missing], sample), self._halve)
            fresh = dict(zip(missing, written, strict=True))
            self.memo.put(fresh)
            known |= fresh
            self.written += len(fresh)
        return [known[text, sample] for text in texts]

    def has_at_hand(self, state: State, sample: int = 0) -> bool:
        return bool(self.memo.get([(self.prompts.reflector_prompt(state).text, sample if self.sampled else 0)]))

    def _halve(self) -> bool:
        """Halve the chunks after one that ran out of memory; False if they cannot be smaller."""
        if self.chunk == 1 or is_sharded(self.model):
            return False
        self.chunk //= 2
        self.progress.warn_here(
            f"The device ran out of memory: from now on, {self.chunk} reflections are written together. To begin with "
            f"that, set reflector.batch: {self.chunk}."
        )
        return True

    def _write(self, prompts: Sequence[str], sample: int) -> list[str]:
        groups: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            ids = encode(self.tokenizer, prompt)
            groups[-(-len(ids) // self.step)].append((index, ids))
        texts = [""] * len(prompts)
        for members in groups.values():
            for start in range(0, len(members), self.chunk):
                part = members[start : start + self.chunk]
                seeds = [stream_seed(self.seed, f"reflection {prompts[index]}", sample) for index, _ in part]
                filled = [ids for _, ids in part] + [part[-1][1]] * (self.chunk - len(part)) * self.exact
                for (index, _), ids in zip(part, self._decode(filled, seeds), strict=False):
                    texts[index] = decode(self.tokenizer, ids).strip()
        return texts

    def _decode(self, ids: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """Token ids written after each prompt, cut before the end token. Rounded up, the prompts have equal length."""
        length = -(-len(ids[0]) // self.step) * self.step
        room = self.backbone.context - length
        if room < 1:
            raise PromptError(f"A reflector prompt has {len(ids[0])} tokens; the model reads {self.backbone.context}.")
        most = min(self.settings.max_new_tokens, room)
        uniforms = [stream(seed, "tokens").random(most) for seed in seeds]
        written, end = [], end_id(self.tokenizer)
        pads = [length - len(row) for row in ids]
        pads_B = torch.tensor(pads, device=self.model.device) if self.backbone.lookup else None
        steps = decoding_steps(self.backbone, len(ids), length + most, pads_B)
        next_BL = torch.tensor(
            [[end] * pad + row for pad, row in zip(pads, ids, strict=True)], device=self.model.device
        )
        done_B = torch.arange(len(ids), device=self.model.device) >= len(seeds)
        for step in range(most):
            logits_BV = steps(next_BL)
            if not step and bool(torch.isnan(logits_BV).any()):
                raise NonFiniteError(
                    "the reflector's probabilities are not finite",
                    "Its weights are too large, or damaged: train it again, with a lower reflector_sft.lr.",
                )
            next_B = self._pick(logits_BV, [row[step] for row in uniforms])
            next_BL = next_B.masked_fill(done_B, end).unsqueeze(1)
            written.append(next_BL)
            done_B = done_B | (next_B == end)
            if bool(done_B.all()):
                break
        rows = torch.cat(written, dim=1).tolist()[: len(seeds)]
        return [row[: row.index(end)] if end in row else row for row in rows]

    def _pick(self, logits_BV: Tensor, uniforms: list[float]) -> Tensor:
        if self.settings.decoding == "greedy":
            return logits_BV.argmax(-1)
        cumulative_BV = (logits_BV.double() / self.settings.temperature).softmax(-1).cumsum(-1)
        below = torch.tensor(uniforms + [0.5] * (len(logits_BV) - len(uniforms)), device=logits_BV.device)
        picked = torch.searchsorted(cumulative_BV, below.double().unsqueeze(1) * cumulative_BV[:, -1:]).squeeze(1)
        return picked.clamp(max=logits_BV.shape[1] - 1)


def reflect_together(reflector: Reflector, states: Sequence[State], ranks: Ranks) -> list[str | None]:
    """`reflector.reflect(states)` on all ranks, where each distinct prompt of a model is written by one of them."""
    if not (ranks.sharing and isinstance(reflector, LocalReflector)):
        return reflector.reflect(states)
    prompts = [reflector.prompts.reflector_prompt(state).text for state in states]
    distinct = dict(zip(prompts, states, strict=True))
    texts = ranks.gather_in_order(reflector.reflect(ranks.share(list(distinct.values()))))
    text_of = dict(zip(distinct, texts, strict=True))
    return [text_of[prompt] for prompt in prompts]
