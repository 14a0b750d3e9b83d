"""The parts of a server: what it keeps, and how it decides for several clients at once."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from corridor import Corridor
from reflect_rl.errors import EnvironmentContractError, NonFiniteError, PromptError
from reflect_rl.players.agent import Agent, Decision
from reflect_rl.players.context import Context
from reflect_rl.records import State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.serving.acting import Acting
from reflect_rl.serving.batcher import Batcher
from reflect_rl.serving.chat import Chat, ChatModel, Message, state_in
from reflect_rl.serving.kept import Kept
from reflect_rl.serving.limits import Limits
from reflect_rl.serving.requests import Ask
from reflect_rl.serving.worlds import Begin, Choose, Worlds
from reflect_rl.settings import Settings

LIMITS = Limits(states=4, waiting=6, answer_seconds=30)


# Kept

USES = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 6)))


@given(USES)
def test_what_was_used_lately_is_kept(uses: list[tuple[str, bool, int]]) -> None:
    now, dropped = 0.0, []
    kept = Kept[int](2, 10.0, dropped.append, lambda: now)
    times: dict[str, tuple[float, int]] = {}  # the same by hand, oldest use first
    made = 0
    for name, put, later in uses:
        now += later
        times = {key: value for key, value in times.items() if now - value[0] <= 10}
        if put:
            made += 1
            kept.put(name, made)
            times.pop(name, None)
            times[name] = now, made
            times = dict(list(times.items())[-2:])
        else:
            assert kept.get(name) == (times[name][1] if name in times else None)
            if name in times:
                times[name] = now, times.pop(name)[1]
        assert len(kept) == len(times)
    assert len(dropped) == len(set(dropped))
    assert not {*dropped} & {value for _, value in times.values()}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12))))
def test_what_is_kept_together_has_a_size(uses: list[tuple[str, int]]) -> None:
    dropped: list[int] = []
    kept = Kept[int](9, 10.0, dropped.append, lambda: 0.0, most_bytes=10, size=lambda value: value)
    sizes: dict[str, int] = {}
    for name, size in uses:
        kept.put(name, size)
        sizes.pop(name, None)
        sizes[name] = size
        while sum(sizes.values()) > 10:
            del sizes[next(iter(sizes))]
        assert len(kept) == len(sizes)
    assert all(kept.get(name) == sizes.get(name) for name in "abcd")


# A state in a chat

ACTIONS = st.text(min_size=1).map(str.strip).filter(lambda text: text and "\n" not in text and text[:2] != "- ")


@given(
    st.text(),
    st.lists(ACTIONS.filter(lambda text: text.lower() != "actions:"), min_size=1),
    st.sampled_from(["", "- "]),
)
def test_a_state_told_in_a_chat_is_read_as_it_is(observation: str, actions: list[str], bullet: str) -> None:
    lines = "".join(f"\n{bullet}{action}" for action in actions)
    for text in (f"{observation}\n\nActions:{lines}\n", json.dumps({"observation": observation, "actions": actions})):
        asked = state_in(text)
        assert asked.actions == tuple(actions)
        assert asked.observation in (observation, observation.rstrip("\n"))


# Agents that read more than the observation

BEHIND_HTTP = Limits()


def agent_with(run: RunFolder, settings: Settings) -> Agent:
    shutil.copytree(run / "policy-sft", run / "policy", dirs_exist_ok=True)
    return Agent(run, Context(settings))


def test_a_chat_gives_past_reflections_to_an_agent_that_reads_them(
    warmed: RunFolder, tiny: Callable[..., Settings]
) -> None:
    agent = agent_with(warmed, tiny({"prompt.reflections": 2, "prompt.history": 2}))
    batcher = Batcher(agent.decide, BEHIND_HTTP)
    model = ChatModel("tiny", agent, batcher, BEHIND_HTTP)
    chat: list[Message] = []
    for observation in ("P....i...", ".P...i...", "..P..i..."):
        decision = agent.act(observation, ("left", "right", "take"))
        chat.append(Message("user", f"{observation}\nActions:\nleft\nright\ntake"))
        answer = asyncio.run(model.complete(Chat("tiny-with-reflection", tuple(chat))))
        text = answer["choices"][0]["message"]["content"]
        assert text == f"{decision.reflection}\n\n{decision.action}"
        chat.append(Message("assistant", text))
    bare = (chat[0], Message("assistant", "left"), chat[2])
    with pytest.raises(HTTPException, match=r"400.*past reflections.*tiny-with-reflection"):
        asyncio.run(model.complete(Chat("tiny", bare)))
    batcher.close()


def test_facts_that_a_scripted_reflector_cannot_read_are_the_clients_error(
    warmed: RunFolder, tiny: Callable[..., Settings]
) -> None:
    agent = agent_with(warmed, tiny({"reflector.kind": "scripted"}))
    env = agent.world
    observation, info = env.reset(seed=0)
    batcher = Batcher(agent.decide, BEHIND_HTTP)
    acting = Acting(agent, batcher, BEHIND_HTTP)
    (answer,) = asyncio.run(acting.act([Ask(observation, info["actions"], facts=env.describe())]))
    assert answer["reflection"] == env.teach(env.describe(), "way")
    with pytest.raises(HTTPException, match="422"):
        asyncio.run(acting.act([Ask(observation, info["actions"], facts={"odd": 1})]))
    batcher.close()


# What sessions remember


class Facts(dict[str, Any]):
    """Facts whose end can be seen."""


def test_sessions_keep_texts_alone_and_not_more_than_they_may(warmed: RunFolder, tiny: Callable[..., Settings]) -> None:
    """Neither what an answered request held, nor what one without an answer held."""

    def facts() -> Facts:
        made = Facts(x=1)
        seen.append(weakref.ref(made))
        return made

    def decide(given: Sequence[State]) -> list[Decision]:
        if any("odd" in state.observation for state in given):
            raise PromptError("odd")
        return agent.decide(given)

    async def check() -> None:
        for name in "abc":
            (answer,) = await acting.act([Ask("P....i...", actions, name, facts())])
            with pytest.raises(HTTPException, match="422"):
                await acting.act([Ask("odd" * 1000, actions, name, facts())])
            (answer,) = await acting.act([Ask("P....i...", actions, name)])
            assert answer["step"] == 2
        gc.collect()
        assert [ref() for ref in seen] == [None] * 6
        for number in range(50):
            await acting.act([Ask("P....i...", actions, f"{number}")])
        held = sum(session.memory.size() for _, session, _ in acting.sessions._values.values())
        assert 1_000 < held <= 2_000
        (answer,) = await acting.act([Ask("P....i...", actions, "49")])
        assert answer["step"] == 2

    seen: list[Any] = []
    actions = ("left", "right", "take")
    agent = agent_with(warmed, tiny({"prompt.history": 2}))
    limits = replace(BEHIND_HTTP, sessions_bytes=2_000)
    batcher = Batcher(decide, limits)
    acting = Acting(agent, batcher, limits)
    asyncio.run(check())
    batcher.close()


# Worlds


class Halting(Corridor):
    """A world that takes its time over a step."""

    may, broken, closed = threading.Event(), False, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.broken:
            raise ValueError("no luck")
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> Any:
        assert self.may.wait(30)
        return super().step(action)

    def close(self) -> None:
        Halting.closed += 1


def test_an_episode_is_not_shown_half_way_through_a_step(
    warmed: RunFolder, tiny: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        begun = await worlds.begin(Begin())
        stepping = asyncio.create_task(worlds.step(begun["world"], Choose(0)))
        await asyncio.sleep(0.05)
        with pytest.raises(HTTPException, match=r"503.*still at its step"):
            await worlds.show(begun["world"])
        Halting.may.set()
        assert (await stepping)["step"] == 1
        assert (await worlds.show(begun["world"]))["step"] == 1

    agent = agent_with(warmed, tiny())
    decisions = Batcher(agent.decide, BEHIND_HTTP)
    worlds = Worlds(agent, Halting, decisions, BEHIND_HTTP)
    asyncio.run(check())
    monkeypatch.setattr(Halting, "broken", True)
    with pytest.raises(EnvironmentContractError, match="no luck"):
        asyncio.run(worlds.begin(Begin()))
    assert Halting.closed == 1
    worlds.close()
    decisions.close()


def test_an_episode_that_cannot_be_begun_drops_no_other(warmed: RunFolder, tiny: Callable[..., Settings]) -> None:
    async def check() -> None:
        mine = await worlds.begin(Begin())
        fits[0] = False
        for _ in range(2):
            with pytest.raises(HTTPException, match="422"):
                await worlds.begin(Begin())
        fits[0] = True
        assert (await worlds.show(mine["world"]))["step"] == 0

    def decide(given: Sequence[State]) -> list[Decision]:
        if not fits[0]:
            raise PromptError("too long")
        return agent.decide(given)

    fits, before = [True], Halting.closed
    agent = agent_with(warmed, tiny())
    decisions = Batcher(decide, BEHIND_HTTP)
    worlds = Worlds(agent, Halting, decisions, replace(BEHIND_HTTP, worlds=1))
    asyncio.run(check())
    worlds.close()
    decisions.close()
    assert Halting.closed == before + 3


# Batcher


def states(*observations: str) -> list[State]:
    return [State(observation, ("a", "b")) for observation in observations]


def decision(state: State) -> Decision:
    return Decision(0, "a", state.observation, (0.5, 0.5))


class Slow:
    """Decides once it may, and remembers the passes."""

    def __init__(self) -> None:
        self.may, self.begun = threading.Event(), threading.Event()
        self.passes: list[list[str]] = []

    def decide(self, given: Sequence[State]) -> list[Decision]:
        self.passes.append([state.observation for state in given])
        self.begun.set()
        assert self.may.wait(30)
        for state in given:
            if state.observation == "long":
                raise PromptError("too long")
            if state.observation == "broken":
                raise NonFiniteError("the loss is nan")
            if state.observation == "bug":
                raise TypeError("a bug")
        return [decision(state) for state in given]

    async def busy(self) -> None:
        """Wait until it decides."""
        assert await asyncio.to_thread(self.begun.wait, 30)


@contextmanager
def batcher(limits: Limits = LIMITS) -> Iterator[tuple[Slow, Batcher, Callable[..., asyncio.Task[list[Decision]]]]]:
    agent = Slow()
    made = Batcher(agent.decide, limits)

    def ask(*observations: str) -> asyncio.Task[list[Decision]]:
        return asyncio.create_task(made.decide(states(*observations)))

    try:
        yield agent, made, ask
    finally:
        agent.may.set()
        made.close()


def test_what_waits_together_is_decided_together_in_order() -> None:
    async def check() -> None:
        with batcher() as (agent, _, ask):
            first = ask("1")
            await agent.busy()
            waiting = [ask("2", "3"), ask("4"), ask("5", "6")]
            await asyncio.sleep(0)
            agent.may.set()
            answers = [[each.reflection for each in answer] for answer in await asyncio.gather(first, *waiting)]
            assert answers == [["1"], ["2", "3"], ["4"], ["5", "6"]]
            assert agent.passes == [["1"], ["2", "3", "4"], ["5", "6"]]  # four fit, but no request is torn apart

    asyncio.run(check())


def test_too_many_waiting_states_are_refused_until_there_is_room() -> None:
    async def check() -> None:
        with batcher() as (agent, made, ask):
            first = ask("1")
            await agent.busy()
            waiting = [ask("2", "3", "4"), ask("5", "6")]
            await asyncio.sleep(0)
            assert made.waiting == 5
            with pytest.raises(HTTPException) as refused:
                await ask("7", "8")
            assert (refused.value.status_code, refused.value.headers) == (429, {"retry-after": "1"})
            waiting.append(ask("7"))
            await asyncio.sleep(0)
            agent.may.set()
            await asyncio.gather(first, *waiting)
            assert made.waiting == 0
            assert await ask("8")

    asyncio.run(check())


def test_an_error_meets_the_request_that_it_is_about() -> None:
    async def check() -> None:
        with batcher() as (agent, made, ask):
            first = ask("1")
            await agent.busy()
            waiting = [ask("2"), ask("long"), ask("broken"), ask("3")]
            await asyncio.sleep(0)
            agent.may.set()
            await first
            good, long, broken, other = await asyncio.gather(*waiting, return_exceptions=True)
            assert [good, other] == [[decision(state)] for state in states("2", "3")]
            assert isinstance(long, HTTPException)
            assert (long.status_code, long.detail) == (422, "too long")
            assert isinstance(broken, NonFiniteError)
            with pytest.raises(TypeError):
                await ask("bug")
            assert made.alive
            assert await ask("4")

    asyncio.run(check())


def test_who_waits_too_long_is_told_and_not_decided_for() -> None:
    async def check() -> None:
        with batcher(replace(LIMITS, answer_seconds=0.05)) as (agent, _, ask):
            first = ask("1")
            await agent.busy()
            for task in (first, ask("2")):
                with pytest.raises(HTTPException, match=r"503.*0\.05 s"):
                    await task
            agent.begun.clear()
            agent.may.set()
            assert await ask("3")
            assert agent.passes == [["1"], ["3"]]

    asyncio.run(check())


def test_closing_does_not_wait_for_a_decision_that_does_not_come() -> None:
    with batcher(replace(LIMITS, leaving_seconds=0.1)) as (agent, made, _):
        decided = threading.Thread(target=lambda: asyncio.run(made.decide(states("1"))), daemon=True)
        decided.start()
        assert agent.begun.wait(30)
        made.close()
        assert made.alive


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    async def check() -> None:
        with batcher() as (agent, made, ask):
            waiting = [ask(str(number)) for number in range(6)]
            await agent.busy()
            closing = asyncio.create_task(asyncio.to_thread(made.close))
            agent.may.set()
            assert len(await asyncio.gather(*waiting)) == 6
            await closing
            assert not made.alive
            with pytest.raises(HTTPException, match=r"503.*stopping"):
                await ask("7")

    asyncio.run(check())
