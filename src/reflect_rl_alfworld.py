"""ALFWorld as an environment of the library verifiers, by its id `reflect-rl-alfworld`."""

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

from reflect_rl.serving.verifiers import WorldConfig, WorldEnv, WorldTask, WorldTaskset

__all__ = ["AlfworldTaskset", "WorldEnv"]


class AlfworldConfig(WorldConfig):
    """The settings of `WorldConfig`, with this world."""

    world: str = "alfworld"


class AlfworldTaskset(WorldTaskset, vf.Taskset[WorldTask, AlfworldConfig]):
    """ALFWorld's games."""
