"""What a world may offer beside reset, step and tasks: an expert, a teacher, easier stages, panels of tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from reflect_rl.errors import TeacherError

SPLITS = ("train", "valid", "test")
Styles = Mapping[str, tuple[Callable[[Mapping[str, Any]], str], ...]]
"""The sentences of each style, as functions of the facts."""


class OptionalMethods:
    """The optional part of `TextEnv`. Every method has a default; override those that your world can answer."""

    stages: ClassVar[tuple[str, ...]] = ()
    """Names of easier versions of every task, easiest first, for a curriculum. The full task is not listed."""
    teachers: ClassVar[tuple[str, ...]] = ()
    """Names of the styles that `teach` knows."""

    if TYPE_CHECKING:

        def tasks(self, split: str) -> tuple[str, ...]: ...

    def expert(self) -> int | None:
        """Name a best action in the current state. Needed to collect expert episodes.

        Returns:
            An index into the admissible actions, or None if the world has no expert.
        """
        return None

    def expert_set(self) -> frozenset[int]:
        """Name all actions that the expert considers equally good. By default, the one of `expert`.

        Returns:
            Indices into the admissible actions; empty if the expert knows none.
        """
        choice = self.expert()
        return frozenset() if choice is None else frozenset((choice,))

    def describe(self) -> Mapping[str, Any]:
        """State facts about the current state, from which a scripted teacher writes.

        Returns:
            A mapping that JSON can hold; empty if there are no facts.
        """
        return {}

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """Write a reflection: the scripted teacher.

        Args:
            facts: What `describe` returned in the state to reflect on, as JSON gives it back.
            style: One of `teachers`.

        Returns:
            The text of the reflection.

        Raises:
            TeacherError: If the world has no such style.
        """
        if style in cls.teachers:
            raise TeacherError(
                f"{cls.__name__} lists '{style}' in teachers, and has no teach(facts, style) that writes it. Define "
                f"teach as a class method."
            )
        raise no_teacher(cls, style)

    def panels(self) -> dict[str, tuple[str, ...]]:
        """Name the fixed panels of tasks that evaluation plays.

        Returns:
            Tasks by the panel's name, the main panel first; "test" and "valid" are among them.
        """
        splits = {split: tuple(self.tasks(split)) for split in SPLITS}
        return {"all": sum(splits.values(), ()), "test": splits["test"], "valid": splits["valid"]}

    def kind(self, task: str) -> str:
        """Say what sort of task this is, so that results can be shown by kind.

        Returns:
            The kind's name; the same for all tasks if there is one kind only.
        """
        return ""


def tasks_hash(tasks: Iterable[str]) -> str:
    """What tells one panel from another: sha256 of its tasks' names, sorted, a line each (`sort | sha256sum`)."""
    return hashlib.sha256("".join(f"{task}\n" for task in sorted(tasks)).encode()).hexdigest()


def check_teacher(world: type[OptionalMethods], style: str) -> None:
    """Raise TeacherError if a style is not among `teachers`, or no teacher is defined at all.

    What else is wrong with them is told when the world is made, or the teacher is asked.
    """
    listed = world.teachers if isinstance(world.teachers, tuple | list) else ()
    has_none = all("teach" not in vars(kind) for kind in world.__mro__ if kind is not OptionalMethods)
    if style not in listed and (listed or has_none):
        raise no_teacher(world, style)


def no_teacher(world: type[OptionalMethods], style: str) -> TeacherError:
    """The error of a style that a scripted teacher does not have."""
    known = ", ".join(world.teachers) or "none"
    return TeacherError(f"{world.__name__} has no scripted teacher '{style}' (it has: {known}).")


def write_reflection(world: type[OptionalMethods], styles: Styles, facts: Mapping[str, Any], style: str) -> str:
    """The reflection of a scripted teacher: the sentences of a style, one after the other.

    Raises TeacherError for a style that is not among these, and for facts that lack what it tells.
    """
    if style not in styles:
        raise no_teacher(world, style)
    try:
        return " ".join(sentence(facts) for sentence in styles[style])
    except KeyError as error:
        raise TeacherError(
            f"The facts of this state lack {error}, which the style '{style}' tells. Collect the episodes again with "
            f"this version, or pass what {world.__name__}.describe() gives."
        ) from error
