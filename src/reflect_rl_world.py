"""Any world of reflect-rl as an environment of the library verifiers, by its id `reflect-rl-world`."""

from reflect_rl.serving.verifiers import WorldEnv, WorldTaskset

__all__ = ["WorldEnv", "WorldTaskset"]
