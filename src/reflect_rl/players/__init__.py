"""The players: prompts, the policy, the reflectors, and the agent made of both."""
