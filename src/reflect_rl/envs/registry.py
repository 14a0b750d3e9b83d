"""Worlds by name: the ones that ship, those registered, and anybody's own as "module:Class"."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.envs.promises import same_folder, where
from reflect_rl.errors import EnvironmentContractError, ReflectRLError

if TYPE_CHECKING:
    from reflect_rl.envs.base import TextEnv

_WORLDS: dict[str, str | type[TextEnv]] = {
    "alfworld": "reflect_rl.envs.alfworld.world:Alfworld",
    "taxi": "reflect_rl.envs.taxi:DangerousTaxi",
}


def register(name: str, world: str | type[TextEnv]) -> None:
    """Make a world known under a name of its own. world: the class, or "module:Class", imported when first made.

    Raises EnvironmentContractError if the name is taken by another world, or could be taken for "module:Class".
    """
    if not name or ":" in name:
        raise EnvironmentContractError(f"A world cannot be registered as {name!r}: choose a name without a colon.")
    if _WORLDS.get(name, world) != world:
        raise EnvironmentContractError(f"There is a world '{name}' already ({_WORLDS[name]}); choose another name.")
    _WORLDS[name] = world


def names() -> tuple[str, ...]:
    """The registered names, sorted."""
    return tuple(sorted(_WORLDS))


def make(name: str, **options: Any) -> TextEnv:
    """A new world. name: a registered one, or "module:Class" (also from the current directory). options: its arguments.

    Raises EnvironmentContractError, saying which: no such name, module or class; not a TextEnv; options refused; what
    it declares (horizon, task_text, stages, teachers) is not what the contract says.
    """
    from reflect_rl.envs.contract import check_declared

    world = load(name)
    try:
        with same_folder():
            env = world(**options)
    except (ReflectRLError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, TypeError):
            _check_options(name, world, options)
        raise EnvironmentContractError(f"{name} could not be made with {_shown(options)}: {where(error)}.") from error
    check_declared(env, options.get("horizon"))
    return env


def load(name: str) -> type[TextEnv]:
    """The class of a world. Raises EnvironmentContractError like `make`."""
    from reflect_rl.envs.base import TextEnv
    from reflect_rl.envs.simple import unknown

    if ":" not in name and name not in _WORLDS:
        hint = " Your own is named module:Class, for example my_module:MyEnv."
        raise EnvironmentContractError(unknown("world", name, names()) + hint)
    world = _WORLDS.get(name, name)
    if isinstance(world, str):
        world = _import_once(world) if name in _WORLDS else _import(world)
    if not (isinstance(world, type) and issubclass(world, TextEnv)):
        raise EnvironmentContractError(
            f"{name} is not a TextEnv but {world!r}. Name a class that derives from reflect_rl.TextEnv; an existing "
            f"Gymnasium environment becomes one by reflect_rl.envs.adapt.from_gymnasium."
        )
    return world


def describe_all() -> list[tuple[str, ...]]:
    """A table of the registered worlds, heading first: name, tasks by split, horizon, teachers, stages, one line."""
    from reflect_rl.envs.base import SPLITS

    rows = [("world", f"tasks ({'/'.join(SPLITS)})", "horizon", "teachers", "stages", "what it is")]
    for name in names():
        world = make(name)
        try:
            counts = "/".join(str(len(world.tasks(split))) for split in SPLITS)
        except ReflectRLError:  # its games have to be fetched first
            counts = "no data here"
        line = (inspect.getdoc(type(world)) or "").partition("\n")[0]
        teachers, stages = ", ".join(world.teachers) or "none", ", ".join(world.stages) or "none"
        rows.append((name, counts, str(world.horizon), teachers, stages, line))
        world.close()
    return rows


@cache
def _import_once(path: str) -> Any:
    """For worlds that are made by the hundred in a row."""
    return _import(path)


def _import(path: str) -> Any:
    from reflect_rl.envs.simple import unknown

    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise EnvironmentContractError(f"{path!r} should read module:Class, for example my_module:MyEnv.")
    try:
        with same_folder(), _current_directory_first():
            module = import_module(module_name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise EnvironmentContractError(f"{module_name} could not be imported: {where(error)}.") from error
        file = Path(module_name.replace(".", "/")).with_suffix(".py")
        raise EnvironmentContractError(
            f"There is no module '{error.name}': neither {file} in {Path.cwd()} nor installed. Run the command in the "
            f"folder of your file, and write its name without .py and with dots for folders."
        ) from error
    except BaseException as error:
        raise EnvironmentContractError(f"{module_name} could not be imported: {where(error)}.") from error
    if not hasattr(module, class_name):
        own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module_name]
        classes = [value.__name__ for value in own]
        raise EnvironmentContractError(f"In module {module_name}: {unknown('class', class_name, classes)}")
    return getattr(module, class_name)


@contextmanager
def _current_directory_first() -> Iterator[None]:
    """Let the import find the user's own file, as `python -m` would."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _check_options(name: str, world: type[TextEnv], options: dict[str, Any]) -> None:
    """Raise if the constructor has no such options, or needs more than these."""
    from reflect_rl.envs.simple import unknown

    signature = inspect.signature(world)
    for option in options:
        try:
            signature.bind_partial(**{option: None})
        except TypeError as error:
            hint = " Every world takes horizon=20, the steps of an episode." if option == "horizon" else ""
            raise EnvironmentContractError(
                f"{name}: {unknown('option', option, signature.parameters)}{hint}"
            ) from error
    try:
        signature.bind(**options)
    except TypeError as error:
        raise EnvironmentContractError(
            f"{name} cannot be made with {_shown(options)}: {error}. Its arguments are {signature}."
        ) from error


def _shown(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
