"""Blackjack: Gymnasium's Blackjack-v1 as text, with starts that can be held out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

import gymnasium

from reflect_rl.envs.gym import ActionMask
from reflect_rl.envs.optional import write_reflection
from reflect_rl.envs.simple import SimpleTextEnv, check_flags
from reflect_rl.envs.splits import shuffled, split_in_order
from reflect_rl.envs.toy_text.grid import Policy, probabilities
from reflect_rl.envs.toy_text.odds import DECK, HIT, NO_CARDS, Hand, Rules, best, dealer_ends, two_cards, winning_chance
from reflect_rl.envs.toy_text.teacher import BLACKJACK_STYLES
from reflect_rl.records import StopReason

SPLIT_SIZES = {"train": 170, "valid": 40, "test": 60}
CHARACTERS = frozenset("Youhld.Thesrwnac with usable ace busti,0123456789\n")
LONGEST = 100


class Blackjack(SimpleTextEnv):
    """Come nearer to 21 than the dealer, without going over it.

    ## Description
    Gymnasium's Blackjack-v1, seen as text: an infinite deck, in which an ace counts 11 where that does not go over 21
    (it is usable) and pictures count 10. Who sticks lets the dealer draw up to 17 or more. natural, sab: Gymnasium's
    options, with the defaults of `gymnasium.make("Blackjack-v1")`. With sab, an ace and a ten win at once unless the
    dealer has them too, and natural is ignored. With natural, winning with them pays 1.5.

    ## Actions
    Two, always admissible: 0 stick, 1 hit.

    ## Observations
    Text: "You hold 16 without a usable ace." (or "with"), "The dealer shows 10." ("ace" for an ace), a line each. At
    the end a third line: "You bust." or "The dealer holds 20." No trailing newline.

    ## Starting state
    One of 270 tasks: the player's sum of two cards (hard 4 to 20, soft 12 to 21) x the dealer's card, named like
    hard-16-vs-10 or soft-18-vs-ace. A fixed shuffle splits them into 170 train, 40 valid and 60 test. A task fixes what
    is seen; the dealer's other card and all further ones are drawn. All tasks are played alike often, which is not how
    cards are dealt: `success_probability()` is the chance of winning as Gymnasium deals.

    ## Rewards
    Gymnasium's, at the end: 1 for a win, 0 for a draw, -1 for a loss; 1.5 for a natural, with `natural`.

    ## End
    Terminated: SUCCESS for a win, FAILURE for a draw or a loss. Truncated: HORIZON, after `horizon` steps, 20 by
    default, which no hand reaches. The expert wins 43 % as Gymnasium deals.

    ## Version history
    v0: first version.
    """

    task_text = "Come nearer to 21 than the dealer without going over it. The dealer draws to 17. Aces count 1 or 11."
    actions = ("stick", "hit")
    teachers = tuple(BLACKJACK_STYLES)

    def __init__(
        self, horizon: int = 20, *, natural: bool = False, sab: bool = True, render_mode: str | None = None
    ) -> None:
        check_flags(natural=natural, sab=sab)
        super().__init__(horizon, render_mode)
        self.rules = Rules(natural, sab)
        self._hand, self._shown, self._hidden, self._natural, self._end = NO_CARDS, 0, 0, False, ""

    @cached_property
    def observation_space(self) -> gymnasium.spaces.Text:  # type: ignore[override]
        return gymnasium.spaces.Text(LONGEST, min_length=1, charset=CHARACTERS)

    def tasks(self, split: str) -> tuple[str, ...]:
        """The task names of a split. Raises EnvironmentContractError for another name than train, valid or test."""
        self.check_split(split)
        return _splits()[split]

    def panels(self) -> dict[str, tuple[str, ...]]:
        """What is held out: test, then valid."""
        return {split: self.tasks(split) for split in ("test", "valid")}

    def begin(self, task: str, stage: str | None) -> None:
        self._hand, self._shown = _starts()[task]
        self._natural = self._hand.sum == 21
        self._hidden = self._draw()
        self._end = ""

    def observe(self) -> str:
        return _text(self._hand, self._shown) + self._end

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        if choice == HIT:
            self._hand, self._natural = self._hand.with_card(self._draw()), False
            if not self._hand.is_bust:
                return 0.0, None
            self._end = "\nYou bust."
            return -1.0, StopReason.FAILURE
        dealer = NO_CARDS.with_card(self._shown).with_card(self._hidden)
        has_natural = dealer.sum == 21
        while dealer.sum < 17:
            dealer = dealer.with_card(self._draw())
        self._end = f"\nThe dealer holds {dealer.sum}."
        reward = self.rules.reward(self._hand.sum, 0 if dealer.is_bust else dealer.sum, self._natural, has_natural)
        return reward, StopReason.SUCCESS if reward > 0 else StopReason.FAILURE

    def expert(self) -> int:
        """The lowest index of `expert_set`."""
        return min(self.expert_set())

    def expert_set(self) -> frozenset[int]:
        """The choices with the highest expected reward, by dynamic programming over the infinite deck."""
        self.require_playing("expert_set")
        return best(self.rules, self._hand, self._shown, self._natural)

    def success_probability(self, task: str | None = None, policy: Policy | None = None) -> float:
        """The exact probability of winning.

        Args:
            task: One of the world's tasks. None: a start as Gymnasium deals it.
            policy: From an observation to the probability of each action. None: the expert.

        Returns:
            The probability, from 0 to 1.

        Raises:
            EnvironmentContractError: If there is no such task, or if the policy gives no probabilities.
        """
        if task is None:
            chances = two_cards()
            return sum(
                chances[hand] / len(DECK) * self._winning(hand, shown, policy) for hand in chances for shown in DECK
            )
        self._read({"task": task})
        return self._winning(*_starts()[task], policy)

    def _winning(self, hand: Hand, shown: int, policy: Policy | None) -> float:
        def asked(hand: Hand, natural: bool) -> list[float]:
            if policy is not None:
                return probabilities(policy, _text(hand, shown), len(self.actions))
            choices = best(self.rules, hand, shown, natural)
            return [(choice in choices) / len(choices) for choice in range(len(self.actions))]

        return winning_chance(self.rules, hand, shown, hand.sum == 21, asked)

    def describe(self) -> dict[str, Any]:
        """Facts of the state now, JSON-able.

        sum; usable_ace; dealer: the card shown, "2" to "10" or "ace". bust_cards: how many of 13 cards bust.
        dealer_bust_percent: the chance that the dealer does. next_actions: the expert's.
        """
        choices = self.expert_set()
        return {
            "sum": self._hand.sum,
            "usable_ace": self._hand.ace,
            "dealer": _card(self._shown),
            "bust_cards": sum(self._hand.with_card(card).is_bust for card in DECK),
            "dealer_bust_percent": round(100 * dealer_ends(self._shown)[0, False]),
            "next_actions": [self.actions[choice] for choice in sorted(choices)],
        }

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        """A reflection in one of the styles of the module `teacher`."""
        return write_reflection(cls, BLACKJACK_STYLES, facts, style)

    def _draw(self) -> int:
        return DECK[int(self.np_random.integers(len(DECK)))]


class GymnasiumBlackjack(ActionMask, Blackjack):
    """Blackjack as `gymnasium.make("reflect_rl/Blackjack-v0")` gives it."""


def _card(card: int) -> str:
    return "ace" if card == 1 else str(card)


def _text(hand: Hand, shown: int) -> str:
    return f"You hold {hand.sum} with{'' if hand.ace else 'out'} a usable ace.\nThe dealer shows {_card(shown)}."


@cache
def _starts() -> dict[str, tuple[Hand, int]]:
    """(the player's hand, the dealer's card) by task name."""
    return {
        f"{'soft' if hand.ace else 'hard'}-{hand.sum}-vs-{_card(shown)}": (hand, shown)
        for hand in sorted(two_cards())
        for shown in range(1, 11)
    }


@cache
def _splits() -> dict[str, tuple[str, ...]]:
    return split_in_order(shuffled(_starts()), SPLIT_SIZES)
