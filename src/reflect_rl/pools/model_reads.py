"""Token scores and embeddings of a pool by a language model, stored next to the pool and reused."""

from __future__ import annotations

import glob
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reflect_rl.errors import SelectionError
from reflect_rl.pools.file import PoolFile
from reflect_rl.progress import Progress
from reflect_rl.selection.tokens import Tokens
from reflect_rl.settings import ComputeSettings, ModelSettings

if TYPE_CHECKING:
    from reflect_rl.lm.batches import Item, Pair
    from reflect_rl.pools.scores import ScoresFile

SENTENCES = "sentence-transformers:"
NEW_TOKENS = 32
VERSION = 2
"""Version of the computation. Change it whenever the same model and pool would give other numbers."""
TRIED = 4
"""Number of items scored to estimate the total time."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """Which model reads the pool, and how. None means not given.

    model: for token scores, and for embeddings unless `embed_model` is given. target: column of texts to score, instead
    of `new_tokens` generated tokens. embed_model: a causal LM, or sentence-transformers:NAME. layer, pooling: as in
    `lm.hidden.pooled_states`.
    """

    model: str | None = None
    target: str | None = None
    new_tokens: int | None = None
    embed_model: str | None = None
    layer: int | None = None
    pooling: Literal["mean", "last"] | None = None
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    bits: Literal[16, 32] = 32

    @property
    def embeds(self) -> str | None:
        """The model that computes embeddings, if any."""
        return self.embed_model or self.model

    @property
    def causal(self) -> bool:
        """Whether a causal language model is among the models."""
        return any(name and not name.startswith(SENTENCES) for name in (self.model, self.embed_model))

    def torch(self) -> AbstractContextManager[None]:
        """Context in which torch is set up for a causal language model. Without one, torch is not even imported."""
        if not self.causal:
            return nullcontext()
        import torch

        from reflect_rl.lm.torch_setup import torch_set_up

        return torch_set_up(ComputeSettings(device=self.device, threads=torch.get_num_threads()))

    def check(self) -> None:
        """Raise SelectionError for settings that exclude each other."""
        sentences = (self.embed_model or "").startswith(SENTENCES)
        for wrong, message in (
            (
                self.model == "" or self.embed_model == "",
                "--model and --embed-model should name a model: one is empty.",
            ),
            (self.target is not None and not self.model, "--target-column needs --model: who is to score the texts?"),
            (self.new_tokens and not self.model, "--new-tokens needs --model: who is to write them?"),
            (
                self.target is not None and self.new_tokens,
                "--target-column scores given texts, --new-tokens new ones: give one.",
            ),
            (self.new_tokens is not None and self.new_tokens < 1, "--new-tokens should be 1 or more."),
            (
                (self.layer is not None or self.pooling) and not self.embeds,
                "--layer and --pooling need --embed-model or --model.",
            ),
            (
                (self.layer is not None or self.pooling) and sentences,
                "A sentence-transformers model has a pooling of its own: leave out --layer and --pooling.",
            ),
            (
                self.device != "cpu" and not self.embeds,
                "--device needs --model or --embed-model: nothing else uses it.",
            ),
            (self.bits != 32 and not self.causal, "--bits needs a causal language model: nothing else uses it."),
            (
                (self.model or "").startswith(SENTENCES),
                "--model scores tokens, which sentence-transformers models cannot: give it to --embed-model.",
            ),
        ):
            if wrong:
                raise SelectionError(message)


@dataclass(frozen=True, slots=True)
class StatesSource:
    """A source of embeddings. mark: the model's fingerprint. states: done_N -> (row, embedding) of all other rows."""

    width: int
    settings: dict[str, Any]
    mark: str
    states: Callable[[np.ndarray], Iterator[tuple[int, np.ndarray]]]


class Column:
    """A column of the pool's texts, read again at each iteration. Raises SelectionError for an empty text."""

    def __init__(self, file: PoolFile, name: str, size: int) -> None:
        self.file, self.name, self.size = file, name, size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[str]:
        return self.file.texts(self.name, for_model=True)


class ModelReads:
    """What models compute about one pool. Raises SelectionError and ModelError."""

    def __init__(self, file: PoolFile, text: str, size: int, use: ModelUse, progress: Progress) -> None:
        use.check()
        self.file, self.use, self.progress = file, use, progress
        self.texts = Column(file, text, size)
        self.targets = Column(file, use.target, size) if use.target is not None else None
        self._loaded: dict[str, Any] = {}

    def tokens(self, quantity: str) -> Tokens:
        """Entropies, margins or logprobs of all items' tokens. Items missing in the scores file are computed."""
        from reflect_rl.pools.scores import write_scores

        file = self.scores_file
        done_N = file.done()
        writing = nullcontext() if done_N.all() else file.adding(self.progress)  # the folder may be read-only
        with writing as out:
            done_N = done_N if out is None else file.done()
            said = f"{int(done_N.sum()):,} of {len(self.texts):,} items are in {file.path.name} already"
            self.progress.say(said if done_N.any() else f"scores go to {file.path}")
            if out is not None and not done_N.all():
                for row, scores in self._scores(done_N):
                    write_scores(out, row, scores)
        return file.tokens(quantity)

    def states(self) -> np.ndarray:
        """(N, D) float32 embeddings of the texts, memory-mapped: stored ones, or computed and stored."""
        from reflect_rl.pools.embeddings import kept_embeddings

        source = self._source
        if not self.use.embed_model:
            self.progress.say(f"no --embed-model: hidden states of {self.use.model}, {_listed(source.settings)}")
        shape = (len(self.texts), source.width)
        return kept_embeddings(self._states_path, self._states_about, shape, source.states, self.progress)

    @property
    def width(self) -> int:
        """Size of an embedding."""
        return self._source.width

    def expected_states(self) -> str:
        """The expected work of embedding the pool, in words; without a time estimate."""
        if self._states_path.exists():
            return "embeddings are there"
        return f"{len(self.texts):,} texts read once for embeddings of {self.width:,} numbers (time not estimated)"

    @cached_property
    def _source(self) -> StatesSource:
        name, texts, progress = self.use.embeds or "", self.texts, self.progress
        if name.startswith(SENTENCES):
            from reflect_rl.lm.sentences import sentence_states, sentence_width

            sentences, mark = self._sentences(name)
            states = partial(sentence_states, sentences, texts, progress=progress)
            return StatesSource(sentence_width(sentences), {}, mark, lambda done_N: states(done_N=done_N))
        from reflect_rl.lm.hidden import pooled_states, width

        model, tokenizer, mark = self._causal(name)
        settings = {"layer": -1 if self.use.layer is None else self.use.layer, "pooling": self.use.pooling or "mean"}
        states = partial(pooled_states, model, tokenizer, texts, progress=progress, **settings)
        return StatesSource(width(model), settings, mark, lambda done_N: states(done_N=done_N))

    @cached_property
    def _states_about(self) -> dict[str, Any]:
        about = {"embeddings of": self.texts.name, "items": len(self.texts), **self._source.settings}
        return about | {"by": self.use.embeds, "fingerprint": _digest(about, self._source.mark, self._pool)}

    @property
    def _states_path(self) -> Path:
        return self._beside("embeddings", self._states_about["fingerprint"], ".npy")

    @cached_property
    def scores_file(self) -> ScoresFile:
        """The file for the scores of this model, pool and settings, existing or not."""
        from reflect_rl.pools.scores import ScoresFile

        *_, mark = self._causal(self.use.model or "")
        asked = {"target": self.targets.name} if self.targets else {"new tokens": self.new_tokens}
        about = {"scores after": self.texts.name, "items": len(self.texts), **asked}
        about |= {"by": self.use.model, "fingerprint": _digest(about, mark, self._pool, self._target_pool)}
        path = self._beside("scores", about["fingerprint"], ".jsonl")
        others = [
            each for each in path.parent.glob(f"{glob.escape(self.file.path.name)}.scores-*.jsonl") if each != path
        ]
        if others:
            self.progress.say(f"not used: scores of other models, settings or pools, files: {len(others)}")
        return ScoresFile(path, about, len(self.texts))

    @property
    def new_tokens(self) -> int:
        return 0 if self.targets else self.use.new_tokens or NEW_TOKENS

    def expected(self) -> str:
        """The expected work of scoring the rest of the pool, in words; the time is estimated from a small trial."""
        from reflect_rl.lm.scoring import Scorer

        model, tokenizer, _ = self._causal(self.use.model or "")
        scorer, done_N = Scorer(model, tokenizer, progress=self.progress), self.scores_file.done()
        prompts = count = tokens = 0
        tried: list[Item] = []
        for batch in scorer.batches(self._pairs(), self.new_tokens, done_N):
            prompts, count, tokens = prompts + len(batch), count + 1, tokens + _tokens(batch, self.new_tokens)
            tried = tried or batch[-TRIED:]
        if not prompts:
            return "no model calls: all scores are there"
        scorer.score(tried[:1], self.new_tokens)  # warm-up
        began = time.perf_counter()
        scorer.score(tried, self.new_tokens)
        seconds = (time.perf_counter() - began) / _tokens(tried, self.new_tokens) * tokens
        what = f"targets after {prompts:,} different prompts in {count:,} batches"
        if not self.targets:
            what = (
                f"{prompts:,} different prompts x {self.new_tokens} tokens in {count:,} batches, at most "
                f"{count * self.new_tokens:,} forward passes"
            )
        return f"{what}; about {_duration(seconds)} or less, by a trial with {len(tried)} of them"

    def _scores(self, done_N: np.ndarray) -> Iterator[tuple[int, Any]]:
        from reflect_rl.lm.scoring import generated_scores, given_scores

        model, tokenizer, _ = self._causal(self.use.model or "")
        if self.targets:
            return given_scores(model, tokenizer, self.texts, self.targets, done_N=done_N, progress=self.progress)
        given: dict[str, Any] = {"new_tokens": self.new_tokens, "done_N": done_N, "progress": self.progress}
        return generated_scores(model, tokenizer, self.texts, **given)

    def _pairs(self) -> Iterator[Pair]:
        targets = self.targets if self.targets else (None for _ in range(len(self.texts)))
        return zip(self.texts, targets, strict=True)

    def _causal(self, name: str) -> tuple[Any, Any, str]:
        """(model, tokenizer, fingerprint), loaded once."""
        if name not in self._loaded:
            from reflect_rl.lm.models import fingerprint
            from reflect_rl.lm.pretrained import load_pretrained
            from reflect_rl.lm.torch_setup import check_device

            check_device(self.use.device)
            part = ModelSettings(source=name, bits=self.use.bits)
            model, tokenizer = load_pretrained(part, self.use.device, read_only=True)
            core = getattr(tokenizer, "backend_tokenizer", None)
            rules = core.to_str() if core is not None else ""
            mark = _digest(fingerprint(model, tokenizer), rules, model.config.to_dict().get("eos_token_id"))
            self._loaded[name] = (model, tokenizer, f"{mark} {self.use.device}")
        return self._loaded[name]

    def _sentences(self, name: str) -> tuple[Any, str]:
        if name not in self._loaded:
            from reflect_rl.lm.models import fingerprint
            from reflect_rl.lm.sentences import load_sentence_model

            model: Any = load_sentence_model(name.removeprefix(SENTENCES), self.use.device)
            self._loaded[name] = (model, f"{fingerprint(model, model.tokenizer)} {model} {self.use.device}")
        return self._loaded[name]

    @cached_property
    def _pool(self) -> str:
        return _digest_texts(self.texts)

    @cached_property
    def _target_pool(self) -> str:
        return _digest_texts(self.targets) if self.targets else ""

    def _beside(self, what: str, mark: str, ending: str) -> Path:
        path = self.file.path
        return path.with_name(f"{path.name}.{what}-{mark}{ending}")


def _digest(*parts: Any) -> str:
    return hashlib.sha256(
        json.dumps([VERSION, *parts], sort_keys=True, default=str, allow_nan=False).encode()
    ).hexdigest()[:16]


def _digest_texts(texts: Column) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _tokens(batch: list[Item], new_tokens: int) -> int:
    return sum(len(item.prompt) + max(len(item.target), new_tokens) for item in batch)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 60
        else f"{seconds / 60:.0f} min"
        if seconds < 3600
        else f"{seconds / 3600:.1f} h"
    )
