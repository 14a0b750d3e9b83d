"""The parts of `reflect-rl bench lm`: one model, read by the library and in the plain way, and what each side takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reflect_rl.bench import floor, plain
from reflect_rl.config import parse_settings
from reflect_rl.data.collect import collect
from reflect_rl.data.pool import read_pool
from reflect_rl.envs.checked import tasks_of, taught
from reflect_rl.lm.pretrained import load_pretrained
from reflect_rl.lm.torch_setup import check_device
from reflect_rl.memory import forget_peak_memory, give_back_memory, peak_memory_mb
from reflect_rl.players.context import Context
from reflect_rl.players.decisions import Decisions
from reflect_rl.players.labels import MOST_LABELS, find_labels
from reflect_rl.players.load import forward_passes, policy_prompts
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt
from reflect_rl.players.reflector import NoReflector
from reflect_rl.progress import Bar, Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.seeding import stream, stream_seed
from reflect_rl.settings import Settings
from reflect_rl.training.advantages import advantages
from reflect_rl.training.curriculum import training_episodes
from reflect_rl.training.losses import Folded, fold
from reflect_rl.training.optimizer import make_optimizer
from reflect_rl.training.rollout import EpisodeSpec, Rollout, Trajectory, play_episodes
from reflect_rl.training.update import Learner, drift, update

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TAXI: dict[str, Any] = {"env.name": "taxi", "env.options": {}, "annotate.teacher": "blocked", "collect.episodes": 40}
"""The episodes whose prompts are evaluated and learned from."""
PLAIN_ROWS = 8
"""Rows of a plain pass: the batch size of transformers' Trainer unless another is set."""
PLAIN_EPISODES = 4
DECISIONS = 5
Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Spent:
    """What some work took.

    cpu_seconds: of this process, all its threads together; other load on the machine does not count. peak_mb: peak
    memory of the process, on a GPU of torch there; None if it is not known.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float | None

    @classmethod
    def on(cls, work: Work, device: torch.device) -> Spent:
        """Do the work."""
        give_back_memory()
        is_known = forget_peak_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = time.process_time()
        seconds = floor.seconds(work, device)
        cpu_seconds = time.process_time() - before
        peak = peak_memory_mb() if is_known else None
        return cls(seconds, cpu_seconds, torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else peak)

    def __add__(self, other: Spent) -> Spent:
        peaks = [spent.peak_mb for spent in (self, other) if spent.peak_mb is not None]
        return Spent(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds, max(peaks, default=None))


@dataclass(frozen=True, slots=True)
class Sides:
    """One model, read by the library's policy and by the plain one. Updates have a learning rate of 0."""

    policy: Policy
    plain: plain.PlainPolicy
    settings: Settings

    @classmethod
    def load(cls, settings: Settings, progress: Progress) -> Sides:
        """Load the model as SFT starts from it. Raises ModelError, or SettingsError if there is no such device."""
        compute, part = settings.compute, settings.policy.model
        check_device(compute.device)
        model, tokenizer = load_pretrained(part, compute.device, stream_seed(settings.seed, "init policy"))
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        passes = forward_passes(compute, part, model, progress)
        policy = Policy(model, tokenizer, find_labels(tokenizer, MOST_LABELS), passes=passes)
        policy.to(compute.device).eval()
        prompts = policy_prompts(policy, Context(settings))
        return cls(policy, plain.PlainPolicy.of(policy, prompts, PLAIN_ROWS), settings)

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def _optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(self.policy, lr=0.0, weight_decay=0.0)

    def learn(self, rollout: Rollout, estimates: Sequence[np.ndarray], returns: Sequence[np.ndarray]) -> Folded:
        """The library's update."""
        rl, seed = self.settings.rl, self.settings.seed
        folded = fold(rollout, estimates, returns, self.device.type)
        update(Learner(self.policy, self._optimizer(), rl, seed), rollout, folded, 0, rl.entropy)
        return folded

    def learn_plainly(self, samples: Sequence[plain.Sample]) -> None:
        rl, seed = self.settings.rl, self.settings.seed
        with _as_in_peft(self.policy.model):
            plain.update(self.plain, self._optimizer(), samples, rl, seed, rl.entropy)

    @torch.no_grad()
    def read_plainly(self, prompts: Sequence[Prompt]) -> None:
        with _as_in_peft(self.policy.model):
            self.plain.log_probs(prompts)

    def play_plainly(self, specs: Sequence[EpisodeSpec]) -> list[plain.PlainEpisode]:
        with _as_in_peft(self.policy.model):
            return plain.play(Context(self.settings).make_env, self.plain, None, specs)


def _as_in_peft(model: PreTrainedModel) -> AbstractContextManager[None]:
    """LoRA layers as PEFT computes them."""
    if not hasattr(model, "peft_config"):
        return nullcontext()
    from reflect_rl.lm.fused_lora import unfused

    return unfused(model)


def taxi_prompts(sides: Sides) -> list[Prompt]:
    """Distinct prompts of DangerousTaxi with the teacher's reflections, in random order."""
    context = Context(parse_settings(sides.settings.model_dump(), TAXI))
    builder, world = policy_prompts(sides.policy, context), type(context.world)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        collect(run, context, Progress())
        states = [entry.state for entry in read_pool(run, context.settings)]
    prompts = [builder.policy_prompt(state, taught(world, state.facts, TAXI["annotate.teacher"])) for state in states]
    distinct = list({prompt.text: prompt for prompt in prompts}.values())
    return [distinct[i] for i in stream(sides.settings.seed, "bench prompts").permutation(len(distinct))]


def measure_decision(sides: Sides, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Median seconds of a decision on a prompt that was not read before; both sides in turn."""
    ours, theirs = [], []
    for number in range(1 + DECISIONS):
        one, other = [prompts[2 * number]], [prompts[2 * number + 1]]
        ours.append(Spent.on(partial(sides.policy.evaluate, one), sides.device))
        theirs.append(Spent.on(partial(sides.read_plainly, other), sides.device))
    figures: dict[str, Any] = {"unit": "s"}
    for name, spent in (("ours", ours[1:]), ("plain", theirs[1:])):
        figures[name] = statistics.median(each.seconds for each in spent)
        figures[f"{name}_cpu_seconds"] = statistics.median(each.cpu_seconds for each in spent)
    return figures


def measure_evaluate(sides: Sides, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Prompts/s of both sides, and our share of the floor."""
    ours = partial(sides.policy.evaluate, prompts)
    figures, seconds = _beside(sides, len(prompts), ours, sides.read_plainly, prompts)
    return {"unit": "prompts/s", **figures, "floor": share_of_floor(sides.policy, prompts, seconds)}


def measure_update(sides: Sides, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Rows/s of both sides, and our share of the floor; each prompt is visited once."""
    rollout, estimates = visited_once(prompts, sides.settings.seed)
    ours = partial(sides.learn, rollout, estimates, estimates)
    samples = plain.samples_of(rollout, estimates)
    figures, seconds = _beside(sides, len(prompts), ours, sides.learn_plainly, samples)
    return {"unit": "rows/s", **figures, "floor": share_of_floor(sides.policy, prompts, seconds, backward=True)}


def _beside(
    sides: Sides, count: int, ours: Work, theirs: Callable[[Sequence[Any]], object], items: Sequence[Any]
) -> tuple[dict[str, Any], float]:
    """Rates of ours on `count` items, and of theirs on one batch of `items` before it and one after it; our seconds."""
    first, second = items[:PLAIN_ROWS], items[PLAIN_ROWS : 2 * PLAIN_ROWS]
    if sides.device.type == "cuda":  # kernels are chosen and loaded when shapes are first seen
        theirs(first)
        ours()
    before = Spent.on(partial(theirs, first), sides.device)
    own = Spent.on(ours, sides.device)
    other = before + Spent.on(partial(theirs, second), sides.device)
    return {
        "ours": count / own.seconds,
        "plain": (len(first) + len(second)) / other.seconds,
        "ours_rows": count,
        "plain_rows": len(first) + len(second),
        **_named("ours", own),
        **_named("plain", other),
    }, own.seconds


def _named(name: str, spent: Spent) -> dict[str, Any]:
    return {f"{name}_{what}": value for what, value in asdict(spent).items()}


def share_of_floor(policy: Policy, prompts: Sequence[Prompt], seconds: float, backward: bool = False) -> dict[str, Any]:
    """The least matrix work on these prompts, their common beginnings read once, as a share of the time taken."""
    rows = [policy.encode(prompt) for prompt in prompts]
    read, shapes = floor.Reading.as_trie(rows), floor.Shapes.of(policy.model)
    linear, attention = shapes.flops(read, max(row.actions for row in rows))
    if backward:
        linear, attention = linear * (2 if hasattr(policy.model, "peft_config") else 3), attention * 3
    dtype = torch.bfloat16 if policy.backbone.mixed else next(policy.parameters()).dtype
    figures: dict[str, Any] = {"tokens": sum(len(row.ids) for row in rows), "tokens_once": read.tokens}
    if not dtype.is_floating_point:  # quantised
        return figures | {"share_of_matmul_floor": None}
    rate = floor.product_rate(shapes.linears, policy.backbone.passes.tokens, policy.device, dtype)
    return figures | {"matmul_flops_per_s": rate, "share_of_matmul_floor": (linear + attention) / rate / seconds}


def visited_once(prompts: Sequence[Prompt], seed: int) -> tuple[Rollout, list[np.ndarray]]:
    """A rollout that visits each prompt once, as by a uniform policy, with random advantages."""
    random = stream(seed, "bench visits")
    log_probs_PN = np.full((len(prompts), max(prompt.actions for prompt in prompts)), -np.inf, np.float32)
    for log_probs_N, prompt in zip(log_probs_PN, prompts, strict=True):
        log_probs_N[: prompt.actions] = -np.log(prompt.actions)
    choices = [int(random.integers(prompt.actions)) for prompt in prompts]
    visits = Trajectory(EpisodeSpec("", 0), list(range(len(prompts))), choices, [0.0] * len(prompts))
    rollout = Rollout(list(prompts), log_probs_PN, np.zeros(len(prompts), np.float32), [visits], {})
    return rollout, [random.standard_normal(len(prompts))]


def measure_iterations(sides: Sides, episodes: Sequence[int], parts: Bar) -> dict[str, Any]:
    """Our iterations by number of episodes, and the plain one, which is measured after the first."""
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for number in episodes:
        rollout, ours[str(number)] = _iterate(sides, number)
        theirs = theirs or _iterate_plainly(sides, rollout)
        parts.update()
    return {"unit": "steps/s", "ours": ours, "plain": theirs}


def _iterate(sides: Sides, episodes: int) -> tuple[Rollout, dict[str, Any]]:
    """One iteration of RL as in training, from an empty table of decisions."""
    context, rl = Context(sides.settings), sides.settings.rl.model_copy(update={"episodes": episodes})
    decisions = Decisions(sides.policy, NoReflector(), policy_prompts(sides.policy, context))
    specs = training_episodes(tasks_of(context.world, "train"), context.world.stages, rl, 0, sides.settings.seed)
    played: list[Rollout] = []

    def work() -> None:
        played.append(play_episodes(context.make_env, decisions, specs, rl.num_envs))
        folded = sides.learn(played[0], *advantages(played[0], rl))
        drift(folded, decisions.decide_again(played[0].prompts))

    spent = Spent.on(work, sides.device)
    about = {"distinct_prompts": len(played[0].prompts), "rollout_seconds": sum(played[0].seconds.values())}
    return played[0], _iteration(played[0].steps, spent) | about


def _iterate_plainly(sides: Sides, rollout: Rollout) -> dict[str, Any]:
    """The first episodes of a rollout, played and learned from in the plain way."""
    specs = [trajectory.spec for trajectory in rollout.trajectories[:PLAIN_EPISODES]]
    played: list[plain.PlainEpisode] = []
    play = Spent.on(lambda: played.extend(sides.play_plainly(specs)), sides.device)
    steps = sum(len(episode.choices) for episode in played)
    samples = plain.samples_of(rollout, advantages(rollout, sides.settings.rl)[0])[:steps]
    spent = play + Spent.on(partial(sides.learn_plainly, samples), sides.device)
    return _iteration(steps, spent) | {"episodes": len(specs), "rollout_seconds": play.seconds}


def _iteration(steps: int, spent: Spent) -> dict[str, Any]:
    return {"steps_per_s": steps / spent.seconds, "steps": steps, **asdict(spent)}
