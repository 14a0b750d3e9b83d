"""`reflect-rl select`: choose the items of a file that are worth a label."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import InputPath
from reflect_rl.errors import OutputError, SelectionError
from reflect_rl.paths import expanded

Switch = Parameter(negative="")
PICK = ("id", "rank", "gain", "strategy", "score")
"""The fields of a pick, in order."""
ENDINGS = (".jsonl", ".ndjson", "")
"""What the name of a file of picks may end in: they are JSON lines."""
MOST_LINE = 1 << 20
"""Maximum bytes of a pick's line."""


def select(
    file: InputPath,
    /,
    *,
    budget: str,
    strategy: str = "facility-location",
    text_column: str = "text",
    id_column: str | None = None,
    embeddings: str | None = None,
    model: str | None = None,
    new_tokens: int | None = None,
    target_column: str | None = None,
    embed_model: str | None = None,
    layer: int | None = None,
    pooling: Literal["mean", "last"] | None = None,
    device: Literal["cpu", "cuda", "mps"] = "cpu",
    bits: Literal[16, 32] = 32,
    tokens_column: str | None = None,
    score_column: str | None = None,
    quota_column: str | None = None,
    already: InputPath | None = None,
    out: Annotated[str | None, Parameter(name=["--out", "-o"])] = None,
    quotas: Literal["equal", "proportional"] | None = None,
    n_neighbors: str | None = None,
    metric: Literal["cosine", "euclidean"] | None = None,
    quality: float | None = None,
    keep: float | None = None,
    within: str | None = None,
    seed: int | None = None,
    dry_run: Annotated[bool, Switch] = False,
) -> None:
    """Choose the items of a file that are worth a label, before any label exists.

    Writes one JSON object per pick, in order of choice: id, rank, gain, strategy, score.

    For example:

    - `reflect-rl select prompts.jsonl --budget 10% --text-column prompt --id-column id -o picks.jsonl`
    - `reflect-rl select prompts.csv --embeddings emb.npy --strategy k-center --budget 2000 --already done.txt`
    - `reflect-rl select prompts.jsonl --strategy mean-entropy --model ./my-model --budget 500 --text-column prompt`
    - `reflect-rl select texts.jsonl --strategy least-confidence --model gpt2 --target-column answer --budget 500`
    - `reflect-rl select texts.jsonl --embed-model sentence-transformers:all-MiniLM-L6-v2 --budget 10%`
    - `reflect-rl select prompts.jsonl --strategy mean-entropy --tokens-column entropies --budget 500`

    Parameters
    ----------
    file
        JSON lines, CSV, TSV or Parquet, by the file's extension.
    budget
        The number of items to choose, or a share of the pool, such as 10%.
    strategy
        random, facility-location, k-center, mean-entropy, least-confidence, mean-margin, min-margin,
        max-token-uncertainty, equal-budget, inverse-confidence, quality-facility-location, uncertain-then-diverse.
    text_column
        The texts that models read; also used for TF-IDF if there are no embeddings.
    id_column
        The ids; row numbers from 0 by default.
    embeddings
        A .npy file with one row per item, or a column of lists of numbers.
    model
        A causal language model (a folder or hub name, safetensors only) that scores the tokens after each text. Scores
        are stored next to the file, continued and reused.
    new_tokens
        Number of tokens that the model generates after each text, greedily; 32 by default.
    target_column
        Texts to score instead of generated ones.
    embed_model
        A causal language model whose hidden states are the embeddings, or sentence-transformers:NAME; --model by
        default.
    layer
        Layer of the hidden states: 0 is the token embeddings, -1 (default) the last.
    pooling
        Pooling of a text's hidden states: mean (default) or last.
    device
        The device of the models.
    bits
        32, or 16 for bfloat16, which takes half the memory.
    tokens_column
        A model's figures for each token: entropies, margins or logprobs, by strategy.
    score_column
        A number per item: quality, confidence or uncertainty, by strategy.
    quota_column
        Groups that share the budget.
    already
        A file of items that are labelled already: with the same id column, or a .txt with one id per line.
    out
        The file for the picks, JSON lines, or a pipe; stdout by default. An existing file is replaced only if it holds
        picks.
    quotas
        How groups share the budget: equal (default), or proportional to their sizes.
    n_neighbors
        facility-location: auto (default), exact, or a number of nearest neighbours.
    metric
        k-center: cosine (default) or euclidean.
    quality
        facility-location: weight of the scores relative to similarity, 0.5 by default.
    keep
        uncertain-then-diverse: number of candidates as a multiple of the budget, 4 by default.
    within
        The strategy within equal-budget, inverse-confidence (random) or uncertain-then-diverse (facility-location).
    seed
        Seed of the strategy random.
    dry_run
        Report the expected cost without choosing.
    """
    from reflect_rl.cli.tables import picks_summary
    from reflect_rl.pools.model_reads import ModelUse
    from reflect_rl.pools.select import Request, expected_cost, make_strategy, select_file
    from reflect_rl.runs.outputs import output_file

    began, progress = time.perf_counter(), Bars()
    if quotas and quota_column is None:
        raise SelectionError("--quotas shares the budget among groups: name their column by --quota-column.")
    if quality is not None and score_column is None:
        raise SelectionError("--quality weighs scores: name their column by --score-column.")
    given = {
        "quotas": quotas,
        "n_neighbors": _neighbours(n_neighbors),
        "metric": metric,
        "quality": quality,
        "keep": keep,
        "within": within,
        "seed": seed,
    }
    inputs = (file, embeddings, already, model, embed_model)
    target = None if out is None else output_file(out, "--out", inputs, ours=_holds_picks)
    if out is not None and target and target.direct is None and Path(out).suffix.lower() not in ENDINGS:
        raise OutputError(f"--out {out} would hold JSON lines: give it a name that ends in .jsonl or .ndjson.")
    chosen = make_strategy(strategy, given)
    request = Request(
        path=file,
        strategy=chosen,
        budget=budget,
        text=text_column,
        id=id_column,
        embeddings=embeddings and str(expanded(embeddings)),
        tokens=tokens_column,
        scores=score_column,
        groups=quota_column,
        already=already,
        use=ModelUse(model, target_column, new_tokens, embed_model, layer, pooling, device, bits),
    )
    if dry_run:
        pool, cost, calls = expected_cost(request, progress)
        print(
            f"{pool.budget:,} of {len(pool.ids):,} items by {strategy}: about {cost.seconds:.1f} s after reading, "
            f"{cost.memory / 2**20:,.0f} MiB beyond the embeddings; {calls}"
        )
        return
    selection = select_file(request, progress)
    if target is None:
        for row in selection.rows():
            print(json.dumps(row, ensure_ascii=False, allow_nan=False))
    else:
        target.write_jsonl(selection.rows())
    progress.say(picks_summary(selection, time.perf_counter() - began))


def _holds_picks(path: Path) -> bool:
    """Whether this command wrote the file: its first line is a pick."""
    with path.open("rb") as file:
        try:
            first = json.loads(file.readline(MOST_LINE))
        except ValueError:
            return False
    return isinstance(first, dict) and list(first) == list(PICK)


def _neighbours(text: str | None) -> int | str | None:
    if text in (None, "auto", "exact"):
        return text
    try:
        return int(text)
    except ValueError as error:
        raise SelectionError(f"--n-neighbors {text} should be auto, exact or a whole number, 2 or more.") from error
