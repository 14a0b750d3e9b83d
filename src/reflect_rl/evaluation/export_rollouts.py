"""Export a file of rollouts as a folder that Hugging Face's `datasets` loads, with a card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from reflect_rl import __version__
from reflect_rl.core_yaml import dump_yaml
from reflect_rl.errors import RunFolderError
from reflect_rl.evaluation.report_rollouts import place_of
from reflect_rl.evaluation.tables import markdown_table
from reflect_rl.progress import Bar, Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.outputs import PublishedFolder, claim_folder, output_folder
from reflect_rl.runs.rollouts import each_episode, episode_heads

CARD, DATA = "README.md", "data"
BATCH = 500
"""Episodes in a row group of a Parquet file."""
EPISODE = {
    "id": ("string", "unique in the data set"),
    "source": ("string", "rl, evaluate, or agent: what the episode was played for"),
    "agent": ("string", "the run folder or the agent that played"),
    "prompting": ("string", "how a language model was asked, as JSON"),
    "version": ("string", "of reflect-rl"),
    "world": ("string", "the environment"),
    "options": ("string", "the environment's options, as JSON"),
    "horizon": ("int64", "steps after which an episode is cut"),
    "task_text": ("string", "the rules, as told to the player"),
    "seed": ("int64", "of the run"),
    "panel": ("string", "of an evaluation: the fixed panel of tasks"),
    "mode": ("string", "training, validation, greedy, sampled, or played"),
    "iteration": ("int64", "of RL; -1: before it"),
    "trial": ("int64", "which attempt at this task, from 1"),
    "number": ("int64", "place in its panel or iteration"),
    "task": ("string", "the start, by name"),
    "stage": ("string", "an easier stage of a curriculum"),
    "episode_seed": ("int64", "seed of the episode"),
    "length": ("int64", "steps"),
    "stop": ("string", "why the episode ended"),
    "success": ("bool", "whether the goal was reached"),
    "return": ("float64", "sum of rewards"),
    "invalid": ("int64", "answers that named no admissible action"),
    "lesson": ("string", "what the agent wrote after the episode, for its next trial"),
    "prompt_tokens": ("int64", "tokens that a model server read"),
    "completion_tokens": ("int64", "tokens that it wrote"),
    "usd": ("float64", "their cost"),
    "seconds": ("float64", "wall time, shared among the episodes played side by side"),
}
"""Columns of an episode: type and meaning. All but the first may be null."""
STEP = {
    "observation": ("string", "text before the action"),
    "actions": ("list<string>", "admissible actions, in the world's order"),
    "choice": ("int64", "index of the action executed"),
    "reflection": ("string", "what was written about the state before the action was chosen"),
    "log_prob": ("float64", "natural logarithm of the probability that the policy gave the action"),
    "probabilities": ("list<float64>", "of each action"),
    "reward": ("float64", "of the step"),
    "expert": ("int64", "index of the expert's action"),
    "said": ("string", "a language model's answer, word for word"),
    "invalid": ("bool", "the answer named no admissible action, and the first one was taken"),
    "prompt_tokens": ("int64", "as above"),
    "completion_tokens": ("int64", "as above"),
    "usd": ("float64", "as above"),
}
"""Fields of a step."""


def export_dataset(file: Path, to: str | Path, progress: Progress) -> Path:
    """Write README.md and data/ into the folder `to`; return it. An earlier export in it is replaced; what
    was edited there since is kept as NAME.edited.

    Raises RunFolderError (the file is missing, damaged or empty, or the disk is full) and OutputError (`to` holds
    something else, or the file).
    """
    folder, total = output_folder(to, "--to", [file]), sum(1 for _ in episode_heads(file))
    if not total:
        raise RunFolderError(f"{file} holds no episodes. Name a file to which --rollouts has written some.")
    claim_folder(folder, "data set of rollouts", option="--to")
    out, counts = PublishedFolder(folder, progress), Counter[tuple[str, str, str]]()
    suffix = "parquet" if _has_parquet() else "jsonl"
    if suffix == "jsonl":
        progress.warn('The episodes are written as JSON lines. For Parquet: pip install "reflect-rl[parquet]".')
    with out.lock(progress), progress.bar("export", total, "episodes") as bar:
        out.tidy()
        with out.replacing(DATA) as data:
            data.mkdir()
            rows = _counted(each_episode(file), counts, bar)
            if suffix == "parquet":
                _write_parquet(data / "train.parquet", rows)
            else:
                RunFolder(data).write_jsonl("train.jsonl", rows)
            out.write_text(CARD, card(folder.resolve().name, counts, suffix))
    return folder


def card(name: str, counts: Mapping[tuple[str, str, str], int], suffix: str) -> str:
    """The data set's card, as Markdown with the YAML head that `datasets` reads."""
    total, worlds = sum(counts.values()), sorted({world for world, _, _ in counts})
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    head = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": f"{DATA}/train.{suffix}"}]}],
        "dataset_info": {"features": [*_features(EPISODE), {"name": "steps", "list": _features(STEP)}]},
        "tags": ["reflect-rl", "reinforcement-learning", "text-environments", "agents"],
        "size_categories": [next((text for most, text in sizes if total < most), "n>1M")],
    }
    rows = [("world", "agent", "played for", "episodes"), *((*key, f"{count:,}") for key, count in counts.items())]
    blocks = [
        f"---\n{dump_yaml(head)}---",
        f"# {name}: episodes in text environments",
        f"{total:,} episodes of agents in {', '.join(worlds)}, recorded by reflect-rl {__version__}. A row is an "
        f"episode; `steps` holds its decisions in order. Missing values are null.",
        f'```python\nfrom datasets import load_dataset\n\nepisodes = load_dataset("{name}", split="train")\n```',
        markdown_table(rows),
        "## Columns",
        _columns(EPISODE, ""),
        "## Fields of a step",
        _columns(STEP, "steps[]."),
        "## Licence",
        "The licences of the environments' texts and of the models that wrote reflections and answers apply to the "
        "texts in these episodes. Nobody has checked the texts.",
    ]
    return "\n\n".join(blocks) + "\n"


def _features(fields: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    """Columns as `datasets` declares them; without this, a column of nulls would get no type."""
    return [
        {"name": name, "list" if kind.startswith("list<") else "dtype": _inner(kind)}
        for name, (kind, _) in fields.items()
    ]


def _inner(kind: str) -> str:
    return kind.removeprefix("list<").removesuffix(">")


def _columns(fields: Mapping[str, tuple[str, str]], prefix: str) -> str:
    return markdown_table(
        [("field", "type", "meaning"), *((f"`{prefix}{name}`", kind, about) for name, (kind, about) in fields.items())]
    )


def _counted(episodes: Iterable[dict[str, Any]], counts: Counter[tuple[str, str, str]], bar: Bar) -> Iterator[dict]:
    """Rows with all columns, whatever the record holds; counted by world, agent and place."""
    for episode in episodes:
        counts[str(episode.get("world")), str(episode.get("agent")), place_of(episode)] += 1
        bar.update()
        row = {name: episode.get(name) for name in EPISODE}
        row |= {
            name: json.dumps(row[name], ensure_ascii=False, allow_nan=False)
            for name in ("options", "prompting")
            if row[name] is not None
        }
        yield row | {"steps": [{name: step.get(name) for name in STEP} for step in episode["steps"]]}


def _has_parquet() -> bool:
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as arrow  # type: ignore[import-not-found]
    from pyarrow.parquet import ParquetWriter  # type: ignore[import-not-found]

    def types(fields: Mapping[str, tuple[str, str]]) -> list[tuple[str, Any]]:
        return [(name, _arrow_type(arrow, kind)) for name, (kind, _) in fields.items()]

    schema = arrow.schema([*types(EPISODE), ("steps", arrow.list_(arrow.struct(types(STEP))))])
    with ParquetWriter(path, schema) as writer:
        rows = iter(rows)
        while batch := list(islice(rows, BATCH)):
            try:
                writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
            except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError) as error:
                raise RunFolderError(f"An episode cannot be exported: a field has a wrong type ({error}).") from error


def _arrow_type(arrow: Any, kind: str) -> Any:
    types = {"bool": arrow.bool_, "string": arrow.string, "int64": arrow.int64, "float64": arrow.float64}
    return arrow.list_(types[_inner(kind)]()) if kind.startswith("list<") else types[kind]()
