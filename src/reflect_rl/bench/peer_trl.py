"""The same iteration of RL by TRL's GRPOTrainer, in a Python environment of its own (`make trl`).

`measure` starts this file as a program there; `train` is what it does. TRL is used as documented for environments
without tool calls: a `rollout_func` plays all episodes in lock-step with a growing key-value cache, sampling label
tokens only, and `env_mask` keeps the loss on these. One transcript is one sequence, so each observation is read once in
the rollout and once in the update. One optimizer step is taken on all episodes, in groups of the same task.

The settings that cost TRL time and no quality here are off: gradient checkpointing, a reference model, logging.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflect_rl.config import parse_settings
from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.checked import advance, begin, tasks_of
from reflect_rl.errors import SettingsError
from reflect_rl.lm.sources import located
from reflect_rl.players.context import Context
from reflect_rl.players.prompt import CUE_ACTION, PromptBuilder
from reflect_rl.records import EpisodeMemory, State
from reflect_rl.seeding import stream, stream_seed
from reflect_rl.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

PYTHON = Path(".venv-trl/bin/python")
"""Made by `make trl`."""
ROWS = 8
"""Rows of a pass, and episodes of a task: TRL's defaults."""
MOST_SECONDS = 3600


def check(episodes: int, python: str | None = None) -> None:
    """Raise SettingsError if `measure` could not use these."""
    if episodes % ROWS:
        raise SettingsError(
            f"TRL plays groups of {ROWS} episodes, and {episodes} is no multiple of that. The first number of "
            f"--episodes is measured: give for example --episodes {2 * ROWS}."
        )
    if python and not Path(python).is_file():
        raise SettingsError(f"There is no Python at {python}. Give --peer-python that of an environment with trl.")


def measure(settings: Settings, episodes: int, python: str | None = None) -> dict[str, Any]:
    """Steps/s, seconds, peak memory and versions of one iteration; {"skipped": reason} if TRL cannot be measured here.

    python: that of an environment with trl; PYTHON by default.
    """
    chosen = Path(python or PYTHON).absolute()
    if not chosen.is_file():
        return {"skipped": f"there is no {PYTHON}: `make trl` makes it, or --peer-python names another Python with trl"}
    source = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    given = settings.model_dump()
    given["policy"]["model"]["source"] = located(settings.policy.model.source)  # a package is installed here only
    asked = json.dumps({"settings": given, "episodes": episodes}, allow_nan=False)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "figures.json"
        command = [str(chosen), "-m", __name__, asked, str(answer)]
        try:
            done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            return {"skipped": f"TRL took longer than {MOST_SECONDS} seconds"}
        if done.returncode:
            reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
            return {"skipped": f"{chosen} ended with exit code {done.returncode}: {reason}"}
        return json.loads(answer.read_text())


@dataclass(slots=True)
class Transcript:
    """An episode as one sequence of tokens. new: tokens that the model has not read. labels: 1 at its own tokens."""

    env: TextEnv
    state: State
    memory: EpisodeMemory
    prompt: list[int]
    new: list[int]
    completion: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    total: float = 0.0
    ended: bool = False

    def write(self, ids: Sequence[int], log_prob: float | None = None) -> None:
        """Append tokens of the world, or the label that the model chose."""
        self.completion += ids
        self.new += ids
        self.log_probs += [log_prob or 0.0] * len(ids)
        self.labels += [int(log_prob is not None)] * len(ids)


class Rollout:
    """A `rollout_func` of TRL: plays one episode for each prompt, which is the name of a task."""

    def __init__(self, context: Context, tokenizer: PreTrainedTokenizerBase, device: str) -> None:
        from reflect_rl.players.labels import find_labels

        self.context = context
        self.tokenizer = tokenizer
        self.device = device
        self.labels = find_labels(tokenizer)
        self.builder = PromptBuilder(context.world.task_text, context.settings.prompt, list(self.labels))
        self.seconds = 0.0
        self.steps = 0

    def __call__(self, tasks: list[str], trainer: Any) -> dict[str, Any]:
        import torch

        started = time.perf_counter()
        with torch.no_grad():
            played = self._play(tasks, trainer.accelerator.unwrap_model(trainer.model))
        self.seconds += time.perf_counter() - started
        self.steps += sum(sum(transcript.labels) for transcript in played)
        return {
            "prompt_ids": [transcript.prompt for transcript in played],
            "completion_ids": [transcript.completion for transcript in played],
            "logprobs": [transcript.log_probs for transcript in played],
            "env_mask": [transcript.labels for transcript in played],
            "total": [transcript.total for transcript in played],
        }

    def _play(self, tasks: list[str], model: Any) -> list[Transcript]:
        import torch
        from transformers import DynamicCache

        played = [self._begin(task, number) for number, task in enumerate(tasks)]
        uniforms = stream(self.context.settings.seed, "peer choices").random((self.context.world.horizon, len(tasks)))
        cache, mask_BL = DynamicCache(), torch.zeros(len(tasks), 0, dtype=torch.long, device=self.device)
        for uniform_B in uniforms:
            ids_BL, new_BL = self._new(played)
            mask_BL = torch.cat([mask_BL, new_BL], dim=1)
            places_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
            out = model(
                input_ids=ids_BL,
                attention_mask=mask_BL,
                position_ids=places_BL,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits_BN = out.logits[:, -1, list(self.labels.values())].float().cpu()
            for transcript, logits_N, uniform in zip(played, logits_BN, uniform_B, strict=True):
                if not transcript.ended:
                    self._act(transcript, logits_N[: len(transcript.state.actions)].log_softmax(-1), uniform)
            if all(transcript.ended for transcript in played):
                break
        return played

    def _begin(self, task: str, number: int) -> Transcript:
        env = self.context.make_env()
        observation, actions, _ = begin(env, stream_seed(self.context.settings.seed, "peer", number), {"task": task})
        memory = EpisodeMemory()
        state = memory.observe(observation, actions)
        prompt = self._encode(self.builder.policy_prompt(state, None).text)
        return Transcript(env, state, memory, prompt, list(prompt))

    def _new(self, played: Sequence[Transcript]) -> tuple[Tensor, Tensor]:
        """ids_BL and mask_BL of the tokens that were not read yet, padded on the left."""
        import torch

        longest = max(len(transcript.new) for transcript in played)
        pad = self.tokenizer.pad_token_id
        ids = [[pad] * (longest - len(transcript.new)) + transcript.new for transcript in played]
        mask = [[0] * (longest - len(transcript.new)) + [1] * len(transcript.new) for transcript in played]
        for transcript in played:
            transcript.new = []
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _act(self, transcript: Transcript, log_probs_N: Tensor, uniform: float) -> None:
        cumulative_N = log_probs_N.double().exp().cumsum(0)
        choice = min(int((cumulative_N < uniform * cumulative_N[-1]).sum()), len(cumulative_N) - 1)
        transcript.write([list(self.labels.values())[choice]], float(log_probs_N[choice]))
        before = transcript.state.actions
        observation, actions, reward, stop = advance(transcript.env, choice)
        transcript.total += reward
        transcript.memory.acted(choice)
        transcript.state = transcript.memory.observe(observation, actions)
        transcript.ended = stop is not None
        if transcript.ended:
            transcript.env.close()
            transcript.new = []
            return
        offered = "" if actions == before else self._offered(actions)
        transcript.write(self._encode(f"{offered}\n{observation}{CUE_ACTION}"))

    def _offered(self, actions: Sequence[str]) -> str:
        return "\nChoices:" + "".join(
            f"\n{label}) {action}" for label, action in zip(self.labels, actions, strict=False)
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def episode_return(completions: Sequence[str], total: Sequence[float], **about: Any) -> list[float]:
    """A reward function of TRL: the return that the rollout noted."""
    return list(total)


def train(settings: Settings, episodes: int) -> dict[str, Any]:
    """One optimizer step on this many new episodes."""
    import datasets  # type: ignore[import-not-found]
    import peft
    import torch
    import transformers
    import trl  # type: ignore[import-not-found]

    from reflect_rl.memory import forget_peak_memory, peak_memory_mb

    part, compute = settings.policy.model, settings.compute
    torch.set_num_threads(compute.threads)
    on_gpu = compute.device == "cuda"
    dtype = torch.bfloat16 if part.bits == 16 else torch.float32
    tokenizer = transformers.AutoTokenizer.from_pretrained(part.source)
    model = transformers.AutoModelForCausalLM.from_pretrained(part.source, dtype=dtype)
    context = Context(settings)
    rollout = Rollout(context, tokenizer, compute.device)
    tasks = tasks_of(context.world, "train")
    order = stream(settings.seed, "peer tasks").permutation(len(tasks))[: episodes // ROWS]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=episode_return,
            args=trl.GRPOConfig(
                output_dir=folder,
                max_steps=1,
                per_device_train_batch_size=ROWS,
                gradient_accumulation_steps=episodes // ROWS,
                num_generations=ROWS,
                learning_rate=settings.rl.lr,
                gradient_checkpointing=False,
                bf16=part.bits == 16,
                use_cpu=not on_gpu,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                seed=settings.seed,
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": [tasks[i] for i in order]}),
            processing_class=tokenizer,
            peft_config=peft.LoraConfig(
                r=part.lora_rank, lora_alpha=2 * part.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            rollout_func=rollout,
        )
        is_known = forget_peak_memory()
        started, started_cpu = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else peak_memory_mb() if is_known else None
    return {
        "library": f"trl {trl.__version__}",
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, peft, datasets)},
        "episodes": episodes,
        "steps": rollout.steps,
        "steps_per_s": rollout.steps / seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "rollout_seconds": rollout.seconds,
        "peak_mb": peak,
    }


def main() -> None:
    """Measure what the first argument asks for, and write the figures to the file that the second one names."""
    asked, answer = json.loads(sys.argv[1]), Path(sys.argv[2])
    figures = train(parse_settings(asked["settings"]), asked["episodes"])
    answer.write_text(json.dumps(figures, allow_nan=False))


if __name__ == "__main__":
    main()
