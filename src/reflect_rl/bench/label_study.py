"""Label efficiency on a text pool: does selecting what is labelled teach more than labelling at random?

The task is to write the words of a function's name given its docstring (`label_pool`). A small model trained on another
package's functions stands for a pretrained one: it embeds and scores the docstrings of the pool before any label is
known. Each strategy picks a share of the pool, the picks are labelled, and the model is trained on them, always from
the same start with the same settings. The measures are loss and exact matches on held-out functions. The seed decides
what is held out, how the model starts, and what is picked at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reflect_rl.bench.label_pool import Pair
from reflect_rl.lm.backbone import Backbone
from reflect_rl.lm.encoded import Encoded, compact
from reflect_rl.lm.hidden import hidden_states
from reflect_rl.lm.models import end_id, pad_id
from reflect_rl.lm.pretrained import load_pretrained, save_model
from reflect_rl.lm.scoring import generated_scores, given_scores
from reflect_rl.lm.scratch import scratch_model, train_tokenizer
from reflect_rl.lm.text import encode, most_tokens
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream, stream_seed
from reflect_rl.selection import STRATEGIES, MeanEntropy, Picks, Random, Uncertainty
from reflect_rl.settings import ModelSettings
from reflect_rl.settings.training import SftSettings
from reflect_rl.training.fit import fit
from reflect_rl.training.sft_losses import TextRow, text_loss

HELD_OUT = 0.2
NEW_TOKENS = 12
BATCH = 32
BASE_EPOCHS, BASE_LR = 12, 6e-3
EPOCHS, LR = 6, 2e-3
MODEL = ModelSettings(architecture="lookup", width=64, heads=2)


@dataclass(frozen=True)
class Task:
    """The pool, the held-out pairs, and the folder of this seed."""

    pool: list[Pair]
    held: list[Pair]
    before: list[Pair]
    seed: int
    run: RunFolder

    @cached_property
    def prompts(self) -> list[str]:
        return [prompt(pair) for pair in self.pool]


@dataclass(frozen=True)
class Reads:
    """The model's reading of the pool before any label: embeddings, and figures for each token."""

    embeddings_ND: np.ndarray
    tokens: dict[str, list[np.ndarray]]

    @property
    def confidence_N(self) -> np.ndarray:
        """Geometric mean of the token probabilities, above 0."""
        return np.array([max(1e-6, math.exp(row.mean())) for row in self.tokens["logprobs"]])


def make_task(pairs: Sequence[Pair], before: Sequence[Pair], seed: int, run: RunFolder) -> Task:
    """Hold out a fifth of the pairs, by seed. before: the model's first training data, to be cleared of `pairs`."""
    order = stream(seed, "label pool").permutation(len(pairs))
    held, pool = np.split(order, [int(HELD_OUT * len(pairs))])
    known = {pair.text for pair in pairs}
    return Task(
        [pairs[i] for i in np.sort(pool)],
        [pairs[i] for i in np.sort(held)],
        [pair for pair in before if pair.text not in known],
        seed,
        run,
    )


def prompt(pair: Pair) -> str:
    """The prompt that the model completes with the function's name."""
    return f"{pair.text}\nName:"


def train_base(task: Task, progress: Progress) -> None:
    """Write base/: the model before any label. Its tokenizer has seen the pool's docstrings, but not the names."""
    if (task.run / "base").is_dir():
        return
    texts = [f"{prompt(pair)} {pair.name}" for pair in task.before] + task.prompts
    tokenizer = train_tokenizer(texts)
    context = 2 * most_tokens(tokenizer, texts)
    model = scratch_model(MODEL, len(tokenizer), context, stream_seed(task.seed, "init base"), end_id(tokenizer))
    _train(model, tokenizer, task.before, BASE_EPOCHS, task, "base", progress, lr=BASE_LR)
    with task.run.replacing("base") as folder:
        save_model(model, tokenizer, folder)


def read_pool(task: Task, progress: Progress) -> Reads:
    """Embeddings (means of the last hidden states) and scores of the model's answers."""
    model, tokenizer = load_pretrained(ModelSettings(source=str(task.run / "base")))
    rows: list[Any] = [None] * len(task.pool)
    for row, scores in generated_scores(model, tokenizer, task.prompts, new_tokens=NEW_TOKENS, progress=progress):
        rows[row] = scores
    tokens = {name: [getattr(row, name) for row in rows] for name in ("entropies", "margins", "logprobs")}
    return Reads(hidden_states(model, tokenizer, task.prompts, progress=progress), tokens)


def choose(name: str, budget: int, task: Task, reads: Reads) -> Picks:
    """A strategy's picks. Quality scores are the model's confidence; uncertainty scores are mean entropy."""
    kind, chance = STRATEGIES[name], Random(seed=stream_seed(task.seed, "label picks"))
    if name == Random.name:
        return chance.select(len(task.pool), budget=budget)
    if issubclass(kind, Uncertainty):
        return kind().select(reads.tokens[kind.quantity], budget=budget)
    groups = [pair.group for pair in task.pool]
    if name == "equal-budget":
        return kind(chance).select(len(task.pool), budget=budget, groups=groups)  # type: ignore[call-arg]
    if name == "inverse-confidence":
        return kind(chance).select(  # type: ignore[call-arg]
            len(task.pool), budget=budget, groups=groups, scores=reads.confidence_N
        )
    scores = {
        "uncertain-then-diverse": lambda: MeanEntropy().uncertainty(reads.tokens["entropies"]),
        "quality-facility-location": lambda: reads.confidence_N,
    }.get(name, lambda: None)()
    return kind().select(reads.embeddings_ND, budget=budget, scores=scores)


def learn(task: Task, picks: Sequence[int], name: str, progress: Progress) -> dict[str, float]:
    """Train from base on the picks; return loss (nats per token of the name) and exact matches on held-out pairs."""
    model, tokenizer = load_pretrained(ModelSettings(source=str(task.run / "base")))
    _train(model, tokenizer, [task.pool[i] for i in picks], EPOCHS, task, name, progress, lr=LR)
    return evaluate(model, tokenizer, task.held, progress)


def evaluate(model: Any, tokenizer: Any, held: Sequence[Pair], progress: Progress) -> dict[str, float]:
    """{"loss": mean over tokens, "exact": share of names written word for word} with greedy decoding."""
    prompts, names = [prompt(pair) for pair in held], [f" {pair.name}" for pair in held]
    given = [scores for _, scores in given_scores(model, tokenizer, prompts, names, progress=progress)]
    said = dict(generated_scores(model, tokenizer, prompts, new_tokens=NEW_TOKENS, progress=progress))
    return {
        "loss": -float(sum(scores.logprobs.sum() for scores in given) / sum(len(scores.logprobs) for scores in given)),
        "exact": sum(said[row].text.strip() == name.strip() for row, name in enumerate(names)) / len(names),
    }


def _train(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], epochs: int, task: Task, name: str, progress: Progress, lr: float
) -> None:
    for weight in model.parameters():
        weight.requires_grad_(True)
    rows = [_row(tokenizer, pair) for pair in pairs]
    steps = epochs * -(-len(rows) // BATCH)
    settings = SftSettings(steps=steps, batch=BATCH, lr=lr, weight_decay=0.1)
    loss = text_loss(Backbone(model), rows, pad_id(tokenizer))
    fit(loss, len(rows), model, settings, RunFolder(task.run / "training"), task.seed, name, progress)


def _row(tokenizer: Any, pair: Pair) -> TextRow:
    """A prompt followed by its name: the positions to read, and the target token at each."""
    ids = encode(tokenizer, prompt(pair))
    said = [*encode(tokenizer, f" {pair.name}"), end_id(tokenizer)]
    read = range(len(ids) - 1, len(ids) - 1 + len(said))
    return Encoded((), compact(ids + said[:-1]), compact(read), 0), compact(said)
