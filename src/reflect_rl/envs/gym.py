"""The worlds that ship, under Gymnasium's ids. Importing this module registers them with Gymnasium.

    import gymnasium
    import reflect_rl.envs.gym

    env = gymnasium.make("reflect_rl/Taxi-v0")
    observation, info = env.reset(seed=0)
    env.step(env.action_space.sample(info["action_mask"]))

`import reflect_rl` does the same if Gymnasium has been imported before. Gymnasium 1.0 removed the entry point by which
packages registered their environments without being imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from reflect_rl.envs.base import as_index
from reflect_rl.envs.simple import SimpleTextEnv


class ActionMask(SimpleTextEnv):
    """Mixin that fits a world with discrete actions to Gymnasium's tools: `class Masked(ActionMask, MyWorld)`.

    `info["action_mask"]` has a 1 for each admissible action of the action space, as `action_space.sample` takes it. An
    action of the space that is not admissible is a step in which nothing happens, rather than an error: Gymnasium's
    tools sample without a mask.
    """

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation, self._masked(info)

    def step(self, action: int) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._playing and len(self._admissible) <= as_index(action) < self._most_actions:
            result = self._after(self.idle(), None)
        else:
            result = super().step(action)
        self._masked(result[4])
        return result

    def idle(self) -> float:
        """Do nothing, as an answer to an inadmissible action.

        Returns:
            The reward of such a step.
        """
        return 0.0

    @property
    def _most_actions(self) -> int:
        return int(self.action_space.n)  # type: ignore[attr-defined]

    def _masked(self, info: dict[str, Any]) -> dict[str, Any]:
        mask = np.zeros(self._most_actions, np.int8)
        mask[: len(info["actions"])] = 1
        info["action_mask"] = mask
        return info


for name, world in {
    "Taxi": "reflect_rl.envs.taxi.world:GymnasiumTaxi",
    "ALFWorld": "reflect_rl.envs.alfworld.world:GymnasiumAlfworld",
    "FrozenLake": "reflect_rl.envs.toy_text.frozenlake:GymnasiumFrozenLake",
    "CliffWalking": "reflect_rl.envs.toy_text.cliffwalking:GymnasiumCliffWalking",
    "Blackjack": "reflect_rl.envs.toy_text.blackjack:GymnasiumBlackjack",
    "BabyAI": "reflect_rl.envs.babyai.world:GymnasiumBabyAI",
    "TextWorld": "reflect_rl.envs.textworld.world:GymnasiumTextWorld",
}.items():
    gymnasium.register(f"reflect_rl/{name}-v0", world)
