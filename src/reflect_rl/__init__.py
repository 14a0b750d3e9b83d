"""reflect-rl: train small language models as agents in interactive text environments.

Public names are imported on first use, so `import reflect_rl` costs next to nothing:

    import reflect_rl as rr

    trained = rr.run("taxi")
    agent = trained.agent()
    env = rr.make("taxi")
"""

from __future__ import annotations

import sys
from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # as in typing, without importing it: `python -m` may still look in the current folder
if TYPE_CHECKING:
    from typing import Any

    from reflect_rl.api import Run as Run
    from reflect_rl.api import run as run
    from reflect_rl.config import load_settings as load_settings
    from reflect_rl.envs.base import TextEnv as TextEnv
    from reflect_rl.envs.bridges.gymnasium import from_gymnasium as from_gymnasium
    from reflect_rl.envs.bridges.openenv import from_openenv as from_openenv
    from reflect_rl.envs.bridges.verifiers import from_verifiers as from_verifiers
    from reflect_rl.envs.check import check as check
    from reflect_rl.envs.registry import make as make
    from reflect_rl.envs.registry import register as register
    from reflect_rl.envs.simple import SimpleTextEnv as SimpleTextEnv
    from reflect_rl.errors import AgentError as AgentError
    from reflect_rl.errors import BudgetError as BudgetError
    from reflect_rl.errors import EnvironmentContractError as EnvironmentContractError
    from reflect_rl.errors import ModelError as ModelError
    from reflect_rl.errors import NonFiniteError as NonFiniteError
    from reflect_rl.errors import OutputError as OutputError
    from reflect_rl.errors import PromptError as PromptError
    from reflect_rl.errors import ReflectRLError as ReflectRLError
    from reflect_rl.errors import RunFolderError as RunFolderError
    from reflect_rl.errors import SelectionError as SelectionError
    from reflect_rl.errors import ServerError as ServerError
    from reflect_rl.errors import SettingsError as SettingsError
    from reflect_rl.errors import TeacherError as TeacherError
    from reflect_rl.errors import WorkerError as WorkerError
    from reflect_rl.errors import WorldLostError as WorldLostError
    from reflect_rl.players.agent import Agent as Agent
    from reflect_rl.players.agent import Decision as Decision
    from reflect_rl.records import StopReason as StopReason
    from reflect_rl.settings import Settings as Settings

_HOMES = {
    "Agent": "players.agent",
    "AgentError": "errors",
    "BudgetError": "errors",
    "Decision": "players.agent",
    "EnvironmentContractError": "errors",
    "ModelError": "errors",
    "NonFiniteError": "errors",
    "OutputError": "errors",
    "PromptError": "errors",
    "ReflectRLError": "errors",
    "Run": "api",
    "RunFolderError": "errors",
    "SelectionError": "errors",
    "ServerError": "errors",
    "Settings": "settings",
    "SettingsError": "errors",
    "SimpleTextEnv": "envs.simple",
    "StopReason": "records",
    "TeacherError": "errors",
    "TextEnv": "envs.base",
    "WorkerError": "errors",
    "WorldLostError": "errors",
    "check": "envs.check",
    "from_gymnasium": "envs.bridges.gymnasium",
    "from_openenv": "envs.bridges.openenv",
    "from_verifiers": "envs.bridges.verifiers",
    "load_settings": "config",
    "make": "envs.registry",
    "register": "envs.registry",
    "run": "api",
}

__all__ = [
    "Agent",
    "AgentError",
    "BudgetError",
    "Decision",
    "EnvironmentContractError",
    "ModelError",
    "NonFiniteError",
    "OutputError",
    "PromptError",
    "ReflectRLError",
    "Run",
    "RunFolderError",
    "SelectionError",
    "ServerError",
    "Settings",
    "SettingsError",
    "SimpleTextEnv",
    "StopReason",
    "TeacherError",
    "TextEnv",
    "WorkerError",
    "WorldLostError",
    "check",
    "from_gymnasium",
    "from_openenv",
    "from_verifiers",
    "load_settings",
    "make",
    "register",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


if "gymnasium" in sys.modules:
    import_module("reflect_rl.envs.gym")  # registers the worlds with Gymnasium
