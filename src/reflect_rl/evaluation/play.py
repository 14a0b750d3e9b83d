"""Play a world by hand in a terminal, or watch an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, expert_choice, facts_of

Read = Callable[[str], str]
"""Asks for a line with this prompt, like `input`; EOFError ends the game."""
Write = Callable[[str], Any]
"""Shows a text, like `print`."""

BAR = 24
HELP = "A number or a name of an action; h hint from the expert, ? help, q quit."


class _Decision(Protocol):
    @property
    def choice(self) -> int: ...
    @property
    def action(self) -> str: ...
    @property
    def reflection(self) -> str | None: ...
    @property
    def probabilities(self) -> tuple[float, ...]: ...


class Player(Protocol):
    """An agent that can be watched: see players.agent.Agent."""

    def reset(self) -> None: ...
    def act(self, observation: str, actions: tuple[str, ...], facts: Mapping[str, Any] | None = None) -> _Decision: ...


def play(
    env: TextEnv, read: Read, write: Write, agent: Player | None = None, task: str | None = None, seed: int = 0
) -> None:
    """Play one episode to its end, or until the user quits.

    agent: acts instead of the user; Enter continues, q quits. task: the task to play (default: drawn with `seed`).
    """
    observation, actions, info = begin(env, seed, {"task": task} if task else {})
    write(f"{env.task_text}\nTask {info['task']}." if "task" in info else env.task_text)
    if agent:
        agent.reset()
    total, steps, stop = 0.0, 0, None
    while stop is None:
        write(f"\n{observation}")
        choice = _watch(agent, env, observation, actions, read, write) if agent else _ask(env, actions, read, write)
        if choice is None:
            write(f"Left after {steps} steps, return {total:.2f}.")
            return
        action = actions[choice]
        observation, actions, reward, stop = advance(env, choice)
        total, steps = total + reward, steps + 1
        write(f"{action}: reward {reward:+.2f}")
    write(f"\n{observation}\n\nEnded: {stop} after {steps} steps, return {total:.2f}.")


def _ask(env: TextEnv, actions: tuple[str, ...], read: Read, write: Write) -> int | None:
    """The user's choice; None to quit."""
    write("  ".join(f"{number} {action}" for number, action in enumerate(actions, start=1)))
    while True:
        answer = _line(read, "> ")
        if answer in actions:  # before the commands, since an action may be called q
            return actions.index(answer)
        if answer is None or answer.lower() in ("q", "quit"):
            return None
        if answer.lower() in ("?", "help"):
            write(HELP)
        elif answer.lower() in ("h", "hint"):
            expert = expert_choice(env, actions)
            write("This world has no expert." if expert is None else f"The expert would choose: {actions[expert]}.")
        elif (choice := _find(answer, actions)) is not None:
            return choice
        elif answer:
            write(f"'{answer}' is no action here. {HELP}")


def _find(answer: str, actions: tuple[str, ...]) -> int | None:
    """Find an action by number, by name in any case, or by an unambiguous prefix."""
    if answer.isascii() and answer.isdigit():
        return int(answer) - 1 if 1 <= int(answer) <= len(actions) else None
    low = answer.lower()
    for matches in (
        [i for i, action in enumerate(actions) if action.lower() == low],
        [i for i, action in enumerate(actions) if low and action.lower().startswith(low)],
    ):
        if len(matches) == 1:
            return matches[0]
    return None


def _watch(
    agent: Player, env: TextEnv, observation: str, actions: tuple[str, ...], read: Read, write: Write
) -> int | None:
    """Show the agent's decision and return its choice; None to quit."""
    decision = agent.act(observation, actions, facts=facts_of(env))
    if decision.reflection is not None:
        write(f"Reflection: {decision.reflection}")
    width = max(map(len, actions))
    for index, (action, probability) in enumerate(zip(actions, decision.probabilities, strict=True)):
        mark = ">" if index == decision.choice else " "
        write(f"{mark} {action:<{width}}  {'█' * round(BAR * probability):<{BAR}}  {probability:6.1%}")
    answer = _line(read, "Enter: go on, q: quit > ")
    return None if answer is None or answer.lower() in ("q", "quit") else decision.choice


def _line(read: Read, prompt: str) -> str | None:
    try:
        return read(prompt).strip()
    except EOFError:
        return None
