"""Worlds by name: the ones that ship, those registered, and anybody's own as "module:Class"."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.envs.promises import same_folder, short, where
from reflect_rl.errors import EnvironmentContractError, ReflectRLError

if TYPE_CHECKING:
    from reflect_rl.envs.base import TextEnv

_WORLDS: dict[str, str | type[TextEnv]] = {
    "alfworld": "reflect_rl.envs.alfworld.world:Alfworld",
    "autoexplore": "reflect_rl.envs.autoexplore.world:AutoExplore",
    "babyai": "reflect_rl.envs.babyai.world:BabyAI",
    "blackjack": "reflect_rl.envs.toy_text.blackjack:Blackjack",
    "cliffwalking": "reflect_rl.envs.toy_text.cliffwalking:CliffWalking",
    "frozenlake": "reflect_rl.envs.toy_text.frozenlake:FrozenLake",
    "taxi": "reflect_rl.envs.taxi.world:DangerousTaxi",
    "textworld": "reflect_rl.envs.textworld.world:TextWorld",
}

BRIDGES = "reflect_rl.envs.bridges."
"""Where the classes of bridged environments are made."""


def register(name: str, world: str | type[TextEnv]) -> None:
    """Give a world a name of its own in this process.

    Args:
        name: the name, without a colon.
        world: the class, or "module:Class", which is imported when the world is first made.

    Raises:
        EnvironmentContractError: another world has this name, or it has a colon.
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
    """Make a world.

    A module in the current directory comes before an installed one of the same name; what it imports is looked for
    there last. `sys.path` is restored after the import: a module that imports something later needs its folder on it.

    Args:
        name: a registered name, or "module:Class" (also from the current directory).
        options: the arguments of its constructor.

    Raises:
        EnvironmentContractError: there is no such name, module or class; it is not a TextEnv; it refuses the options;
            or it declares (horizon, task_text, stages, teachers) what the contract does not allow.
    """
    from reflect_rl.envs.checked import check_declared

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

    if not isinstance(name, str):
        raise EnvironmentContractError(
            f"{short(name)} is not the name of a world. Name it as text: one of {', '.join(names())}, or your own as "
            f"module:Class. A class of your own is called as it is, such as MyEnv()."
        )
    if ":" not in name and name not in _WORLDS:
        hint = " Your own is named module:Class, for example my_module:MyEnv."
        raise EnvironmentContractError(unknown("world", name, names()) + hint)
    world = _WORLDS.get(name, name)
    if isinstance(world, str):
        world = _import_once(world) if name in _WORLDS else imported(world)
    if not (isinstance(world, type) and issubclass(world, TextEnv)):
        raise EnvironmentContractError(
            f"{name} is not a TextEnv but {world!r}. Name a class that derives from reflect_rl.TextEnv; an existing "
            f"Gymnasium environment becomes one by reflect_rl.from_gymnasium."
        )
    return world


def path_of(name: str) -> str:
    """A world's name as another process can import it.

    Raises EnvironmentContractError: there is no such name, or its class was defined in the main script.
    """
    world = _WORLDS.get(name, name)
    path = world if isinstance(world, str) else f"{world.__module__}:{world.__qualname__}"
    if ":" not in path:
        load(name)  # raises
    if path.startswith("__main__:"):
        raise EnvironmentContractError(
            f"{name} was defined in the main script, which another process cannot import. Move the class to a module."
        )
    return path


def code_of(name: str) -> str | None:
    """sha256 of the file of a world that is not part of this library, shortened.

    None for others, without a file, and in the main script, which may be edited for any other reason.

    Raises EnvironmentContractError like `make`.
    """
    given, world = _WORLDS.get(name, name), load(name)
    module = world.__module__
    if isinstance(given, str) and not given.startswith("reflect_rl."):
        here, path = _current_directory(), given.partition(":")[0]
        module = _dotted(path, here) if here else path
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.startswith("reflect_rl.") or module == "__main__" or not file or not os.path.isfile(file):
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


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
    return imported(path)


def imported(path: str) -> Any:
    """What "module:Class" names, also in the current directory. Raises EnvironmentContractError like `make`."""
    from reflect_rl.envs.simple import unknown

    given, _, class_name = path.partition(":")
    here = _current_directory()
    module_name = _dotted(given, here) if here else given
    if not module_name or not class_name:
        raise EnvironmentContractError(f"{path!r} should read module:Class, for example my_module:MyClass.")
    folder = Path(*module_name.split("."))
    file = folder.with_name(f"{folder.name}.py")
    top = module_name.partition(".")[0]
    is_own = here is not None and ((here / file).is_file() or (here / folder / "__init__.py").is_file())
    if here and is_own:
        _check_not_taken(top, here)
    try:
        with same_folder(), _importable(here, top if is_own else None):
            module = import_module(module_name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise EnvironmentContractError(f"{module_name} could not be imported: {where(error)}.") from error
        place = here or "the current folder, which has been deleted,"
        raise EnvironmentContractError(
            f"There is no module '{error.name}': neither {file} in {place} nor installed. Run the command in the "
            f"folder of your file, and write its name with dots for folders."
        ) from error
    except BaseException as error:
        raise EnvironmentContractError(f"{module_name} could not be imported: {where(error)}.") from error
    if not hasattr(module, class_name):
        classes = [each for each in vars(module).values() if isinstance(each, type)]
        own = [each.__name__ for each in classes if each.__module__ == module_name]
        raise EnvironmentContractError(f"In module {module_name}: {unknown('class', class_name, own)}")
    found = getattr(module, class_name)
    if isinstance(found, type) and found.__module__.startswith(BRIDGES) and not module_name.startswith(BRIDGES):
        found.__module__, found.__qualname__ = module_name, class_name  # which messages name, and workers import
    return found


def _current_directory() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it has been deleted
        return None


def _dotted(given: str, here: Path) -> str:
    """The module's name; also of a file below the current folder, as shells complete it: ./pkg/env.py is pkg.env."""
    if not given.endswith(".py") and os.sep not in given:
        return given
    path = Path(os.path.relpath(here / given.removesuffix(".py"), here))
    if ".." in path.parts:
        raise EnvironmentContractError(
            f"{given} does not lie in {here}. Run the command in the folder of your file, and name it "
            f"{path.name}:Class."
        )
    return ".".join(path.parts)


@contextmanager
def _importable(here: Path | None, first: str | None) -> Iterator[None]:
    """Let imports find the module `first` in this folder before everywhere else, and other modules there last."""
    finder = _Finder(str(here), first)
    path = [] if here is None or str(here) in sys.path else [str(here)]
    sys.meta_path.insert(0, finder)
    sys.path += path
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for folder in path:
            sys.path.remove(folder)


class _Finder:
    """Finds one module or package in a folder; the parts of a package are found by its own path."""

    def __init__(self, folder: str, name: str | None) -> None:
        self.folder, self.name = folder, name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [self.folder]) if name == self.name else None


def _check_not_taken(name: str, here: Path) -> None:
    """Raise if the module of this name that is in use already is not the one of the current directory."""
    module = sys.modules.get(name)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    own = {(here / each).resolve() for each in (name, f"{name}.py", f"{name}/__init__.py")}
    if module and not any(place and Path(place).resolve() in own for place in places):
        taken = next(filter(None, places), "built into Python")
        raise EnvironmentContractError(
            f"The module {name} of {here} cannot be imported: another one of this name is in use already ({taken}). "
            f"Give yours another name."
        )


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
