"""How close the policy comes to the matrix-multiplication floor of this machine.

The floor is the time for the minimum matrix work, at the rate at which this machine multiplies matrices of the model's
shapes. The minimum work is: linear layers and causal attention on the real tokens (no padding), what prompts share once
(`Reading`), the last layer's queries and MLP at the answer cue only, and the head's label rows. A backward pass counts
as two forward passes; through a frozen linear layer, as one. At a share of 1, nothing but these products would take
time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reflect_rl.errors import ModelError
from reflect_rl.lm.backbone import UNBOUNDED, Passes
from reflect_rl.lm.encoded import Encoded
from reflect_rl.lm.models import base_model, parameter_count
from reflect_rl.lm.packed import packs
from reflect_rl.players.policy import Policy
from reflect_rl.seeding import stream_seed
from reflect_rl.settings import Settings
from reflect_rl.training.losses import Folded
from reflect_rl.training.optimizer import make_optimizer
from reflect_rl.training.rollout import Rollout
from reflect_rl.training.update import Learner, drift, update

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SQUARE = {"cpu": 1024, "mps": 4096, "cuda": 8192}
"""Side of the square product that represents the machine's best rate, by device."""
REPEATS = 3
HALF_BILLION = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151_936,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
"""The shape of Qwen2-0.5B (494 million weights)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What has to be read of some prompts.

    tokens: all tokens, what prompts share counted once. pairs: query-key pairs of attention over them. cues, cue_pairs:
    the answer cues, and the pairs of their queries.
    """

    tokens: int
    pairs: int
    cues: int
    cue_pairs: int

    @classmethod
    def with_prefix(cls, rows: Sequence[Encoded]) -> Reading:
        """The rows of one pass, which share `Encoded.prefix`."""
        prefixes = [len(prefix) for prefix in {row.prefix for row in rows}]
        own = [(len(row.prefix), len(row.rest)) for row in rows]
        return cls(
            sum(prefixes) + sum(rest for _, rest in own),
            sum(map(_triangle, prefixes)) + sum(rest * before + _triangle(rest) for before, rest in own),
            len(rows),
            sum(before + rest for before, rest in own),
        )

    @classmethod
    def as_trie(cls, rows: Sequence[Encoded]) -> Reading:
        """Rows of which every common prefix is read once."""
        (trie,) = packs([row.ids for row in rows], UNBOUNDED)
        return cls(len(trie), int((trie.depth_T + 1).sum()), len(rows), sum(len(row.ids) for row in rows))


@dataclass(frozen=True, slots=True)
class Shapes:
    """A model's matrices. linears: (in, out) of all linear layers of a block. query, key_value: attention widths."""

    width: int
    layers: int
    linears: tuple[tuple[int, int], ...]
    query: int
    key_value: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shapes:
        """Read the shapes off the modules of any architecture. LoRA adapters, which are small, do not count."""
        from transformers.pytorch_utils import Conv1D

        plain = base_model(model)
        config, head = plain.config, plain.get_output_embeddings()
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        found = [
            module.weight.shape
            for name, module in plain.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and module is not head and ".lora_" not in name
        ]
        linears = tuple((shape[0], shape[1]) for shape in found[: len(found) // layers])
        each = getattr(config, "head_dim", None) or config.hidden_size // heads
        shared = getattr(config, "num_key_value_heads", None) or heads
        return cls(config.hidden_size, layers, linears, heads * each, shared * each)

    def forward_flops(self, rows: Sequence[Encoded], labels: int) -> float:
        """Minimum floating-point operations of a forward pass over `rows`; a multiply-add counts as two."""
        return sum(self.flops(Reading.with_prefix(rows), labels))

    def flops(self, read: Reading, labels: int) -> tuple[float, float]:
        """The same for what has to be read: of linear layers and head, and of attention."""
        block = sum(a * b for a, b in self.linears)
        keys_values = 2 * self.width * self.key_value
        below = self.layers - 1
        linear = 2 * block * below * read.tokens + 2 * keys_values * read.tokens
        linear += 2 * (block - keys_values + self.width * labels) * read.cues
        return float(linear), float(4 * self.query * (below * read.pairs + read.cue_pairs))


def _triangle(length: int) -> int:
    """Number of query-key pairs in causal attention over `length` tokens."""
    return length * (length + 1) // 2


def measure(policy: Policy, rollout: Rollout, folded: Folded, settings: Settings) -> dict[str, Any]:
    """Rates of decisions and updates on these prompts, with their shares of the floor.

    A decision is a forward pass of one distinct prompt. An update row is one distinct prompt in one epoch, forward and
    backward; an update sample is one visit of a prompt in one epoch. This changes the weights of `policy`.
    """
    shapes, device, dtype = Shapes.of(policy.model), policy.device, next(policy.parameters()).dtype
    rows = [policy.encode(prompt) for prompt in rollout.prompts]
    tokens = sum(len(row.rest) for row in rows) / len(rows)
    labels = rollout.log_probs_PN.shape[1]
    minibatches, epochs = settings.rl.minibatches, settings.rl.epochs
    optimizer = make_optimizer(policy, settings.rl.lr, weight_decay=0.0)
    learner = Learner(policy, optimizer, settings.rl, settings.seed)

    def learn_once() -> None:
        update(learner, rollout, folded, 0, settings.rl.entropy)
        drift(folded, policy.log_probs(rollout.prompts))

    try:
        decide = median_seconds(lambda: policy.evaluate(rollout.prompts), device)
        learn = median_seconds(learn_once, device)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"The benchmark's model ({parameter_count(policy.model):,} weights) does not fit on this GPU with "
            f"{len(rows) // minibatches} rows a minibatch. Raise rl.minibatches (now {minibatches})."
        ) from error
    side = SQUARE[device.type]
    square = product_rate([(side, side)], side, device, dtype)
    forward = product_rate(shapes.linears, policy.backbone.passes.tokens, device, dtype)
    both = product_rate(shapes.linears, int(len(rows) / minibatches * tokens), device, dtype, backward=True)
    decide_flops = shapes.forward_flops(rows, labels)
    learn_flops = 3 * epochs * sum(shapes.forward_flops(rows[i::minibatches], labels) for i in range(minibatches))
    return {
        "parameters": parameter_count(policy.model),
        "dtype": str(dtype).removeprefix("torch."),
        "distinct_prompts": len(rows),
        "tokens_per_prompt": {"shared": len(rows[0].prefix), "own": round(tokens, 1)},
        "gemm_flops_per_s": {"square": square, "model_forward": forward, "model_forward_backward": both},
        "decisions": _share(len(rows), decide, decide_flops, forward, square) | {"unit": "decisions/s"},
        "update": _share(epochs * len(rows), learn, learn_flops, both, square)
        | {"unit": "rows/s", "samples_per_s": epochs * float(folded.visits_P.sum()) / learn},
    }


def _share(count: int, seconds: float, flops: float, own_rate: float, square_rate: float) -> dict[str, Any]:
    return {
        "per_s": count / seconds,
        "flops_each": flops / count,
        "share_of_matmul_floor": flops / own_rate / seconds,
        "share_of_square_matmul_floor": flops / square_rate / seconds,
    }


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    about: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device,
    }
    return about | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median wall time of `work`, after a warm-up run."""
    work()
    times = sorted(seconds(work, device) for _ in range(repeats))
    return times[len(times) // 2]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work`, with the GPU synchronised before and after."""
    _synchronize(device)
    started = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(
    linears: Sequence[tuple[int, int]], rows: int, device: torch.device, dtype: torch.dtype, backward: bool = False
) -> float:
    """Floating-point operations per second of one product (rows, in) x (in, out) per linear layer; the best of 7.

    backward: also the two products for its gradients.
    """
    products = []
    for inner, outer in linears:
        x, w, g = (
            torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, inner), (inner, outer), (rows, outer))
        )
        products += [(x, w), (g, w.T), (x.T, g)] if backward else [(x, w)]

    def multiply() -> None:
        for a, b in products:
            torch.mm(a, b)

    multiply()
    once = seconds(multiply, device)
    loops = max(1, round(0.02 / max(once, 1e-6)))
    best = min(seconds(lambda: [multiply() for _ in range(loops)], device) for _ in range(7)) / loops
    flops = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in products)
    return flops / best


def large_policy(
    tokenizer: PreTrainedTokenizerBase,
    labels: Mapping[str, int],
    device: str,
    passes: Passes,
    config: Mapping[str, Any] = HALF_BILLION,
) -> Policy:
    """A randomly initialised bfloat16 policy of Qwen2's architecture, by default of its 0.5B size.

    The tokenizer is small, so only the first rows of the vocabulary are used.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    with torch.random.fork_rng(devices=[device] if device == "cuda" else []), torch.device(device):
        torch.manual_seed(stream_seed(0, "bench large policy"))
        model = Qwen2ForCausalLM(Qwen2Config(**config)).bfloat16()
    return Policy(model, tokenizer, dict(labels), passes=passes).to(device).eval()
