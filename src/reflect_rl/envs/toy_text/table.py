"""Gymnasium's transition table of a small world: read, solved, and a policy's success in it computed exactly.

Arrays end in their axes: S states, A actions, K outcomes of an action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TIE = 1e-9
"""Actions whose values differ by less are equally good."""

Outcomes = tuple[tuple[float, int, float, bool], ...]
"""(sum of the chances up to and with this outcome, next state, reward, terminated) of each outcome of an action."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """outcomes: those of [state][action]. chance_SAK, next_SAK, reward_SAK: the same as arrays.

    goes_on_SAK: 1.0 where the episode goes on after an outcome. goal: the state in which an episode succeeds.
    """

    outcomes: tuple[tuple[Outcomes, ...], ...]
    chance_SAK: np.ndarray
    next_SAK: np.ndarray
    reward_SAK: np.ndarray
    goes_on_SAK: np.ndarray
    goal: int


@dataclass(frozen=True, slots=True)
class Plan:
    """values: the discounted return from each state. best: the actions with the highest one; first: the lowest."""

    values: tuple[float, ...]
    best: tuple[frozenset[int], ...]
    first: tuple[int, ...]


def read_table(P: Mapping[int, Mapping[int, list[Any]]], goal: int) -> Table:
    """Gymnasium's `env.unwrapped.P`: lists of (chance, next state, reward, terminated) by state and action."""
    listed = [[P[state][action] for action in range(len(P[state]))] for state in range(len(P))]
    most = max(len(some) for actions in listed for some in actions)
    never = [(0.0, 0, 0.0, True)]
    each = np.array([[some + never * (most - len(some)) for some in actions] for actions in listed], dtype=float)
    outcomes = tuple(
        tuple(
            tuple(
                (float(total), int(after), float(reward), bool(ends))
                for total, (_, after, reward, ends) in zip(np.cumsum([one[0] for one in some]), some, strict=True)
            )
            for some in actions
        )
        for actions in listed
    )
    return Table(outcomes, each[..., 0], each[..., 1].astype(int), each[..., 2], 1 - each[..., 3], goal)


def solve(table: Table, discount: float) -> Plan:
    """The best stationary policy for the discounted return, discount < 1: policy iteration, which is exact."""
    states = np.arange(len(table.outcomes))
    choice_S, is_best = np.zeros(len(states), dtype=int), False
    value_S, value_SA = np.zeros(0), np.zeros((0, 0))
    weight_SAK = discount * table.chance_SAK * table.goes_on_SAK
    while not is_best:
        matrix_SS = np.eye(len(states))
        for outcome in range(weight_SAK.shape[-1]):
            matrix_SS[states, table.next_SAK[states, choice_S, outcome]] -= weight_SAK[states, choice_S, outcome]
        paid_SA = (table.chance_SAK * table.reward_SAK).sum(-1)
        value_S = np.linalg.solve(matrix_SS, paid_SA[states, choice_S])
        value_SA = paid_SA + (weight_SAK * value_S[table.next_SAK]).sum(-1)
        better_S = value_SA.max(-1) > value_SA[states, choice_S] + TIE
        choice_S, is_best = np.where(better_S, value_SA.argmax(-1), choice_S), not better_S.any()
    best_SA = value_SA >= value_SA.max(-1)[:, None] - TIE
    best = tuple(frozenset(np.flatnonzero(row).tolist()) for row in best_SA)
    return Plan(tuple(value_S.tolist()), best, tuple(min(actions) for actions in best))


def success_within(table: Table, steps: int, policy_SA: np.ndarray | None = None) -> np.ndarray:
    """The exact probability of reaching the goal from each state within a number of steps, (S,).

    policy_SA: the probability of each action in each state, in rows that sum to 1; None: the best there is, which may
    depend on the steps left.
    """
    arrives_SAK = table.next_SAK == table.goal
    success_S = np.zeros(len(table.outcomes))
    for _ in range(steps):
        after_SAK = np.where(arrives_SAK, 1.0, table.goes_on_SAK * success_S[table.next_SAK])
        success_SA = (table.chance_SAK * after_SAK).sum(-1)
        success_S = success_SA.max(-1) if policy_SA is None else (success_SA * policy_SA).sum(-1)
    return success_S
