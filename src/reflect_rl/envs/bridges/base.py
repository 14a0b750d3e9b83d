"""What the bridges share: tasks that are numbers, and actions that the user names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from reflect_rl.envs.base import SPLITS
from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

Offer = Sequence[str] | Mapping[str, Any]
"""Texts to choose from; or, by the name that the players read, what is sent."""
Actions = Offer | Callable[[Any], Offer]
"""An offer that always holds, or a function: observation -> offer."""
Success = Callable[[Any, float, bool], bool]
"""(observation, reward, whether the environment has ended the episode) -> whether the task is solved."""


class Bridged(SimpleTextEnv):
    """An environment of another library as text.

    Tasks are numbers, named with the prefix `numbered`, such as "seed-0". They are split in the order train, valid,
    test.
    """

    numbered: ClassVar[str] = "seed"
    split_sizes: ClassVar[tuple[int, int, int]] = (200, 40, 60)
    usual_horizon: ClassVar[int] = 20

    def __init__(self, horizon: int | None = None) -> None:
        super().__init__(self.usual_horizon if horizon is None else horizon)

    def tasks(self, split: str) -> tuple[str, ...]:
        self.check_split(split)
        place = SPLITS.index(split)
        begin = sum(self.split_sizes[:place])
        return tuple(f"{self.numbered}-{number}" for number in range(begin, begin + self.split_sizes[place]))

    @staticmethod
    def number(task: str) -> int:
        """The number of a task."""
        return int(task.rpartition("-")[2])


class FreeText(Bridged):
    """A bridged environment that takes any text (or JSON): the user says which to choose from.

    Subclasses keep the latest observation in `seen`, and call `offer` after each.
    """

    offered: ClassVar[Actions | None] = None
    shown: ClassVar[Callable[[Any], str]]
    solved: ClassVar[Success]

    def __init__(self, horizon: int | None = None, actions: Actions | None = None) -> None:
        self._offered = type(self).offered if actions is None else actions
        is_fixed = self._offered is not None and not callable(self._offered)
        self._sent: dict[str, Any] = self._read_offer(self._offered) if is_fixed else {}  # type: ignore[arg-type]
        self.actions = tuple(self._sent)  # type: ignore[misc]
        self.seen: Any = None
        super().__init__(horizon)

    def observe(self) -> str:
        return type(self).shown(self.seen)

    def admissible(self) -> tuple[str, ...]:
        return tuple(self._sent)

    def offer(self) -> None:
        """Read the actions that the latest observation offers."""
        if self._offered is None:
            self._sent = self._read_offer(self.own_offer())
        elif callable(self._offered):
            self._sent = self._read_offer(self._offered(self.seen))

    def own_offer(self) -> Offer:
        """The actions that the environment itself offers in `seen`, where the user gives none."""
        raise EnvironmentContractError(f"{type(self).__name__} needs actions: the texts that a player chooses from.")

    def verdict(self, reward: float, ended: bool) -> tuple[float, StopReason | None]:
        """What `act` returns after a step. ended: whether the environment has ended the episode."""
        if type(self).solved(self.seen, reward, ended):
            return reward, StopReason.SUCCESS
        return reward, StopReason.FAILURE if ended else None

    def _read_offer(self, offer: Offer) -> dict[str, Any]:
        if not isinstance(offer, Mapping):
            check_names(offer)
            return {text: text for text in offer}
        check_names(tuple(offer))
        return dict(offer)


World = TypeVar("World", bound=FreeText)


def subclass(
    kind: type[World],
    name: str,
    doc: str,
    *,
    render: Callable[[Any], str] | None,
    actions: Actions | None,
    success: Success | None,
    tasks: tuple[int, int, int],
    horizon: int,
    task_text: str,
    **more: Any,
) -> type[World]:
    """A class of a bridged environment, as its user chose it. more: other attributes of the class.

    Raises EnvironmentContractError: action names are empty or not distinct, or a split has no task.
    """
    check_tasks(tasks)
    if actions is not None and not callable(actions):
        check_names(tuple(actions) if isinstance(actions, Mapping) else actions)
    body = {
        "__doc__": doc,
        "offered": staticmethod(actions) if callable(actions) else actions,
        "split_sizes": tasks,
        "usual_horizon": horizon,
        "task_text": task_text,
        **({} if render is None else {"shown": staticmethod(render)}),
        **({} if success is None else {"solved": staticmethod(success)}),
        **more,
    }
    return type(name or kind.__name__, (kind,), body)  # type: ignore[return-value]


def check_names(actions: object) -> None:
    """Raise EnvironmentContractError unless these are names of actions: distinct texts that are not empty."""
    if (
        isinstance(actions, str | bytes)
        or not isinstance(actions, Sequence)
        or not actions
        or not all(isinstance(each, str) and each for each in actions)
        or len(set(actions)) < len(actions)
    ):
        raise EnvironmentContractError(f"actions is {actions!r}; give one distinct, non-empty name an action.")


def check_tasks(tasks: object) -> None:
    """Raise EnvironmentContractError unless these are the numbers of tasks of the three splits."""
    if (
        not isinstance(tasks, Sequence)
        or len(tasks) != len(SPLITS)
        or not all(isinstance(each, int) and each >= 1 for each in tasks)
    ):
        raise EnvironmentContractError(
            f"tasks is {tasks!r}; give a number of tasks from 1 up for train, valid and test."
        )


def rewarded_end(observation: Any, reward: float, ended: bool) -> bool:
    """The usual judgement: the environment has ended the episode with a reward above 0."""
    return ended and reward > 0


def as_text(observation: Any) -> str:
    """The usual rendering: the text itself, the one in the field "text", or the observation as JSON."""
    text = observation.get("text") if isinstance(observation, Mapping) else observation
    return text if isinstance(text, str) and text else json.dumps(observation, ensure_ascii=False, allow_nan=False)
