"""Play an environment of the library verifiers (0.4 or newer) as a world.

    Colours = from_verifiers("colour-words", actions=("red", "green", "blue"))

The environment's own code runs: its taskset, its `run`, its rewards. In the place of its agent sits a `Seat`, which
asks the players of the world and answers with the text of the action that they choose.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from itertools import islice
from typing import Any, ClassVar, TypeVar

from reflect_rl.envs.bridges.base import Actions, FreeText, Success, as_text, rewarded_end, subclass
from reflect_rl.envs.promises import where
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

ANSWER_SECONDS = 60.0
Result = TypeVar("Result")


class VerifiersWorld(FreeText):
    """An environment of the library verifiers, as text. `from_verifiers` makes subclasses, and explains the choices.

    Its agent is whoever plays the world; it must be the only one, and need neither tools nor a sandbox. An observation
    is the text of the messages since the last answer, with the system prompt; when the episode has ended there are
    none, and the last ones are shown again. Tasks are those of the taskset in its order, "task-0" upwards, split in the
    order train, valid, test. The last step gives the sum of verifiers' weighted rewards; the others give 0.

    Args:
        horizon: steps after which an episode is truncated.
        environment: the environment's id.
        options: settings of its taskset.
        actions: answers to choose from, or names with the answers.
    """

    numbered = "task"
    environment: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    shown = staticmethod(as_text)
    solved = staticmethod(rewarded_end)

    def __init__(
        self,
        horizon: int | None = None,
        *,
        environment: str | None = None,
        options: Mapping[str, Any] | None = None,
        actions: Actions | None = None,
    ) -> None:
        super().__init__(horizon, actions)
        self._name = type(self).environment if environment is None else environment
        chosen = json.dumps(dict(type(self).options if options is None else options), sort_keys=True, allow_nan=False)
        self._environment, self._tasks = _loaded(self._name, chosen, sum(self.split_sizes))
        self._episode: Any = None

    def begin(self, task: str, stage: str | None) -> None:
        from reflect_rl.envs.bridges.verifiers_seat import Episode

        self.close()
        self._episode = Episode(self._environment, self._tasks[self.number(task)])
        self.seen = self._run(self._episode.begin())
        if self.seen is None:
            raise EnvironmentContractError(f"{self._name} ended {task} without asking its agent anything.")
        self.offer()

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        seen = self._run(self._episode.answer(self._sent[self.admissible()[choice]]))
        if seen is None:
            return self.verdict(self._episode.reward, True)
        self.seen = seen
        self.offer()
        return self.verdict(0.0, False)

    def close(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            self._run(episode.cancel())

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The environment's code, in the event loop that all of them share: the caller may have one of its own."""
        running = asyncio.run_coroutine_threadsafe(work, _loop(os.getpid()))
        try:
            return running.result(ANSWER_SECONDS)
        except EnvironmentContractError:
            raise
        except TimeoutError:
            running.cancel()
            raise EnvironmentContractError(f"{self._name} took over {ANSWER_SECONDS:g} s for a step.") from None
        except Exception as error:
            raise EnvironmentContractError(f"The verifiers environment {self._name} failed: {where(error)}.") from error


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of this process, in a thread of its own. process: its number, since a fork copies no threads."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="verifiers", daemon=True).start()
    return loop


@cache
def _loaded(name: str, options: str, count: int) -> tuple[Any, list[Any]]:
    """The environment and its first tasks. options: of its taskset, as JSON."""
    try:
        import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise EnvironmentContractError(
            'Environments of verifiers need its version 0.4 or newer: pip install "reflect-rl[verifiers]".'
        ) from error
    from reflect_rl.envs.bridges.verifiers_seat import check_playable

    try:
        environment = vf.load_environment(vf.resolve_env_config({"taskset": {**json.loads(options), "id": name}}))
        tasks = list(islice(environment.taskset, count))
    except Exception as error:
        raise EnvironmentContractError(f"The verifiers environment {name} cannot be loaded: {where(error)}.") from error
    if len(tasks) < count:
        raise EnvironmentContractError(
            f"The verifiers environment {name} has {len(tasks)} tasks, and {count} are asked for. Give tasks=, three "
            f"numbers for train, valid and test that add up to at most {len(tasks)}."
        )
    check_playable(name, environment, tasks[0])
    return environment, tasks


def from_verifiers(
    environment: str,
    *,
    render: Callable[[str], str] | None = None,
    actions: Actions,
    success: Success | None = None,
    tasks: tuple[int, int, int] = (200, 40, 60),
    horizon: int = 20,
    task_text: str = "",
    name: str = "",
    options: Mapping[str, Any] | None = None,
) -> type[VerifiersWorld]:
    """The class of a TextEnv that plays an environment of the library verifiers, 0.4 or newer.

    Args:
        environment: its id, as for the command `vf-eval`: the name of an installed package.
        render: `render(messages)` writes the text that the players read from the text of the messages since the last
            answer; by default it is that text.
        actions: answers to choose from; or a mapping from the names that the players read to the answers; or a function
            `messages -> one of these`.
        success: `success(messages, reward, done)` judges each step; the first that succeeds ends the episode. By
            default, success is an end with a reward above 0: many environments pay for the form alone, so look.
        tasks: the number of tasks for train, valid and test, in the order of the taskset.
        horizon: the default horizon.
        task_text: the rules, told to the players once.
        name: the name of the class.
        options: settings of the taskset, such as {"game": "Wordle-v0"}; they are values that JSON has.

    Raises:
        EnvironmentContractError: action names are empty or not distinct, or a split has no task. Making the world
            raises it if the environment cannot be loaded, needs tools, a sandbox or several agents, or has fewer tasks.
    """
    return subclass(
        VerifiersWorld,
        name,
        f"The verifiers environment {environment}, as text.",
        render=render,
        actions=actions,
        success=success,
        tasks=tasks,
        horizon=horizon,
        task_text=task_text,
        environment=environment,
        options=dict(options or {}),
    )
