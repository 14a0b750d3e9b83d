"""reflect-rl: a small language model becomes a good agent in an interactive text environment.

The public names, each imported only when it is first used, so that `import reflect_rl` costs nothing:

    from reflect_rl import Agent, make

    env = make("taxi")
    agent = Agent.load("runs/taxi")
"""

from __future__ import annotations

import sys
from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # that of typing, without an import: `python -m` may still look in the current folder now
if TYPE_CHECKING:
    from typing import Any

    from reflect_rl.config import load_settings as load_settings
    from reflect_rl.envs.base import TextEnv as TextEnv
    from reflect_rl.envs.registry import make as make
    from reflect_rl.envs.registry import register as register
    from reflect_rl.errors import EnvironmentContractError as EnvironmentContractError
    from reflect_rl.errors import ModelError as ModelError
    from reflect_rl.errors import NonFiniteError as NonFiniteError
    from reflect_rl.errors import OutputError as OutputError
    from reflect_rl.errors import PromptError as PromptError
    from reflect_rl.errors import ReflectRLError as ReflectRLError
    from reflect_rl.errors import RunFolderError as RunFolderError
    from reflect_rl.errors import SettingsError as SettingsError
    from reflect_rl.errors import TeacherError as TeacherError
    from reflect_rl.players.agent import Agent as Agent
    from reflect_rl.settings import Settings as Settings

_HOMES = {
    "Agent": "players.agent",
    "Settings": "config",
    "TextEnv": "envs.base",
    "load_settings": "config",
    "make": "envs.registry",
    "register": "envs.registry",
    "EnvironmentContractError": "errors",
    "ModelError": "errors",
    "NonFiniteError": "errors",
    "OutputError": "errors",
    "PromptError": "errors",
    "ReflectRLError": "errors",
    "RunFolderError": "errors",
    "SettingsError": "errors",
    "TeacherError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


if "gymnasium" in sys.modules:
    import_module("reflect_rl.envs.gym")  # registers the worlds with it
