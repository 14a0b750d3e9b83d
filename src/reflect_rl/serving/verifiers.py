"""Our worlds as environments of the library verifiers. Only that library imports this module, by its plug-ins.

The plug-ins are the modules `reflect_rl_world`, for any world, and `reflect_rl_alfworld`, beside the package: verifiers
takes the id of an environment for the name of a module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, tasks_of
from reflect_rl.envs.registry import make
from reflect_rl.model_servers.answers import read_choice
from reflect_rl.records import StopReason

SYSTEM = "Every turn shows what you see and lists the actions. Answer with exactly one action, word by word."
MISREAD = "Your answer names no action, or several."


class WorldConfig(vf.TasksetConfig):
    """The settings of an environment.

    Attributes:
        world: a name or module:Class, as for `reflect_rl.make`.
        options: the arguments of the world's constructor.
        split: the split whose tasks are played.
        seed: chance within an episode follows from it and the task.
    """

    world: str = "taxi"
    options: dict[str, Any] = {}  # noqa: RUF012  pydantic copies it
    split: Literal["train", "valid", "test"] = "train"
    seed: int = 0

    def make_env(self) -> TextEnv:
        return make(self.world, **self.options)


class WorldTask(vf.Task[vf.TaskData]):
    """A task of a world. The reward is recorded by `WorldEnv`."""


class WorldTaskset(vf.Taskset[WorldTask, WorldConfig]):
    """The tasks of a split, in the world's order."""

    def load(self) -> Iterable[WorldTask]:
        env = self.config.make_env()
        try:
            system = f"{env.task_text}\n\n{SYSTEM}".strip()
            names = tasks_of(env, self.config.split)
        finally:
            env.close()
        return [WorldTask(vf.TaskData(name=name, system_prompt=system), self.config.task) for name in names]


class WorldEnvConfig(vf.SingleAgentEnvConfig):
    """verifiers' settings. The agent is a model without tools, called from this machine, unless they say otherwise."""

    agent: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime={"type": "subprocess"})


class WorldEnv(vf.Env[WorldEnvConfig]):
    """Plays a world: the agent is shown the observation and the actions, and names one.

    Rewards: "reward", the sum of the world's. Metrics: "success" (0 or 1), "steps", and "misread", the answers that
    named no action or several; such an answer costs a turn, of which there are as many as the horizon has steps.
    """

    async def run(self, task: Any, agents: Any) -> None:
        env = self.taskset.config.make_env()
        total, steps, misread, stop = 0.0, 0, 0, None
        try:
            text, actions, _ = begin(env, self.taskset.config.seed + (task.data.idx or 0), {"task": task.data.name})
            async with agents.agent.interaction(task) as interaction:
                hint = ""
                for _ in range(env.horizon):
                    segment = await interaction.turn(_question(hint + text, actions))
                    if segment.terminated:
                        break
                    choice = read_choice(segment.last_reply, actions, ())
                    hint = "" if choice is not None else f"{MISREAD}\n\n"
                    if choice is None:
                        misread += 1
                        continue
                    text, actions, reward, stop = advance(env, choice)
                    total, steps = total + reward, steps + 1
                    if stop is not None:
                        break
        finally:
            env.close()
        interaction.trace.record_reward("reward", total)
        interaction.trace.record_metrics(
            {"success": float(stop is StopReason.SUCCESS), "steps": float(steps), "misread": float(misread)}
        )


def _question(text: str, actions: tuple[str, ...]) -> str:
    return "\n".join([text, "", "Actions:", *(f"- {action}" for action in actions)])
