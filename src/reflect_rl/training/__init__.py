"""SFT of both players, and online RL of the policy."""
