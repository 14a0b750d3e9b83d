"""The policy: one forward pass of a causal LM gives the probabilities of all admissible actions.

`Policy.log_probs` computes the same function in rollout, update and evaluation. There are two heads:

- labels: the hidden state at the answer cue times the LM head's rows of the label tokens (Reflect-RL's single-prompt
  action enumeration). This equals the full softmax restricted to the labels.
- pointer: a bilinear score between the hidden states at the cue and at the end of each action's line. It needs no
  labels and allows any number of actions.

The model's `Passes` say how prompts are batched: packed, or in chunks of fixed shape. With the latter, a prompt's
results without gradients do not depend, to the bit, on its batch.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import inf, log, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from reflect_rl.errors import ModelError, NonFiniteError, PromptError
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.checks import check_finite
from reflect_rl.lm.encoded import LENGTH_STEP, Encoded, compact
from reflect_rl.lm.forward import Forward
from reflect_rl.lm.models import pad_id
from reflect_rl.lm.out_of_memory import fitted
from reflect_rl.lm.pretrained import save_model
from reflect_rl.lm.remembered import Remembered
from reflect_rl.lm.text import encode_prompt, encode_with_places
from reflect_rl.players.prompt import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ABOUT, HEADS = "reflect_rl.json", "heads.safetensors"
"""Files of a saved policy besides its model."""
POINTER_STEPS = 64, 16
"""Pointer prompts, which vary more, are padded to multiples of this many tokens and of this many actions."""
MOST_TOKENS = 2**22
"""Maximum tokens in cached encoded prompts, at 8 bytes each."""


class Choices(NamedTuple):
    """The policy's output for B prompts.

    log_probs_BN: log-probabilities of the actions. value_B: values; 0 without a value head. heads_BHN: the
    distributions behind them: H = 1, or H = 2 in a gated mixture: pi(a | state), then pi(a | state, reflection).
    """

    log_probs_BN: Tensor
    value_B: Tensor
    heads_BHN: Tensor


class Policy(nn.Module):
    """A causal LM with a choice head and, optionally, a value head and a gated mixture.

    A gated mixture reads one forward pass at two positions: at the end of the state, where a causal model has not seen
    the reflection, and at the cue, where it has. It mixes the two choices with a learned gate, which bounds how far a
    weak reflector can mislead it.

    labels: label strings with their token ids, or None for the pointer head. passes: how prompts go through the model.
    trust: for a gated mixture (labels head only), the initial weight in (0, 1) of the choice with the reflection.
    Raises ModelError if the tokenizer provides no token offsets.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        labels: dict[str, int] | None,
        value_head: bool = False,
        passes: Passes | None = None,
        trust: float | None = None,
    ) -> None:
        super().__init__()
        if not tokenizer.is_fast:
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path} does not tell where its tokens stand in a text. Save it as "
                f"a fast one (tokenizer.json), or choose another model."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.labels = labels
        self.backbone = Backbone(model, passes)
        self.through = Forward(self.backbone, pad_id(tokenizer), by_length=labels is None)
        width = self.backbone.width
        self.register_buffer("label_ids", torch.tensor(list((labels or {}).values())), persistent=False)
        self.pointer = nn.Linear(width, width, bias=False) if labels is None else None
        if self.pointer is not None:
            nn.init.eye_(self.pointer.weight)
            self.pointer.weight.data.mul_(width**-0.5)
        self.value = nn.Linear(width, 1) if value_head else None
        if self.value is not None:
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)
        self.gate = nn.Linear(width, 1) if trust is not None else None
        if self.gate is not None and trust is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, log(trust / (1 - trust)))
        self._encoded = Remembered[str, Encoded](MOST_TOKENS)

    @property
    def device(self) -> torch.device:
        return self.label_ids.device  # type: ignore[return-value]

    def count(self, prompt: Prompt) -> int:
        """Number of tokens in a prompt."""
        return len(encode_prompt(self.tokenizer, prompt.text, prompt.controls))

    def encode(self, prompt: Prompt) -> Encoded:
        """Token ids with the positions to read. Raises PromptError if the prompt exceeds the model's context length."""
        known = self._encoded.get(prompt.text)
        if known is None:
            known = self._encode(prompt)
            self._encoded.keep(prompt.text, known, len(known.prefix) + len(known.rest) + len(known.read))
        return known

    def _encode(self, prompt: Prompt) -> Encoded:
        ids, starts, ends = encode_with_places(self.tokenizer, prompt.text, prompt.controls)
        if len(ids) > self.backbone.context:
            raise PromptError(
                f"A prompt has {len(ids)} tokens, but the model reads {self.backbone.context} at the most. Set "
                f"prompt.max_tokens to {self.backbone.context} or less, or use a model with a longer context."
            )
        static = bisect_right(ends, prompt.static) if self.labels is not None else 0
        lines = [bisect_left(starts, line) - 1 for line in prompt.line_ends]  # the last token of the last character
        if prompt.state_end is not None:  # the last token before the reflection
            lines = [bisect_right(ends, prompt.state_end) - 1]
        step = LENGTH_STEP
        if self.labels is None:  # repeat the last line, so that fewer prompts differ in the number of reads
            step, most = POINTER_STEPS
            lines += lines[-1:] * (-len(lines) % most)
        read = compact(place - static for place in (*lines, len(ids) - 1))
        return Encoded(compact(ids[:static]), compact(ids[static:]), read, prompt.actions, step)

    def choose(self, hidden_BRD: Tensor, rows: Sequence[Encoded], width: int) -> Choices:
        """Distributions over N = width choices (float32, -inf beyond each row's actions) and values.

        hidden_BRD: the model's hidden states of these rows at their read positions.
        """
        actions_B = torch.tensor([row.actions for row in rows], device=self.device)
        cue_BD = hidden_BRD[:, -1]
        # Detached: the gradients of a new value head would disturb the choice.
        value_B = _weighed(self.value, cue_BD.detach()) if self.value else cue_BD.new_zeros(len(cue_BD)).float()
        beyond_BN = torch.arange(width, device=cue_BD.device) >= actions_B[:, None]
        if self.pointer is not None:
            logits_BN = torch.einsum("bd,bnd->bn", self.pointer(cue_BD.float()), hidden_BRD[:, :-1].float())
            logits_BN = nn.functional.pad(logits_BN, (0, max(0, width - logits_BN.shape[1])))
            logits_BHN = logits_BN[:, :width].unsqueeze(1)
        else:
            logits_BHN = self.backbone.logits(hidden_BRD, self.label_ids[:width])  # type: ignore[index]
        heads_BHN = logits_BHN.masked_fill(beyond_BN.unsqueeze(1), -torch.inf).log_softmax(-1)
        log_probs_BN = heads_BHN[:, -1] if heads_BHN.shape[1] == 1 else self._mixed(heads_BHN, cue_BD)
        return Choices(log_probs_BN, value_B, heads_BHN)

    @torch.no_grad()
    def scale_pointer(self, encoded: Sequence[Encoded]) -> None:
        """Scale a new pointer so that the scores of these prompts' actions have a standard deviation of 1.

        The hidden states of a pretrained model are large in a few places. Unscaled, scores of one prompt differ by
        tens, and the first steps of training do nothing but undo that.
        """
        assert self.pointer is not None
        width = max(row.actions for row in encoded)
        log_probs_BN = fitted(lambda: self(encoded, width).log_probs_BN, self.backbone.halve)
        rows = zip(log_probs_BN.cpu(), encoded, strict=True)
        variances = [float(log_probs_N[: row.actions].var(correction=0)) for log_probs_N, row in rows]
        spread = sqrt(sum(variances) / len(variances))
        if 0 < spread < inf:
            self.pointer.weight.div_(spread)

    def _mixed(self, heads_BHN: Tensor, cue_BD: Tensor) -> Tensor:
        """log((1 - g) pi(a | state) + g pi(a | state, reflection)), with the gate g read at the cue."""
        assert self.gate is not None
        gate_B1 = _weighed(self.gate, cue_BD).unsqueeze(1)
        weights_BH = torch.cat([nn.functional.logsigmoid(-gate_B1), nn.functional.logsigmoid(gate_B1)], dim=1)
        finite_BHN = heads_BHN.clamp(min=-1e4)
        mixed_BN = (finite_BHN + weights_BH.unsqueeze(-1)).logsumexp(1)
        return mixed_BN.masked_fill(~torch.isfinite(heads_BHN[:, -1]), -torch.inf)

    def forward(self, encoded: Sequence[Encoded], width: int) -> Choices:
        """Distributions and values with gradients, in the given order. All rows have the same number of heads."""
        order, parts = [], []
        for places, hidden_BRD in self.through.hidden(encoded):
            parts.append(self.choose(hidden_BRD, [encoded[i] for i in places], width))
            order += places
        back = torch.tensor(order, device=self.device).argsort()
        return Choices(*(torch.cat(field)[back] for field in zip(*parts, strict=True)))

    @torch.no_grad()
    def evaluate(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """log_probs_BN and value_B of any prompts, on the CPU, float32.

        Unless packed, a prompt's results do not depend, to the bit, on its batch.

        Raises NonFiniteError if an admissible action's log-probability, or a value, is not finite.
        """
        width = max(prompt.actions for prompt in prompts)
        encoded = [self.encode(prompt) for prompt in prompts]
        read = self._packed if self.backbone.passes.packed else self._alike
        log_probs_BN, value_B = fitted(lambda: read(encoded, width), self.backbone.halve)
        actions = sum(prompt.actions for prompt in prompts)
        if int(torch.isfinite(log_probs_BN).sum()) != actions or not bool(torch.isfinite(value_B).all()):
            raise NonFiniteError(
                "the policy's probabilities are not finite",
                "Its weights are too large, or damaged: train it again, with a lower policy_sft.lr or rl.lr.",
            )
        return log_probs_BN, value_B

    def _packed(self, encoded: Sequence[Encoded], width: int) -> tuple[Tensor, Tensor]:
        """log_probs_BN and value_B from packed passes."""
        chosen = self(encoded, width)
        return chosen.log_probs_BN.cpu(), chosen.value_B.cpu()

    def _alike(self, encoded: Sequence[Encoded], width: int) -> tuple[Tensor, Tensor]:
        """log_probs_BN and value_B from chunks of fixed shape; the choice axis, too, depends on the bucket only."""
        log_probs_BN = torch.full((len(encoded), width), -torch.inf)
        value_B = torch.zeros(len(encoded))
        for places, filled, hidden_BRD in self.through.alike(encoded):
            most = len(self.labels) if self.labels is not None else hidden_BRD.shape[1] - 1
            chosen = self.choose(hidden_BRD, filled, most)
            shown = min(most, width)
            log_probs_BN[places, :shown] = chosen.log_probs_BN[: len(places), :shown].cpu()
            value_B[places] = chosen.value_B[: len(places)].cpu()
        return log_probs_BN, value_B

    def log_probs(self, prompts: Sequence[Prompt]) -> Tensor:
        """log_probs_BN of the admissible actions, float32; N is the longest action list of the batch."""
        return self.evaluate(prompts)[0]

    def save(self, folder: Path) -> None:
        """Save in Hugging Face's layout, with reflect_rl.json and heads.safetensors for the heads."""
        from safetensors.torch import save_file

        save_model(self.model, self.tokenizer, folder)
        about = {"labels": self.labels, "value_head": self.value is not None, "hedged": self.gate is not None}
        (folder / ABOUT).write_text(json.dumps(about, indent=2, allow_nan=False) + "\n")
        weights = {name: weight.contiguous().cpu() for name, weight in self._heads().items()}
        if weights:
            save_file(weights, folder / HEADS)

    def _heads(self) -> dict[str, Tensor]:
        """The weights that do not belong to the model."""
        return {name: weight for name, weight in self.state_dict().items() if not name.startswith("model.")}

    @classmethod
    def load(
        cls,
        folder: Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        passes: Passes | None = None,
    ) -> Policy:
        """Load the heads in `folder` onto a loaded model. Raises ModelError if the folder is no saved policy."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            trust = 0.5 if about["hedged"] else None
            policy = cls(model, tokenizer, about["labels"], about["value_head"], passes, trust)
            rows = len(policy.backbone.output_rows)
            if beyond := [label for label, token in (policy.labels or {}).items() if not 0 <= token < rows]:
                raise ValueError(f"the label {beyond[0]!r} is no token of the model")
            heads = load_file(folder / HEADS) if (folder / HEADS).is_file() else {}
            if odd := sorted(heads.keys() ^ policy._heads().keys()):
                raise ValueError(f"{odd[0]} should {'not ' if odd[0] in heads else ''}be in {HEADS}")
            policy.load_state_dict(heads, strict=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder} is not a policy saved by reflect-rl, or damaged: {error}.") from error
        check_finite(heads.items(), str(folder / HEADS))
        return policy.to(model.device)


def _weighed(linear: nn.Linear, x_BD: Tensor) -> Tensor:
    """y_B of a linear layer with one output, by rows: a matrix-vector product may sum in an order that depends on the
    row.
    """
    return (x_BD.float() * linear.weight).sum(-1) + linear.bias
