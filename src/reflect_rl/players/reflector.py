"""Reflectors write the text that the policy reads with the state. All are frozen.

`reflect(states, sample=0) -> list[str]`: equal prompts are written once and remembered. `sample` distinguishes several
texts for one state with sampled decoding; greedy decoding ignores it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from reflect_rl.envs.checked import taught
from reflect_rl.errors import NonFiniteError, PromptError
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.chat import turn_end
from reflect_rl.lm.decoding import decoding_steps, mixes_lengths
from reflect_rl.lm.layers import is_sharded
from reflect_rl.lm.models import end_ids, pad_id
from reflect_rl.lm.out_of_memory import fitted
from reflect_rl.lm.text import decode, encode, encode_prompt
from reflect_rl.memo import Memo
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.progress import Bar
from reflect_rl.ranks import Ranks
from reflect_rl.records import State
from reflect_rl.seeding import stream, stream_seed
from reflect_rl.settings import ReflectorSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflect_rl.envs.base import TextEnv


Tick = Callable[[int], object]
"""Told of progress: on how many more of the states there is a text."""
Keep = Callable[[Mapping[str, str]], None]
"""Takes texts as they are written, by prompt."""
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


class ModelReflector(ABC):
    """A reflector that asks a language model. Equal prompts are written once.

    prompts: builds what the model reads. memo: stores texts by everything else that they depend on.

    Attributes:
        written: number of texts written so far.
        watch: called after each store of texts; see `shown_on`.
    """

    def __init__(self, prompts: PromptBuilder, settings: ReflectorSettings, memo: Memo) -> None:
        self.prompts = prompts
        self.settings = settings
        self.sampled = settings.decoding == "sample"
        self.memo = memo
        self.written = 0
        self.watch: Callable[[], object] = lambda: None

    def reflect(self, states: Sequence[State], sample: int = 0, tick: Tick = lambda states: None) -> list[str | None]:
        """See `Reflector`. Each text is stored as soon as it is written; tick: is called with the states it is for."""
        sample = sample if self.sampled else 0
        asked = [self.prompts.reflector_prompt(state) for state in states]
        times = Counter(prompt.text for prompt in asked)
        known = self.memo.get([(text, sample) for text in times])
        tick(sum(times[text] for text, _ in known))

        def keep(texts: Mapping[str, str]) -> None:
            fresh = {(prompt, sample): text for prompt, text in texts.items()}
            self.memo.put(fresh)
            known.update(fresh)
            self.written += len(fresh)
            self.watch()
            tick(sum(times[prompt] for prompt in texts))

        prompts = {prompt.text: prompt for prompt in asked if (prompt.text, sample) not in known}
        if prompts:
            self._write(list(prompts.values()), sample, keep)
        return [known[prompt.text, sample] for prompt in asked]

    def has_at_hand(self, state: State, sample: int = 0) -> bool:
        return bool(self.memo.get([(self.prompts.reflector_prompt(state).text, sample if self.sampled else 0)]))

    @abstractmethod
    def _write(self, prompts: Sequence[Prompt], sample: int, keep: Keep) -> None:
        """Write a text for each of these distinct prompts."""


class LocalReflector(ModelReflector):
    """A causal LM in eval mode that continues the reflector prompt up to its end token.

    memo: stores texts by the model's fingerprint and decoding parameters. chunk: maximum number of prompts decoded
    together. exact: a text does not depend, to the bit, on its batch: only prompts of equal length share a chunk
    (rounded up to LENGTH_STEP if the architecture allows padding), and it is filled up with copies. passes: how prompts
    go through the model; packed, their common prefixes are read once.
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
        passes: Passes | None = None,
    ) -> None:
        super().__init__(prompts, settings, memo)
        self.model = model.eval().requires_grad_(False)
        self.backbone = Backbone(model, passes)
        self.tokenizer = tokenizer
        self.seed = seed
        self.chunk = chunk
        self.exact = exact
        self.step = LENGTH_STEP if self.backbone.lookup else 1
        self.turn_end = turn_end(tokenizer, prompts.frames)
        self.ends = sorted({self.turn_end, *end_ids(model, tokenizer)})

    def written_as(self, text: str) -> list[int]:
        """The token ids with which the model writes this reflection, the end token included."""
        said = text if self.prompts.frames else f" {text}"
        return [*encode(self.tokenizer, said), self.turn_end]

    def _halve(self) -> bool:
        """Halve the chunks after one that ran out of memory; False if they cannot be smaller."""
        if self.chunk == 1 or is_sharded(self.model):
            return False
        self.chunk //= 2
        self.backbone.passes.progress.warn_here(
            f"The device ran out of memory: from now on, {self.chunk} reflections are written together. To begin with "
            f"that, set reflector.batch: {self.chunk}."
        )
        return True

    def _write(self, prompts: Sequence[Prompt], sample: int, keep: Keep) -> None:
        encoded = [encode_prompt(self.tokenizer, prompt.text, prompt.controls) for prompt in prompts]
        for part in self._chunks(encoded):
            seeds = [stream_seed(self.seed, f"reflection {prompts[index].text}", sample) for index in part]
            ids = [encoded[index] for index in part]
            written = fitted(partial(self._decode_in_chunks, ids, seeds), self._halve)
            texts = (decode(self.tokenizer, each).strip() for each in written)
            keep({prompts[index].text: text for index, text in zip(part, texts, strict=True)})

    def _decode_in_chunks(self, ids: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """`_decode` of one chunk, or of several, if chunks have become smaller since."""
        written: list[list[int]] = []
        for start in range(0, len(ids), self.chunk):
            part = ids[start : start + self.chunk]
            filled = part + [part[-1]] * (self.chunk - len(part)) * self.exact
            written += self._decode(filled, seeds[start : start + self.chunk])
        return written

    def _chunks(self, encoded: Sequence[list[int]]) -> Iterator[list[int]]:
        """The indices of prompts to decode together; if lengths may differ, prompts with a common prefix."""
        groups: dict[int, list[int]] = defaultdict(list)
        alike = self.exact or not mixes_lengths(self.backbone)
        for index, ids in enumerate(encoded):
            groups[-(-len(ids) // self.step) if alike else 0].append(index)
        for members in groups.values():
            if not alike:
                members.sort(key=encoded.__getitem__)
            for start in range(0, len(members), self.chunk):
                yield members[start : start + self.chunk]

    def _decode(self, ids: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """Token ids written after each prompt, cut before the end token; for the first len(seeds) prompts."""
        length = -(-max(map(len, ids)) // self.step) * self.step
        room = self.backbone.context - length
        if room < 1:
            raise PromptError(f"A reflector prompt has {length} tokens; the model reads {self.backbone.context}.")
        most = min(self.settings.max_new_tokens, room)
        uniforms = [stream(seed, "tokens").random(most) for seed in seeds]
        steps = decoding_steps(self.backbone, ids, length, length + most, pad_id(self.tokenizer))
        ends_E = torch.tensor(self.ends, device=self.model.device)
        done_B = torch.arange(len(ids), device=self.model.device) >= len(seeds)
        logits_BV, written = steps.first(), []
        if bool(torch.isnan(logits_BV).any()):
            raise NonFiniteError(
                "the reflector's probabilities are not finite",
                "Its weights are too large, or damaged: train it again, with a lower reflector_sft.lr.",
            )
        for step in range(most):
            next_B = self._pick(logits_BV, [row[step] for row in uniforms]).masked_fill(done_B, self.turn_end)
            written.append(next_B)
            done_B |= torch.isin(next_B, ends_E)
            if bool(done_B.all()) or step == most - 1:
                break
            logits_BV = steps(next_B[:, None])
        rows = torch.stack(written, dim=1).tolist()[: len(seeds)]
        return [row[: next((place for place, token in enumerate(row) if token in self.ends), len(row))] for row in rows]

    def _pick(self, logits_BV: Tensor, uniforms: list[float]) -> Tensor:
        if self.settings.decoding == "greedy":
            return logits_BV.argmax(-1)
        # On the CPU: a GPU's running sums are not deterministic.
        cumulative_BV = (logits_BV.cpu().double() / self.settings.temperature).softmax(-1).cumsum(-1)
        below = torch.tensor(uniforms + [0.5] * (len(logits_BV) - len(uniforms)))
        picked = torch.searchsorted(cumulative_BV, below.double().unsqueeze(1) * cumulative_BV[:, -1:]).squeeze(1)
        return picked.clamp(max=logits_BV.shape[1] - 1).to(logits_BV.device)


@contextmanager
def shown_on(bar: Bar, reflector: Reflector) -> Iterator[None]:
    """Show beside a bar how many reflections were written, at most once a second: a wave of them may take minutes."""
    if not isinstance(reflector, ModelReflector):
        yield
        return
    last = time.monotonic()

    def show() -> None:
        nonlocal last
        if time.monotonic() - last >= 1:
            last = time.monotonic()
            bar.note(reflections=reflector.written)
            bar.update(0)

    before, reflector.watch = reflector.watch, show
    try:
        yield
    finally:
        reflector.watch = before


def reflect_together(reflector: Reflector, states: Sequence[State], ranks: Ranks, tick: Tick) -> list[str | None]:
    """`reflector.reflect(states)` on all ranks, where each distinct prompt of a model is written by one of them."""
    if not isinstance(reflector, ModelReflector):
        tick(len(states))
        return reflector.reflect(states)
    if not ranks.sharing:
        return reflector.reflect(states, tick=tick)
    prompts = [reflector.prompts.reflector_prompt(state).text for state in states]
    distinct = dict(zip(prompts, states, strict=True))
    own = ranks.share(list(distinct.values()))
    texts = ranks.gather_in_order(reflector.reflect(own, tick=lambda done: tick(done * ranks.count)))
    text_of = dict(zip(distinct, texts, strict=True))
    return [text_of[prompt] for prompt in prompts]
