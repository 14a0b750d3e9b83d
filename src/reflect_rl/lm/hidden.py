"""Text embeddings: a causal LM's hidden states, pooled over each text's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from reflect_rl.errors import ModelError
from reflect_rl.lm.batches import TOKEN_BUDGET, Encoder, Item, Texts, batches
from reflect_rl.lm.models import base_model, pad_id
from reflect_rl.lm.packed import PACKED, packs, read_pack, why_not
from reflect_rl.lm.text import Framed
from reflect_rl.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pooling = Literal["mean", "last"]


def hidden_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts[str | Framed],
    *,
    layer: int = -1,
    pooling: Pooling = "mean",
    token_budget: int = TOKEN_BUDGET,
    progress: Progress | None = None,
) -> np.ndarray:
    """(N, D) float32: `pooled_states` in the order of the texts."""
    states_ND = np.empty((len(texts), width(model)), np.float32)
    given: dict[str, Any] = {"layer": layer, "pooling": pooling, "token_budget": token_budget, "progress": progress}
    for row, state_D in pooled_states(model, tokenizer, texts, **given):
        states_ND[row] = state_D
    return states_ND


def pooled_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts[str | Framed],
    *,
    layer: int = -1,
    pooling: Pooling = "mean",
    token_budget: int = TOKEN_BUDGET,
    done_N: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the text, its embedding (D,) float32), in order of computation; memory does not grow with N.

    layer: 0 for the token embeddings, k for the output of block k, -1 for the last, after the final norm. pooling: the
    mean over the text's tokens, or its last token. done_N: (N,) bool, texts to leave out. Texts that begin alike are
    read as tries (`lm.packed`) if the model can; otherwise rows are padded on the right, where causal attention cannot
    see, and padding is not pooled. Raises ModelError for a missing layer, an empty text,
    or numbers that are not finite.
    """
    progress = progress or Progress()
    depth = model.config.get_text_config().num_hidden_layers
    if not -depth - 1 <= layer <= depth:
        raise ModelError(f"There is no layer {layer}: the model has 0 to {depth}, or -1 to {-depth - 1} from the end.")
    done_N = np.zeros(len(texts), bool) if done_N is None else done_N
    model.eval()
    parts = batches(
        Encoder(model, tokenizer, progress),
        ((text, None) for text in texts),
        room=0,
        token_budget=token_budget,
        most_rows=token_budget,
        padded=True,
        done_N=done_N.copy(),
    )
    packed = why_not(model) is None
    wanted, fill = layer % (depth + 1), pad_id(tokenizer)
    with progress.bar("embed", len(texts), "texts", int(done_N.sum())) as bar:
        for batch in parts:
            if packed:
                states_BD = _packed_states(model, batch, None if wanted == depth else wanted, pooling)
            else:
                states_BD = _states(model, batch, fill, wanted, pooling)
            for item, state_D in zip(batch, states_BD, strict=True):
                if not np.isfinite(state_D).all():
                    raise ModelError(
                        f"The model gives numbers that are not finite for item {item.rows[0]}: its weights or its "
                        f"number format are unsound. Try 32 bits, or another model."
                    )
                for row in item.rows:
                    if not done_N[row]:
                        yield row, state_D
                        bar.update()


def width(model: PreTrainedModel) -> int:
    """Size of a hidden state."""
    return model.config.get_text_config().hidden_size


@torch.no_grad()
def _packed_states(model: PreTrainedModel, batch: list[Item], layer: int | None, pooling: Pooling) -> np.ndarray:
    states: list[Tensor] = [torch.empty(0)] * len(batch)
    for pack in packs([item.prompt for item in batch], PACKED[model.device.type]):
        x_TD = read_pack(model, pack, layer=layer).float()
        for place, path in zip(pack.rows, pack.paths, strict=True):
            nodes_L = torch.from_numpy(path).to(x_TD.device)
            states[place] = x_TD[nodes_L[-1]] if pooling == "last" else x_TD[nodes_L].mean(0)
    return torch.stack(states).cpu().numpy()


@torch.no_grad()
def _states(model: PreTrainedModel, batch: list[Item], fill: int, layer: int, pooling: Pooling) -> np.ndarray:
    lengths_B = torch.tensor([len(item.prompt) for item in batch], device=model.device)
    longest = int(lengths_B.max())
    rows = [item.prompt + [fill] * (longest - len(item.prompt)) for item in batch]
    own_BL = torch.arange(longest, device=model.device) < lengths_B[:, None]
    x_BLD = _layer(model, torch.tensor(rows, device=model.device), own_BL, layer).float()
    if pooling == "last":
        return x_BLD[torch.arange(len(batch), device=model.device), lengths_B - 1].cpu().numpy()
    return (x_BLD.masked_fill(~own_BL.unsqueeze(-1), 0).sum(1) / lengths_B[:, None]).cpu().numpy()


def _layer(model: PreTrainedModel, ids_BL: Tensor, own_BL: Tensor, layer: int) -> Tensor:
    """x_BLD of one layer. The states of all layers are kept only if an inner layer is requested."""
    body: Any = base_model(model).base_model
    middle = layer < model.config.get_text_config().num_hidden_layers
    given: dict[str, Any] = {"attention_mask": own_BL.long(), "use_cache": False}
    takes = signature(body.forward).parameters
    given = {name: value for name, value in given.items() if name in takes}
    out = body(input_ids=ids_BL, output_hidden_states=middle, **given)
    return out.hidden_states[layer] if middle else out.last_hidden_state
