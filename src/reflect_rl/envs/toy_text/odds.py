"""Blackjack's odds, exact: the infinite deck, what the dealer ends with, and the best play by dynamic programming.

A hand is (sum, usable ace), as Gymnasium observes it. The ace is 1 where it is a dealer's card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from reflect_rl.envs.toy_text.table import TIE

DECK = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10)
"""Gymnasium's: every draw is from all of it."""
STICK, HIT = 0, 1
BUST, NATURAL = "bust", "natural"


class Hand(NamedTuple):
    """sum: with the usable ace as 11. ace: whether there is one."""

    sum: int
    ace: bool

    def with_card(self, card: int) -> Hand:
        """The hand with one more card."""
        least = self.sum - 10 * self.ace + card
        usable = (self.ace or card == 1) and least + 10 <= 21
        return Hand(least + 10 * usable, usable)

    @property
    def is_bust(self) -> bool:
        return self.sum > 21


NO_CARDS = Hand(0, False)


class Rules(NamedTuple):
    """Gymnasium's options. natural: a natural that wins pays 1.5. sab: it wins unless the dealer has one as well."""

    natural: bool
    sab: bool

    def reward(self, hand: int, dealer: int, natural: bool, dealer_natural: bool) -> float:
        """What the player gets who sticks. hand, dealer: scores, 0 for a bust. natural: of the player."""
        if self.sab and natural and not dealer_natural:
            return 1.0
        reward = float(hand > dealer) - float(hand < dealer)
        return 1.5 if self.natural and not self.sab and natural and reward == 1 else reward


@cache
def two_cards() -> dict[Hand, float]:
    """The hands of two cards with their chances."""
    chances: dict[Hand, float] = {}
    for first in DECK:
        for second in DECK:
            hand = NO_CARDS.with_card(first).with_card(second)
            chances[hand] = chances.get(hand, 0.0) + len(DECK) ** -2
    return chances


@cache
def dealer_ends(shown: int) -> Mapping[tuple[int, bool], float]:
    """The chance of each (score, has a natural) of a dealer who shows this card; the score of a bust is 0."""
    ends: dict[tuple[int, bool], float] = {}
    for hidden in DECK:
        hand = NO_CARDS.with_card(shown).with_card(hidden)
        if hand.sum == 21:
            ends[21, True] = ends.get((21, True), 0.0) + 1 / len(DECK)
            continue
        for score, chance in _drawn_out(hand).items():
            ends[score, False] = ends.get((score, False), 0.0) + chance / len(DECK)
    return ends


@cache
def _drawn_out(hand: Hand) -> Mapping[int, float]:
    """The chance of each score of a dealer who draws until the hand counts 17."""
    if hand.sum >= 17:
        return {0 if hand.is_bust else hand.sum: 1.0}
    scores: dict[int, float] = {}
    for card in DECK:
        for score, chance in _drawn_out(hand.with_card(card)).items():
            scores[score] = scores.get(score, 0.0) + chance / len(DECK)
    return scores


@cache
def values(rules: Rules, hand: Hand, shown: int, natural: bool) -> tuple[float, float]:
    """The expected reward of sticking and of hitting, followed by the best play. natural: the hand is one."""
    stick = sum(
        chance * rules.reward(hand.sum, score, natural, dealer_natural)
        for (score, dealer_natural), chance in dealer_ends(shown).items()
    )
    hit = 0.0
    for card in DECK:
        after = hand.with_card(card)
        hit += (-1.0 if after.is_bust else max(values(rules, after, shown, False))) / len(DECK)
    return stick, hit


def best(rules: Rules, hand: Hand, shown: int, natural: bool) -> frozenset[int]:
    """The choices with the highest expected reward."""
    given = values(rules, hand, shown, natural)
    return frozenset(choice for choice in (STICK, HIT) if given[choice] >= max(given) - TIE)


def winning_chance(
    rules: Rules, hand: Hand, shown: int, natural: bool, policy: Callable[[Hand, bool], Sequence[float]]
) -> float:
    """The probability that a policy ends with a reward above 0. policy: from (hand, is a natural) to probabilities."""
    known: dict[Hand, float] = {}

    def chance(hand: Hand, natural: bool) -> float:
        if hand.is_bust:
            return 0.0
        if natural or hand not in known:
            sticks, hits = policy(hand, natural)
            wins = sum(
                p for end, p in dealer_ends(shown).items() if rules.reward(hand.sum, end[0], natural, end[1]) > 0
            )
            drawn = sum(chance(hand.with_card(card), False) for card in DECK) / len(DECK) if hits else 0.0
            total = sticks * wins + hits * drawn
            if natural:
                return total
            known[hand] = total
        return known[hand]

    return chance(hand, natural)
