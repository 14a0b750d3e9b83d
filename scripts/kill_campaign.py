"""Kill small runs at random moments, again and again, and compare what they end with to an undisturbed run.

    python scripts/kill_campaign.py --kills 100 --runs 12
    python scripts/kill_campaign.py --kills 30 --runs 4 --pretrained

Each run is started, killed with SIGKILL after a random time, and started again until it ends; then every file of its
folder has to be that of the run nobody disturbed, byte by byte (times left out). Exit code 1 if one differs.

--pretrained: both players are adapters on a tiny random Llama that is asked through a chat template, in packed mode.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from end_to_end import SMALL, differences, leftovers, options, reflect_rl

BETWEEN = 10
"""Kills of one run at the most, before it may end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="at the least")
    parser.add_argument("--runs", type=int, default=12, help="at the least")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--pretrained", action="store_true", help="adapters on a tiny Llama instead of new models")
    asked = parser.parse_args()
    random, kills, runs, wrong, stages = Random(asked.seed), 0, 0, 0, Counter()
    with tempfile.TemporaryDirectory(prefix="reflect-rl-kills-") as place:
        whole = Path(place) / "whole"
        own = options(tiny_llama(Path(place) / "llama") if asked.pretrained else None)
        started = time.monotonic()
        run(whole, None, own)
        took = time.monotonic() - started
        while kills < asked.kills or runs < asked.runs:
            folder = Path(place) / f"run-{runs}"
            done = disturbed(folder, random, took / 3, stages, own)
            found = [*leftovers(folder), *differences(folder, whole)]
            kills, runs, wrong = kills + done, runs + 1, wrong + bool(found)
            print(f"run {runs}: {done} kills, {len(found)} differences {found[:3] if found else ''}", flush=True)
    where = ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items()))
    print(f"{kills} kills over {runs} runs ({where}): {wrong} runs ended otherwise")
    return 1 if wrong else 0


def tiny_llama(folder: Path) -> dict[str, Any]:
    """Make a tiny Llama with a chat template in `folder`; the settings that use it."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    import tiny_models
    from reflect_rl.lm.pretrained import save_model

    config = LlamaConfig(
        vocab_size=len(tiny_models.tokenizer()),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, folder)
    players = {f"{who}.model": {"source": str(folder), "lora_rank": 2} for who in ("reflector", "policy")}
    small = {name: value for name, value in SMALL.items() if ".model." not in name}
    return {**small, **players, "prompt.max_tokens": 900, "policy.gated_mixture": False}


def run(folder: Path, after: float | None, own: list[str]) -> bool:
    """Whether the run ended by itself."""
    ended = reflect_rl("run", "taxi", "--out", str(folder), *own, after=after)
    if ended.code not in (0, -9):
        raise SystemExit(f"the run in {folder} ended with {ended.code}: {ended.err}")
    return ended.code == 0


def disturbed(folder: Path, random: Random, longest: float, stages: Counter[str], own: list[str]) -> int:
    """Kill a run a few times and let it end; the number of kills."""
    kills = 0
    while not run(folder, random.uniform(0.0, longest) if kills < BETWEEN else None, own):
        kills += 1
        keys = sorted(path.stem for path in folder.glob("checkpoints/*.key"))
        stages[keys[0] if keys else "between stages"] += 1
    return kills


if __name__ == "__main__":
    sys.exit(main())
