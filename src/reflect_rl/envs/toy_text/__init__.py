"""Gymnasium's toy text worlds: FrozenLake, CliffWalking and Blackjack, with exact experts."""
