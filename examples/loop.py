"""The method's RL loop: roll out, estimate advantages, update, print. Everything else is done by `rr.run` before.

    python examples/loop.py                                # DangerousTaxi
    python examples/loop.py examples/my_recipe.yaml 10     # another recipe, 10 iterations

What `reflect-rl run` does beyond this: checkpoints, curriculum, other baselines, several processes, validation.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import reflect_rl as rr
from reflect_rl.training.rollout import EpisodeSpec, Rollout, play_episodes

EPISODES = 512  # an iteration
GAMMA = 0.98  # discount of a step
CLIP = 0.2  # PPO's clipping range
ENTROPY = 0.1  # entropy bonus at the start
LR = 5e-4
EPOCHS, MINIBATCHES = 2, 4


def main(recipe: str = "taxi", iterations: int = 20, out: str = "runs/loop") -> list[float]:
    """Train; the share of successful episodes of each iteration."""
    # Episodes are collected, labels bought, and both players warmed up by supervised fine-tuning.
    warm = rr.run(recipe, out, until="sft_policy")
    players = warm.players("policy-sft")  # the reflector is frozen from here on
    world = warm.settings.env

    def make_env() -> rr.TextEnv:
        return rr.make(world.name, horizon=world.horizon, **world.options)

    tasks = make_env().tasks("train")
    optimizer = torch.optim.AdamW(players.policy.parameters(), lr=LR, weight_decay=0.0)
    random = np.random.default_rng(warm.settings.seed)
    history = []
    for iteration in range(iterations):
        # 1. Roll out. The reflector writes on each state, the policy reads both and picks an action with one token.
        chosen = random.integers(len(tasks), size=EPISODES)
        specs = [EpisodeSpec(tasks[task], seed=int(random.integers(2**31))) for task in chosen]
        rollout = play_episodes(make_env, players, specs, num_envs=EPISODES)

        # 2. Estimate how much better each action was than what happened after the same prompt on average.
        row_V, choice_V, advantage_V = visits(rollout)

        # 3. Update the policy. An iteration has far fewer distinct prompts than visits: each is read once.
        entropy = ENTROPY * (1 - iteration / iterations)
        for _ in range(EPOCHS):
            order = random.permutation(len(rollout.prompts))
            for part in np.array_split(order, MINIBATCHES):
                optimizer.zero_grad()
                loss(players.policy, rollout, part, row_V, choice_V, advantage_V, entropy).backward()
                torch.nn.utils.clip_grad_norm_(players.policy.parameters(), 1.0)
                optimizer.step()
        players.forget()  # what the policy decided before is out of date

        history.append(sum(t.success for t in rollout.trajectories) / EPISODES)
        print(f"{iteration:3d}  success {history[-1]:6.1%}  {rollout.steps} steps  {len(rollout.prompts)} prompts")
    return history


def visits(rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each step played: its prompt's row, the action taken, and its advantage (group-relative by state)."""
    rows, choices, returns = [], [], []
    for episode in rollout.trajectories:
        ahead = 0.0
        for row, choice, reward in zip(episode.rows[::-1], episode.choices[::-1], episode.rewards[::-1], strict=True):
            ahead = reward + GAMMA * ahead
            rows.append(row)
            choices.append(choice)
            returns.append(ahead)
    row_V, return_V = torch.tensor(rows), torch.tensor(returns, dtype=torch.float64)
    sums_P = torch.zeros(len(rollout.prompts), dtype=torch.float64).index_add(0, row_V, return_V)
    advantage_V = return_V - (sums_P / row_V.bincount(minlength=len(sums_P)))[row_V]
    return row_V, torch.tensor(choices), (advantage_V / advantage_V.std().clamp(min=1e-8)).float()


def loss(
    policy: torch.nn.Module,
    rollout: Rollout,
    part: np.ndarray,
    row_V: torch.Tensor,
    choice_V: torch.Tensor,
    advantage_V: torch.Tensor,
    entropy: float,
) -> torch.Tensor:
    """PPO's clipped objective (Schulman et al. 2017, eq. 7) with an entropy bonus, over the visits of some prompts."""
    part_P = torch.from_numpy(part)
    place_P = torch.full((len(rollout.prompts),), -1)
    place_P[part_P] = torch.arange(len(part))
    mine = place_P[row_V] >= 0  # the visits of these prompts
    row_V, choice_V, advantage_V = row_V[mine], choice_V[mine], advantage_V[mine]

    prompts = [rollout.prompts[row] for row in part]
    width = rollout.log_probs_PN.shape[1]
    new_PN = policy([policy.encode(prompt) for prompt in prompts], width).log_probs_BN
    old_V = torch.from_numpy(rollout.log_probs_PN)[row_V, choice_V]
    ratio_V = (new_PN[place_P[row_V], choice_V] - old_V).exp()
    gain_V = torch.minimum(ratio_V * advantage_V, ratio_V.clamp(1 - CLIP, 1 + CLIP) * advantage_V)
    finite_PN = new_PN.masked_fill(new_PN.isinf(), 0.0)  # actions that a state does not have
    entropy_P = -(new_PN.exp() * finite_PN).sum(-1)
    return -(gain_V + entropy * entropy_P[place_P[row_V]]).mean()


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
