"""The Python API: `run` trains an agent, and `Run` gives access to a run folder.

import reflect_rl as rr

trained = rr.run("taxi", out="runs/mine", seed=3, overrides={"rl.iterations": 30})
print(trained.results["panels"]["test"]["greedy"]["success"])
agent = trained.agent()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.bars import Bars
from reflect_rl.config import load_settings, parse_settings, with_model
from reflect_rl.errors import SettingsError
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.outputs import output_folder
from reflect_rl.runs.rollouts import rollouts_path
from reflect_rl.runs.trained import read_config, trained_settings
from reflect_rl.settings import Settings

if TYPE_CHECKING:
    from reflect_rl.players.agent import Agent
    from reflect_rl.players.decisions import Decisions


@dataclass(frozen=True, slots=True, init=False)
class Run:
    """A run folder, finished or not.

    Attributes:
        path: the folder.
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))

    @property
    def settings(self) -> Settings:
        """The settings last requested for this folder. Raises RunFolderError if it is not a run folder."""
        return read_config(RunFolder(self.path))

    @property
    def results(self) -> dict[str, Any]:
        """The results of the last evaluation, from `results.json`.

        Raises RunFolderError if the agent has not been evaluated.
        """
        return RunFolder(self.path).read_json("results.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per RL iteration, from `metrics.jsonl`. Raises RunFolderError if RL has not run."""
        return RunFolder(self.path).read_jsonl("metrics.jsonl", dict)

    @property
    def report(self) -> Path:
        """The HTML page with results, episodes and learning curves."""
        return self.path / "report.html"

    def agent(self, progress: Progress | None = None) -> Agent:
        """The trained agent. Raises RunFolderError if there is none yet."""
        from reflect_rl.players.agent import Agent

        return Agent.load(self.path, progress)

    def export(
        self, to: str | Path, *, merge: bool = False, push: str | None = None, progress: Progress | None = None
    ) -> Path:
        """Copy the finished agent into a folder of its own, with a model card, for `Agent.load` anywhere.

        Args:
            to: a new or empty folder, or an earlier export, which is replaced.
            merge: merge LoRA adapters into their bases, in float32, so that the folder needs no other model.
            push: also upload the folder to this repository of the Hugging Face hub, `user/name`. It is created if it
                does not exist, as a public one.
            progress: is told what is done, and warned of paths that other machines lack.

        Returns:
            The folder.

        Raises:
            RunFolderError: there is no finished agent, or the run is in use.
            OutputError: the folder holds something else; or the upload failed, and the folder is complete.
            ModelError: the adapters cannot be merged.
        """
        from reflect_rl.pipeline.export import export_agent

        return export_agent(self.path, to, progress or Progress(), merge=merge, push=push)

    def players(self, policy: str = "policy") -> Decisions:
        """The reflector and the policy, as `play_episodes` takes them.

        Args:
            policy: "policy", or "policy-sft" for the policy before RL.
        """
        from reflect_rl.players.context import Context
        from reflect_rl.players.load import load_decisions, load_policy

        folder = RunFolder(self.path)
        context = Context(trained_settings(folder, Progress()))
        return load_decisions(folder, context, load_policy(folder / policy, context.settings))


def run(
    recipe: str | Path | Settings | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    model: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    until: str | None = None,
    store: str | Path | None = None,
    rollouts: str | Path | None = None,
    progress: Progress | bool = True,
) -> Run:
    """Run a recipe from start to finish. Finished stages are skipped, and an interrupted run continues.

    Args:
        recipe: the name of a recipe, a YAML file, settings, or a mapping of settings as in a recipe.
        out: the run folder; by default `runs/RECIPE`, or `runs/RECIPE-seedN` if a seed is given.
        seed: seed of all randomness.
        model: the pretrained model that both players start from, as `reflector.model.source` and
            `policy.model.source`.
        overrides: settings by dotted name, such as `{"rl.iterations": 30}`.
        until: the last stage to run.
        store: a folder in which runs share finished stages.
        rollouts: a file to which every episode of RL and evaluation is appended, as JSON lines.
        progress: True shows bars in a terminal or notebook, False is silent; or pass your own Progress.

    Returns:
        The run, with its results, metrics and agent.

    Raises:
        SettingsError: a setting is unknown or invalid, or settings were given without `out`.
        ReflectRLError: any other user error; the message says what to do.
    """
    own = {**with_model(overrides or {}, model), **({} if seed is None else {"seed": seed})}
    if isinstance(recipe, str | Path):
        settings, out = load_settings(recipe, own), default_folder(recipe, own) if out is None else out
    elif out is None:
        raise SettingsError('Settings have no name to call a run folder by. Say where it should be: out="runs/mine".')
    else:
        given = recipe.model_dump() if isinstance(recipe, Settings) else recipe
        settings = parse_settings(given, own, source="the mapping")
    folder = output_folder(out, "out")
    shared = None if store is None else output_folder(store, "store")
    written = None if rollouts is None else rollouts_path(rollouts)
    shown = progress if isinstance(progress, Progress) else Bars() if progress else Progress()
    run_pipeline(settings, folder, shown, store=shared, until=until, rollouts=written)
    return Run(folder)


def default_folder(recipe: str | Path, overrides: Mapping[str, Any]) -> Path:
    """runs/RECIPE, or runs/RECIPE-seedN if a seed is among the overrides."""
    suffix = f"-seed{overrides['seed']}" if "seed" in overrides else ""
    return Path("runs") / f"{Path(recipe).stem}{suffix}"
