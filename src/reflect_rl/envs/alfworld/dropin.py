"""alfworld's text environment on the fast engine: the same interface, the same answers, one changed import.

    from reflect_rl.envs.alfworld.dropin import get_environment

    env = get_environment(config["env"]["type"])(config, train_eval="train").init_env(batch_size=8)
    observations, infos = env.reset()
    observations, scores, dones, infos = env.step(["look"] * 8)

`config` is alfworld's own, as its YAML file reads. docs/alfworld.md lists what differs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflect_rl.envs.alfworld.batch import BatchEnv, Terms
from reflect_rl.envs.alfworld.data import GAME, TASK_TYPES, AlfworldDataError, is_solvable
from reflect_rl.envs.alfworld.game import read_trajectory
from reflect_rl.envs.simple import unknown
from reflect_rl.errors import ReflectRLError

PATHS = {
    "train": "data_path",
    "eval_in_distribution": "eval_id_data_path",
    "eval_out_of_distribution": "eval_ood_data_path",
}
"""Where the configuration's section `dataset` names the folder of each split."""
SECTIONS = {"dqn": "rl", "dagger": "dagger"}
"""The section of the configuration that sets the limit of steps, by training method."""


class AlfworldConfigError(ReflectRLError):
    """A configuration of alfworld's lacks something, or asks for what there is not."""


def get_environment(env_type: str) -> type[AlfredTWEnv]:
    """The class of an environment type; "AlfredTWEnv" is the only one. Raises AlfworldConfigError for others."""
    if env_type != "AlfredTWEnv":
        raise AlfworldConfigError(
            f"env.type is {env_type!r}; text games are played with 'AlfredTWEnv'. For THOR import get_environment from "
            f"alfworld.agents.environment."
        )
    return AlfredTWEnv


class AlfredTWEnv:
    """The games of one split of a configuration, from which `init_env` makes environments.

    Attributes:
        config: alfworld's configuration.
        train_eval: the split.
        game_files: the paths of its games: solvable ones, of the configuration's task types, in the order in which the
            file system lists them (as alfworld has it), or by name with `dataset.sort_games: true`.
        num_games: how many they are.
        use_expert: whether train environments with `training_method: dagger` give `extra.expert_plan`.
    """

    use_expert = True

    def __init__(self, config: Mapping[str, Any], train_eval: str = "train") -> None:
        """Collect the games.

        Args:
            config: alfworld's configuration.
            train_eval: "train", "eval_in_distribution" or "eval_out_of_distribution".

        Raises:
            AlfworldConfigError: the configuration lacks something, or there is no such split.
            AlfworldDataError: the split has no game.
        """
        self.config = config
        self.train_eval = train_eval
        if _setting(config, "env", "goal_desc_human_anns_prob") > 0:
            warnings.warn(
                "goal_desc_human_anns_prob is ignored: games are played with the task that their files state. "
                "`alfworld-generate` writes others.",
                stacklevel=2,
            )
        self.collect_game_files()

    def collect_game_files(self, verbose: bool = False) -> None:
        """List the split's games; `num_train_games` or `num_eval_games` of them if that is above 0."""
        if self.train_eval not in PATHS:
            raise AlfworldConfigError(unknown("split (train_eval)", self.train_eval, PATHS))
        key = PATHS[self.train_eval]
        place = os.path.expandvars(str(_setting(self.config, "dataset", key)))
        numbers = _setting(self.config, "env", "task_types")
        if not isinstance(numbers, list | tuple):
            raise AlfworldConfigError(f"env.task_types is {numbers!r}; it is a list of numbers from 1 to 6.")
        kinds = {kind for number, kind in enumerate(TASK_TYPES, start=1) if number in numbers}
        found = [
            os.path.join(root, GAME) for root, _, files in os.walk(place, topdown=False) if _plays(root, files, kinds)
        ]
        if self.config["dataset"].get("sort_games", False):
            found.sort()
        most = _setting(self.config, "dataset", "num_train_games" if self.train_eval == "train" else "num_eval_games")
        self.game_files = found[:most] if most > 0 else found
        self.num_games = len(self.game_files)
        if not found:
            raise AlfworldDataError(
                f"There is no solvable game of the task types {list(numbers)} below {place} (dataset.{key}). Check the "
                f"path, and whether the variables in it are set: ALFWORLD_DATA is "
                f"{os.environ.get('ALFWORLD_DATA', 'not set')}."
            )

    def get_game_logic(self) -> None:
        """Read the configuration's domain and grammar into `game_logic`. The games are played by their own."""
        files = {"pddl_domain": "domain", "grammar": "grammar"}
        places = {name: os.path.expandvars(_setting(self.config, "logic", key)) for name, key in files.items()}
        self.game_logic = {name: Path(place).read_text(encoding="utf-8") for name, place in places.items()}

    def init_env(self, batch_size: int) -> BatchEnv:
        """Make an environment of `batch_size` games side by side.

        Raises AlfworldConfigError for a training method other than dqn and dagger.
        """
        method = _setting(self.config, "general", "training_method")
        if method not in SECTIONS:
            raise AlfworldConfigError(unknown("training method (general.training_method)", method, SECTIONS))
        is_train = self.train_eval == "train"
        terms = Terms(
            shuffle=is_train and bool(_setting(self.config, "env", "domain_randomization")),
            limit=_setting(self.config, SECTIONS[method], "training", "max_nb_steps_per_episode"),
            expert=_setting(self.config, "env", "expert_type") if self._gives_plan(method) else None,
        )
        return BatchEnv(self.game_files, batch_size, terms)

    def _gives_plan(self, method: str) -> bool:
        return self.use_expert and method == "dagger" and self.train_eval == "train"


def _setting(config: Mapping[str, Any], *keys: str) -> Any:
    """A value of the configuration. Raises AlfworldConfigError if it is not there."""
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        raise AlfworldConfigError(
            f"The configuration has no {'.'.join(keys)}. Give alfworld's own configuration, as base_config.yaml in its "
            f"repository (configs/) reads."
        )
    return value


def _plays(folder: str, files: list[str], kinds: set[str]) -> bool:
    """Whether a folder holds a game that alfworld plays: of these kinds, solvable, nothing sliced or movable."""
    if not {"traj_data.json", GAME} <= set(files) or "movable" in folder or "Sliced" in folder:
        return False
    game = Path(folder) / GAME
    return read_trajectory(game).get("task_type") in kinds and is_solvable(game)
