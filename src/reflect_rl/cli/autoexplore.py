"""`reflect-rl autoexplore`: questions about source trees, built and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import Count, Seed
from reflect_rl.errors import OutputError

app = App(name="autoexplore", help="AutoExplore: questions about source trees, each answered by one file.")


@app.command
def build(
    *sources: Annotated[str, Parameter(required=True)],
    out: Annotated[str, Parameter(name=["--out", "-o"])],
    split_by: Literal["repository", "file"] = "repository",
    most: Count = 100,
    seed: Seed = 0,
) -> None:
    """Build tasks from the docstrings of source trees: a question, and the one file that answers it.

    A question is the first sentence of the docstring of a public module, class or function. It is dropped if a word of
    it stands in the file's path or spells the symbol, or if another file answers as well under BM25. Prints what each
    filter dropped.

    For example:

    - `reflect-rl autoexplore build ~/src/shop ~/src/bank ~/src/mail -o tasks.jsonl`
    - `reflect-rl autoexplore build ~/src/shop --split-by file -o tasks.jsonl`
    - `reflect-rl autoexplore build rich networkx==3.6.1 ~/src/shop -o tasks.jsonl`

    Parameters
    ----------
    sources
        Folders, or installed distributions by name.
    out
        The task file, JSON Lines. An existing one is replaced if it is a task file.
    split_by
        What train, valid and test never share. With fewer than three repositories, only files can be split.
    most
        Tasks of a repository at the most, drawn by seed.
    seed
        Seed of the split and of the drawn tasks.
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
    findings = find_tasks(repositories, most=most, seed=seed, progress=Bars())
    tasks = split_tasks(findings, split_by, seed)
    write_tasks(file, tasks)
    print(table(findings_table(findings, tasks)))


@app.command
def tasks(
    *,
    split: Literal["train", "valid", "test"] = "test",
    sample: Count | None = None,
    seed: Seed = 0,
    tasks: Path | None = None,
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
