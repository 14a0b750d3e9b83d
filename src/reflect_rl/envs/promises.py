"""The promises of a world, and the boundary to its code: what it raises or breaks becomes one clear message.

`checked` says what is expected of each answer, for runs and for `check` alike.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from reflect_rl.errors import EnvironmentContractError, ReflectRLError

if TYPE_CHECKING:
    from reflect_rl.envs.base import TextEnv

MOST_REWARD = 1e100
"""Sums of rewards up to this, either way, and of their squares, are finite."""

MADE = "it can be made and reset"
DECLARED = "declarations"
TASKS = "tasks"
PANELS = "panels"
OBSERVATIONS = "observations"
ACTIONS = "actions"
STEPS = "steps"
CHOICES = "wrong choices"
SAME_SEED = "same seed, same bytes"
INDEPENDENT = "instances are independent"
ENDINGS = "endings"
AFTER_THE_END = "after the end"
HORIZON = "horizon"
REWARDS = "rewards"
OPTIONS = "reset options"
STAGES = "stages"
EXPERT = "expert"
TEACHER = "facts and teacher"
CLOSES = "close"

MENDS = {
    MADE: "Fix the constructor or reset().",
    DECLARED: (
        "Declare horizon as a whole number from 1 up, task_text as text, and stages and teachers as tuples of names, "
        'such as ("plain",).'
    ),
    TASKS: "tasks(split) must name tasks for train, valid and test, always the same, none of them twice.",
    PANELS: 'panels() must map names to tuples of tasks, "test" and "valid" among them; kind(task) must give text.',
    OBSERVATIONS: "Return text from reset() and step(), and declare a Text space that it lies in.",
    ACTIONS: 'Put a non-empty tuple of distinct strings into info["actions"], at the end too.',
    STEPS: "Fix step(): it raises nothing for an admissible action, and returns what Gymnasium's does.",
    CHOICES: "Begin step() with choice = self.check_choice(action, actions).",
    SAME_SEED: "Draw from self.np_random alone, after super().reset(seed=seed).",
    INDEPENDENT: "Keep the state in self, not in the class or the module.",
    ENDINGS: (
        'At the end set info["success"] and info["stop"]: HORIZON comes with truncated=True, at the horizon, every '
        "other StopReason with terminated=True."
    ),
    AFTER_THE_END: "Raise EnvironmentContractError from step() until reset() is called.",
    HORIZON: "Let the constructor take horizon, and keep it in self.horizon.",
    REWARDS: f"Return a finite number, up to {MOST_REWARD:g}.",
    OPTIONS: 'options={"task": name} must make that task; refuse what you do not know.',
    STAGES: 'options={"stage": name} must make each of `stages`.',
    EXPERT: "expert() must give an index into the admissible actions that leads to success, or None.",
    TEACHER: (
        "describe() must be JSON-able, and teach() must write text in every style from what JSON gives back, in which "
        "tuples are lists and keys are texts."
    ),
    CLOSES: "Fix close(): it must not raise, even before the first reset().",
}
"""Every promise, in the order in which `check` looks at them, with how to keep it."""


CHANGED_FOLDER = (
    "The world changed the current folder, which was set back. Open files by their whole path, such as "
    "Path(__file__).parent / 'levels.txt'."
)


class BrokenPromiseError(EnvironmentContractError):
    """A promise of MENDS was seen broken. seen: what was seen."""

    promise = MADE
    seen = ""


def broken(world: TextEnv | type[TextEnv], promise: str, seen: str, cause: BaseException | None = None) -> NoReturn:
    """Raise BrokenPromiseError. seen: what was seen, without a full stop."""
    kind = world if isinstance(world, type) else type(world)
    name = f"{kind.__module__}:{kind.__qualname__}"
    error = BrokenPromiseError(
        f"{name} breaks the TextEnv contract: {seen}. {MENDS[promise]} `reflect-rl check {name}` looks for more."
    )
    error.promise, error.seen = promise, f"{seen}."  # not arguments: an error has to survive pickling
    raise error from cause


def raised(world: TextEnv | type[TextEnv], promise: str, what: str, error: BaseException) -> NoReturn:
    """Raise what a world's code raised in `what`: a ReflectRLError or an interrupt as it is.

    Anything else, SystemExit included, becomes a BrokenPromiseError: a world must not end the process.
    """
    if isinstance(error, ReflectRLError | KeyboardInterrupt):
        raise error
    broken(world, promise, f"{what} raised {where(error)}", error)


@contextmanager
def world_code(world: TextEnv | type[TextEnv], promise: str, what: str) -> Iterator[None]:
    """Call a world's code in this block: see `raised` and `same_folder`. Too slow for every step."""
    try:
        with same_folder():
            yield
    except BaseException as error:  # noqa: BLE001  it may raise anything
        raised(world, promise, what, error)


@contextmanager
def same_folder() -> Iterator[None]:
    """Set the current folder back if a world's code in this block changes it: relative paths are the user's."""
    here = _current_folder()
    try:
        yield
    finally:
        if here is not None and _current_folder() != here:
            os.chdir(here)
            warnings.warn(CHANGED_FOLDER, RuntimeWarning, stacklevel=3)


def _current_folder() -> str | None:
    """None if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None


def where(error: BaseException) -> str:
    """The error in words, with the place in the user's code that it came from."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def short(value: object) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  a world's own object
        return f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return text if len(text) <= 120 else text[:117] + "..."


def text_of(world: TextEnv | type[TextEnv], promise: str, what: str, value: object, least: int = 0) -> str:
    """A str that files and models can hold: a lone surrogate is part of no text. least: characters."""
    if not isinstance(value, str):
        broken(world, promise, f"{what} {short(value)}, not text")
    if len(value) < least:
        broken(world, promise, f"{what} {short(value)}, which is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        broken(
            world,
            promise,
            f"{what} {short(value)}, which is no Unicode text (a lone surrogate at character {error.start}). Read "
            f'bytes with errors="replace", or mend a text by text.encode("utf-8", "replace").decode()',
        )
    return str.__str__(value)  # of a subclass, such as numpy's, the text alone


def names_of(env: TextEnv, promise: str, what: str, values: object, least: int = 0) -> tuple[str, ...]:
    """A tuple or list of distinct names that are not empty."""
    if not isinstance(values, tuple | list) or len(values) < least:
        broken(env, promise, f"{what} {short(values)}, not a tuple of {'at least one name' if least else 'names'}")
    seen = f"{what} {short(values)} with"
    names = tuple([text_of(env, promise, seen, value, least=1) for value in values])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        broken(env, promise, f"{what} {short(values)}, which names {short(twice)} twice")
    return names
