"""Writes the ready-made tasks of AutoExplore, and the table of how rare words are, from installed packages.

pip install -c constraints.txt -e ".[test]" && python scripts/write_autoexplore_tasks.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from reflect_rl.bars import Bars
from reflect_rl.envs.autoexplore.build import find_tasks, in_splits
from reflect_rl.envs.autoexplore.pages import text_of
from reflect_rl.envs.autoexplore.sources import installed, repository_tree
from reflect_rl.envs.autoexplore.tasks import write_tasks
from reflect_rl.envs.autoexplore.words import words
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.outputs import OutputFile
from reflect_rl.seeding import stream

FOLDER = Path(__file__).parents[1] / "src" / "reflect_rl" / "envs" / "autoexplore"
REPOSITORIES = {
    "train": """
        absl-py accelerate anyio attrs beautifulsoup4 cyclopts filelock fsspec grpcio huggingface-hub markdown
        markdown-it-py mpmath numpy packaging pillow protobuf psutil pydantic pygments pytest setuptools
        smart-open spacy sphinx sympy tensorboard thinc torch tqdm transformers urllib3 uvicorn
    """,
    "valid": "babel peft prompt-toolkit pyyaml",
    "test": "click docutils gymnasium hypothesis jinja2 networkx requests rich textworld typer werkzeug",
}
MOST, SEED = 120, 0
"""Tasks of a repository at the most, and the seed that draws them."""
MOST_COUNTED, KEPT_WORDS = 200, 4000
"""Files of a repository in which words are counted, drawn by seed, so that none dominates; and words that are kept."""


def rarity(repositories: Iterable[str]) -> dict[str, object]:
    """In how many files of these repositories each of the most frequent words occurs, docstrings left out."""
    counts: Counter[str] = Counter()
    files = 0
    for repository in repositories:
        tree = repository_tree(repository)
        nodes = [node for node in range(len(tree)) if tree.is_file(node)]
        for index in stream(SEED, f"autoexplore words of {repository}").permutation(len(nodes))[:MOST_COUNTED]:
            node = nodes[index]
            counts.update(set(words(text_of(tree.read(node), docstrings=False))))
            files += 1
    kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:KEPT_WORDS]
    return {"files": files, "words": dict(kept)}


def main() -> None:
    splits = {split: [installed(name) for name in names.split()] for split, names in REPOSITORIES.items()}
    split_of = {name.partition("==")[0]: split for split, names in splits.items() for name in names}
    findings = find_tasks(chain(*splits.values()), most=MOST, seed=SEED, progress=Bars())
    tasks = in_splits([task for each in findings for task in each.tasks], split_of)
    write_tasks(OutputFile(FOLDER / "ready.jsonl"), tasks)
    RunFolder(FOLDER).write_json("words.json", rarity(splits["train"]))
    for split in REPOSITORIES:
        depths = Counter(task.depth for task in tasks if task.split == split)
        print(f"{split}: {sum(depths.values())} tasks, by depth {dict(sorted(depths.items()))}")


if __name__ == "__main__":
    main()
