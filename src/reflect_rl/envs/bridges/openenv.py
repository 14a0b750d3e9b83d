"""Play the world of an OpenEnv server: a client of its protocol, without the package openenv.

    Echo = from_openenv("http://127.0.0.1:8000", actions=("hello", "good morning"))

A session is a WebSocket; a message either way is JSON with a type and data (https://github.com/meta-pytorch/OpenEnv).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

from reflect_rl.envs.base import SPLITS
from reflect_rl.envs.bridges.base import Actions, FreeText, Offer, Success, as_text, subclass
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
CLOSE_SECONDS = 1.0
MOST_BYTES = 2**24
"""The longest message that a server may send."""
LOST = "The episode is lost. Look into the server's log."


class OpenEnvWorld(FreeText):
    """The world of an OpenEnv server, as text. `from_openenv` makes subclasses, and explains what can be chosen.

    Every instance holds a session of its own on the server, from its first reset to `close`. Tasks are seeds of the
    server's reset, "seed-0" upwards, split in the order train, valid, test; or the server's own tasks, by name. Rewards
    are the server's; a step without one gives 0. Without other judgement, an episode that the server ends is a success
    if the last observation's field "success" is true or, where there is none, if the last reward is above 0.

    Args:
        horizon: steps after which an episode is truncated.
        url: the server's address.
        actions: texts to choose from, or names with what is sent; None for those that the observation lists.
        field: the field of the server's action that a text is sent as.
    """

    url: ClassVar[str] = "http://127.0.0.1:8000"
    field: ClassVar[str] = "message"
    headers: ClassVar[Mapping[str, str]] = {}
    named: ClassVar[Mapping[str, tuple[str, ...]] | None] = None
    shown = staticmethod(as_text)

    @staticmethod
    def solved(seen: Any, reward: float, ended: bool) -> bool:
        """The usual judgement: the field "success" of the last observation, or a reward above 0 at the end."""
        return ended and seen["success"] is True if "success" in seen else ended and reward > 0

    def __init__(
        self,
        horizon: int | None = None,
        *,
        url: str | None = None,
        actions: Actions | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(horizon, actions)
        self._field = type(self).field if field is None else field
        self._session = Session(type(self).url if url is None else url, type(self).headers)

    def tasks(self, split: str) -> tuple[str, ...]:
        self.check_split(split)
        return super().tasks(split) if self.named is None else self.named[split]

    def begin(self, task: str, stage: str | None) -> None:
        if self.named is None:
            asked: dict[str, Any] = {"seed": self.number(task)}
        else:
            asked = {"seed": int(self.np_random.integers(2**31)), "task": task}
        self.seen, _, _ = self._session.reset(asked)
        self.offer()

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        sent = self._sent[self.admissible()[choice]]
        self.seen, reward, done = self._session.ask("step", {self._field: sent} if isinstance(sent, str) else sent)
        if not done:
            self.offer()
        return self.verdict(reward, done)

    def own_offer(self) -> Offer:
        actions = self.seen.get("actions")
        if not actions:
            raise EnvironmentContractError(
                f"The observation of {self._session.url} lists no actions: {str(self.seen)[:200]}. Say which "
                f"texts a player chooses from: from_openenv(url, actions=...)."
            )
        return actions

    def close(self) -> None:
        self._session.close()


class Session:
    """A session on an OpenEnv server. It is opened when it is first needed.

    Args:
        url: the server's address, http:// or https://.
        headers: sent when the session is opened, such as {"Authorization": "Bearer ..."}.

    Raises:
        EnvironmentContractError: the address is none. Asking raises it if there is no server, if it speaks another
            protocol, refuses what is asked, or goes away.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        try:
            parts = urlsplit(url) if isinstance(url, str) else None
            is_one = parts is not None and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # also of a port that is none
            parts, is_one = None, False
        if parts is None or not is_one:
            raise EnvironmentContractError(f"url is {url!r}; give the server's address, such as http://127.0.0.1:8000.")
        self.url = url.rstrip("/")
        scheme, path = parts.scheme.replace("http", "ws"), f"{parts.path.rstrip('/')}/ws"
        self._socket_url = parts._replace(scheme=scheme, path=path).geturl()
        self._local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._headers = headers
        self._opened = ExitStack()
        self._socket: Any = None

    def reset(self, data: Mapping[str, Any]) -> tuple[dict[str, Any], float, bool]:
        """Begin an episode; the session is opened again if the server has closed it meanwhile."""
        if self._socket is not None:
            from websockets.exceptions import ConnectionClosed

            with suppress(ConnectionClosed):
                return self._exchange("reset", data)
        self._open()
        return self.ask("reset", data)

    def ask(self, kind: str, data: Mapping[str, Any]) -> tuple[dict[str, Any], float, bool]:
        """Send a message; the observation, the reward and whether the episode is over."""
        from websockets.exceptions import WebSocketException

        if self._socket is None:
            self._fail("has no session any more")
        try:
            return self._exchange(kind, data)
        except (WebSocketException, OSError) as error:
            self._fail(f"closed the session ({error})", LOST)

    def close(self) -> None:
        """End the session. Another reset opens a new one."""
        socket, self._socket = self._socket, None
        if socket is not None:
            from websockets.exceptions import ConnectionClosed

            with suppress(ConnectionClosed):
                socket.send('{"type": "close"}')
        self._opened.close()

    def _open(self) -> None:
        try:
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect
        except ModuleNotFoundError as error:
            raise EnvironmentContractError(
                'A client of OpenEnv needs websockets: pip install "reflect-rl[openenv]".'
            ) from error
        try:
            self._socket = self._opened.enter_context(
                connect(
                    self._socket_url,
                    additional_headers=self._headers,
                    open_timeout=CONNECT_SECONDS,
                    close_timeout=CLOSE_SECONDS,
                    max_size=MOST_BYTES,
                    proxy=None if self._local else True,
                )
            )
        except OSError as error:
            self._fail(f"cannot be reached ({error or type(error).__name__})", "Start the server, or correct the url.")
        except WebSocketException as error:
            self._fail(f"is no OpenEnv server that lets this client in ({error})", "It should open WebSockets at /ws.")

    def _exchange(self, kind: str, data: Mapping[str, Any]) -> tuple[dict[str, Any], float, bool]:
        """The server's answer. One that is not awaited ends the session: it would be taken for the next one."""
        from websockets.exceptions import ConnectionClosed

        message = json.dumps({"type": kind, "data": data}, allow_nan=False)
        try:
            with suppress(ConnectionClosed):  # the reason may have arrived, and is read next
                self._socket.send(message)
            text = self._socket.recv(timeout=ANSWER_SECONDS)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                self._fail("took too long to answer", LOST)
            raise
        try:
            answer = json.loads(text, parse_constant=_no_number)
            found, data = answer["type"], answer["data"]
            if found == "error":
                self._refused(kind, data)
            seen, reward, done = data["observation"], data.get("reward"), data.get("done", False)
            if found != "observation" or not isinstance(seen, dict) or not isinstance(done, bool):
                raise ValueError("no observation")
            return seen, float(reward or 0.0), done
        except (ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError):
            shown = text[:200] if isinstance(text, str) else "bytes"
            self._fail(f"answered {shown!r} to {kind}, which is no observation of OpenEnv's")

    def _refused(self, kind: str, error: Mapping[str, Any]) -> NoReturn:
        reason = str({key: value for key, value in error.items() if key != "code"})[:1000]
        if error.get("code") == "CAPACITY_REACHED":
            self._fail(
                f"has no free session: {reason}",
                "Let it take more (max_concurrent_envs in its app.py), or play fewer episodes at once (rl.num_envs).",
            )
        advice = "An action that it does not know is mended by actions= or field=." if kind == "step" else ""
        self._fail(f"refused {kind}: {reason}", advice)

    def _fail(self, what: str, advice: str = "") -> NoReturn:
        raise EnvironmentContractError(f"{self.url} {what}. {advice}".rstrip())


def from_openenv(
    url: str,
    *,
    render: Callable[[dict[str, Any]], str] | None = None,
    actions: Actions | None = None,
    success: Success | None = None,
    tasks: tuple[int, int, int] | Mapping[str, Sequence[str]] = (200, 40, 60),
    horizon: int = 20,
    task_text: str = "",
    name: str = "",
    field: str = "message",
    headers: Mapping[str, str] | None = None,
) -> type[OpenEnvWorld]:
    """The class of a TextEnv that plays the world of an OpenEnv server.

    Args:
        url: the server's address, such as http://127.0.0.1:8000. Nothing is sent before the first reset.
        render: `render(observation)` writes the text that the players read; by default, the field "text", or the whole
            observation as JSON.
        actions: texts to choose from, each sent as the field `field` of an action; or a mapping from the names that the
            players read to the actions that are sent, as OpenEnv's JSON; or a function `observation -> one of these`.
            By default, the field "actions" of the observation, which the worlds of `reflect-rl serve-env` have.
        success: `success(observation, reward, done)` judges each step; the first that succeeds ends the episode. By
            default, success is the observation's field "success" at the end, or else an end with a reward above 0.
        tasks: the number of start seeds for train, valid and test; or, for a server that has tasks of its own, as those
            of `reflect-rl serve-env`, their names by split. A name is sent as the field `task` of the reset.
        horizon: the default horizon. Many servers never end an episode.
        task_text: the rules, told to the players once.
        name: the name of the class.
        field: the field of the server's action that a text is sent as.
        headers: sent when a session is opened, such as {"Authorization": "Bearer ..."}.

    Raises:
        EnvironmentContractError: action names are empty or not distinct, a split has no task, or two have the same one.
            Playing raises it, with the url, if the server is not there, speaks another protocol, refuses an action or
            goes away.
    """
    is_named = isinstance(tasks, Mapping)
    return subclass(
        OpenEnvWorld,
        name,
        f"The world of the OpenEnv server at {url}, as text.",
        render=render,
        actions=actions,
        success=success,
        tasks=OpenEnvWorld.split_sizes if is_named else tasks,
        horizon=horizon,
        task_text=task_text,
        named=_read_names(tasks) if is_named else None,
        url=url,
        field=field,
        headers=dict(headers or {}),
    )


def _read_names(tasks: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Names of tasks by split, checked."""
    are_lists = all(isinstance(names, Sequence) and names and not isinstance(names, str) for names in tasks.values())
    every = [name for names in tasks.values() for name in names] if are_lists else []
    if (
        set(tasks) != set(SPLITS)
        or not every
        or not all(isinstance(name, str) and name for name in every)
        or len(set(every)) < len(every)
    ):
        raise EnvironmentContractError(
            f"tasks is {str(tasks)[:200]}; give distinct names of tasks for train, valid and test."
        )
    return {split: tuple(names) for split, names in tasks.items()}


def _no_number(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which JSON lacks."""
    raise ValueError(name)
