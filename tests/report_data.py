"""A made-up run folder and a made-up comparison, for the tests of the report and of the tables.

Every figure here is invented test data; nothing of it is a result. `python tests/report_data.py FOLDER` writes both
reports, to look at.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reflect_rl.config import parse_settings
from reflect_rl.evaluation.report import report, report_compare
from reflect_rl.intervals import wilson
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder

ACTIONS = ["move south", "move north", "move east", "move west", "pick up", "drop off"]
ATTACK = "</script><script>window.attacked = true</script><img src=x onerror='window.attacked = true'> & \u2028 end"
SETTINGS = parse_settings({"seed": 3, "rl": {"iterations": 20}})


def observation(row: int, column: int) -> str:
    cells = [["R", " ", " ", " ", "G"], *([[" "] * 5 for _ in range(3)]), ["Y", " ", " ", "B", " "]]
    cells[row][column] = "T"
    wall = "+---------+"
    return "\n".join([wall, *("|" + ":".join(line) + "|" for line in cells), wall, "Passenger at G, wants to go to Y."])


def episode(rng: np.random.Generator, number: int, mode: str, success: bool, text: str | None) -> dict[str, Any]:
    steps = []
    length = int(rng.integers(5, 14))
    for i in range(length):
        choice = int(rng.integers(0, 6))
        shares = rng.dirichlet(np.ones(6) * 0.4)
        steps.append(
            {
                "observation": observation(min(4, i // 3), (i * 2) % 5),
                "actions": ACTIONS,
                "choice": choice,
                "reflection": text
                and f"{text} Step {i}: the passenger waits in the upper right corner; go {ACTIONS[choice]}.",
                "probabilities": [round(float(p), 4) for p in shares],
                "reward": -0.05 if i < length - 1 else (1.0 if success else -1.0),
                "expert": choice if rng.random() < 0.8 else int(rng.integers(0, 6)),
            }
        )
    total = sum(step["reward"] for step in steps)
    stop = "success" if success else "dangerous"
    return {
        "task": f"start-{number:03d}", "panel": "test", "mode": mode, "stop": stop,
        "success": success, "return": total, "steps": steps,
    }  # fmt: skip


def metrics(iteration: int) -> dict[str, Any]:
    share = 0.15 + 0.82 / (1 + math.exp(-(iteration - 7) / 2))
    wins = round(512 * share)
    return {
        "iteration": iteration, "episodes": 512, "success": wins / 512, "return_mean": -1 + 1.8 * share,
        "steps_mean": 8 + 5 * share, "entropy": 1.4 * 0.86**iteration, "kl": 0.02 * math.exp(-iteration / 9),
        "clip_fraction": 0.18 * 0.93**iteration, "loss": 0.3 - 0.02 * iteration, "grad_norm": 0.6 + 0.01 * iteration,
        "stop_reasons": {"success": wins, "dangerous": 490 - wins, "horizon": 22}, "distinct_prompts": 900,
        "env_steps": 6100, "lr": 5e-4,
        "seconds": {"policy": 1.1, "reflect": 0.6 * 0.9**iteration, "environment": 0.3, "update": 1.9},
        "valid_success": share if iteration % 5 == 4 else None, "lost": 0,
    }  # fmt: skip


def panel(episodes: int, wins: int) -> dict[str, Any]:
    return {
        "episodes": episodes, "success": wins / episodes, "interval": list(wilson(wins, episodes)), "return_mean": 0.71,
        "steps_mean": 13.2, "stop_reasons": {"success": wins, "dangerous": episodes - wins - 1, "horizon": 1},
    }  # fmt: skip


def results() -> dict[str, Any]:
    return {
        "recipe": "taxi", "seed": 3, "horizon": 20, "seconds": 142.0,
        "labels": {"actions": 1000, "actions_distinct": 377, "reflections": 2000, "reflections_distinct": 391},
        "parameters": {"policy": 118_912, "reflector": 124_800},
        "panels": {
            "all": {"greedy": panel(300, 298), "sampled": panel(1200, 1164)},
            "test": {
                "greedy": panel(60, 58) | {
                    "kinds": {"far_start": panel(40, 39), "near_start": panel(20, 19)},
                    "within": {"10": {"success": 0.5, "interval": [0.38, 0.62]}},
                    "agreement": {"states": 300, "share": 0.618, "interval": [0.56, 0.67]},
                },
                "sampled": panel(240, 229),
            },
        },
    }  # fmt: skip


def manifest(stage: str, seconds: float) -> dict[str, Any]:
    return {
        "stage": stage, "seconds": seconds, "counts": {"episodes": 600}, "versions": {"torch": "2.6.0"},
        "inputs": {"episodes.jsonl": "0a1b2c3d4e5f60718293a4b5c6d7e8f9"}, "outputs": {},
    }  # fmt: skip


def invented_run(folder: Path) -> RunFolder:
    """A run folder with every file that a report reads."""
    run, rng = RunFolder(folder), np.random.default_rng(0)
    run.write_json("results.json", results())
    run.write_jsonl("metrics.jsonl", map(metrics, range(20)))
    run.write_jsonl("sft-reflector.jsonl", [{"step": step, "loss": 3 / step} for step in range(1, 6)])
    run.write_jsonl("sft-policy.jsonl", [{"step": step, "loss": 2.0 if step <= 3 else 1.0} for step in range(1, 601)])
    for stage, seconds in [
        ("sft_reflector", 30.0),
        ("sft_policy", 11.0),
        ("collect", 3.1),
        ("annotate", 1.2),
        ("rl", 74.0),
        ("evaluate", 9.0),
    ]:
        run.write_json(f"manifests/{stage}.json", manifest(stage, seconds))
    same = "The taxi is at row 1. A wall is to the east. Go north to reach the passenger."
    rows: list[dict[str, Any]] = [{"prompt": observation(2, 2), "teacher": same, "text": same, "same": True}] * 8
    rows.append({"prompt": observation(1, 1), "teacher": same, "text": same.replace("east", "west"), "same": False})
    run.write_json(
        "reflector.json",
        {"kind": "local", "agreement": 0.97, "agreement_interval": [0.937, 0.986], "held_out": 200, "examples": rows},
    )
    # The first episode fails and speaks as an attacker would; the others alternate between the modes.
    shown = [episode(rng, 0, "greedy", False, ATTACK)]
    shown += [episode(rng, n, "greedy" if n % 2 else "sampled", n % 5 != 0, "The path is free.") for n in range(1, 13)]
    run.write_jsonl("evaluation.jsonl", shown)
    return run


def comparison() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    centres = {
        "sft": 0.22,
        "sft-reflection": 0.35,
        "rl": 0.08,
        "sft-rl": 0.71,
        "reflect-rl": 0.97,
        "no|negatives": 0.66,
    }

    def arm(name: str, centre: float) -> dict[str, Any]:
        seeds = [round(float(min(1, max(0, x))), 4) for x in rng.normal(centre, 0.04, 5)]
        mean = sum(seeds) / 5
        figures = {"success": seeds, "mean": mean, "interval": [max(0, mean - 0.04), min(1, mean + 0.04)]}
        return {
            "title": name.replace("-", " + "),
            "seeds": [0, 1, 2, 3, 4],
            **figures,
            "sampled": figures,
            "valid": {"success": [x / 2 for x in seeds], "mean": mean / 2, "interval": [0.0, 1.0]},
            "seconds": 81.5,
        }

    labels = {
        "scarce actions": {"actions": 200, "reflections": 2000},
        "equal labels": {"actions": 400, "reflections": 400},
    }
    regimes = {
        name: {"labels": budget, "arms": {key: arm(key, centre) for key, centre in centres.items()}}
        for name, budget in labels.items()
    }
    return {
        "recipe": "taxi", "command": "reflect-rl compare taxi --seeds 0,1,2,3,4", "horizon": 20,
        "seeds": [0, 1, 2, 3, 4], "regimes": regimes, "notes": ["Invented figures."],
    }  # fmt: skip


def detailed() -> dict[str, Any]:
    """The comparison with what two arms tell besides, in one of its regimes."""
    data = comparison()
    arms = data["regimes"]["scarce actions"]["arms"]

    def mode(*success: float) -> dict[str, Any]:
        mean = sum(success) / len(success)
        share = {"success": list(success), "mean": mean, "interval": [mean / 2, 1.0]}
        kinds = {"far_start": {"won": 3, "episodes": 8}, "near_start": {"won": 4, "episodes": 4}}
        return {**share, "steps_mean": 9.25, "within": {"10": share}, "kinds": kinds}

    arms["sft"]["panels"] = {"test": {"greedy": mode(0.5), "sampled": mode(0.25)}}
    arms["sft-rl"]["panels"] = {"test": {"greedy": mode(0.75, 0.85), "sampled": mode(0.5, 0.6)}}
    gain = {"greedy": {"mean": 0.25, "interval": [-1, 1]}, "sampled": {"mean": -0.125, "interval": [-1, 1]}}
    arms["sft-rl"]["added"] = {"to": "sft", "seeds": [0], "panels": {"test": gain}}
    return data


if __name__ == "__main__":
    target = Path(sys.argv[1])
    report(invented_run(target / "taxi"), Context(SETTINGS), Progress())
    RunFolder(target / "compare").write_json("compare.json", detailed())
    report_compare(target / "compare")
