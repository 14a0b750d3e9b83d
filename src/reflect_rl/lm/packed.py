"""Packed rows: a common prefix of several rows goes through the model once.

The distinct rows of a call are merged into tries of tokens. The model reads a trie as one row: a token's position is
its depth, and a 4-D attention mask lets it see its ancestors and itself. Hidden states and gradients equal those of the
single rows up to rounding. This is the tree attention of speculative decoding (SpecInfer: Miao et al. 2024, arXiv
2305.09781, section 4.2), applied to prompts with a common prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reflect_rl.lm.models import base_model

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

PROBE = 12
"""Length of the probe's rows, which diverge in the middle."""
NEAR, COARSE = 1e-3, 7e-2
"""Maximum norm of the deviation of the probe's hidden states from those of single rows, relative to their norm: in
float32, and in coarser formats. SmolLM2-135M deviates by less than 1e-4, by 0.02 in 16 and 4 bits and by 0.035 in 8;
without mask or positions by 0.14 or more.
"""
OTHER_WINDOWS = "window_size", "attention_chunk_size"
"""Config keys of attention that is local by position in the row, whatever the mask (GPT-Neo, Llama 4)."""
FAILURES = ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
"""The errors of architectures that do not support such masks or positions."""
PACKED = {"cpu": 600, "mps": 2048, "cuda": 4096}
"""Default tokens of a packed pass by device. They are fewer than in a padded one, since the mask is dense."""
Mask = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Pack:
    """Some rows as a trie of T nodes, numbered depth-first.

    rows: their indices in the caller's order. paths: the nodes of each row, from its first token to its last. ids_T,
    depth_T: a node's token and position. end_T: the first node after the node's subtree.
    """

    rows: list[int]
    paths: list[np.ndarray]
    ids_T: np.ndarray
    depth_T: np.ndarray
    end_T: np.ndarray

    def __len__(self) -> int:
        return len(self.ids_T)

    def sees(self, window: int | None = None, opened: int = 0, device: torch.device | None = None) -> Tensor:
        """sees_TS: whether a node (first axis) sees one of the `opened` tokens before the trie, all of which it may
        see, or the other node, of which it is a descendant, or which it is itself.

        window: also requires what is seen to be less than this many tokens back in the row.
        """
        depth_T, end_T = (torch.from_numpy(values).to(device) for values in (self.depth_T, self.end_T))
        nodes_T = torch.arange(len(self), device=device)
        sees_TS = (nodes_T[:, None] >= nodes_T) & (nodes_T[:, None] < end_T)
        depth_S = depth_T
        if opened:
            sees_TS = torch.cat([sees_TS.new_ones(len(self), opened), sees_TS], dim=1)
            depth_S = torch.cat([torch.arange(-opened, 0, device=device), depth_T])
        return sees_TS if window is None else sees_TS & (depth_T[:, None] - depth_S < window)


@dataclass(frozen=True)
class Opening:
    """Keys and values of the tokens before a trie: by layer, each (1, heads, length, E)."""

    length: int
    layers: list[tuple[Tensor, Tensor]]

    def cache(self) -> Cache:
        """A new cache that begins with them."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            cache.update(keys, values, number)
        return cache


def packs(rows: Sequence[list[int]] | Sequence[tuple[int, ...]], tokens: int) -> list[Pack]:
    """Packs of at most `tokens` nodes; a longer row gets a pack of its own.

    Rows are sorted by their tokens, so that rows with much in common come together.
    """
    arrays = [np.array(row, np.int64) for row in rows]
    found: list[Pack] = []
    members: list[int] = []
    new: list[np.ndarray] = []
    size = 0
    for place in sorted(range(len(rows)), key=rows.__getitem__):
        shared = _shared(arrays[members[-1]], arrays[place]) if members else 0
        added = len(arrays[place]) - shared
        if members and added and size + added > tokens:
            found.append(_pack(members, arrays, new))
            members, new, size, shared = [], [], 0, 0
        members.append(place)
        new.append(arrays[place][shared:])
        size += len(new[-1])
    return [*found, _pack(members, arrays, new)] if members else found


def _pack(members: list[int], arrays: Sequence[np.ndarray], new: list[np.ndarray]) -> Pack:
    """new: what each row adds to the rows before it."""
    total = sum(map(len, new))
    depth_T, end_T = np.empty(total, np.int64), np.full(total, total)
    paths: list[np.ndarray] = []
    first = 0
    path = np.empty(0, np.int64)
    for place, added in zip(members, new, strict=True):
        length = len(arrays[place])
        shared, last = length - len(added), first + len(added)
        end_T[path[shared:]] = first
        depth_T[first:last] = np.arange(shared, length)
        path = np.concatenate([path[:shared], np.arange(first, last)])
        paths.append(path)
        first = last
    return Pack(members, paths, np.concatenate(new), depth_T, end_T)


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common prefix."""
    shorter = min(len(one), len(other))
    differs = one[:shorter] != other[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


def read_opening(model: PreTrainedModel, ids: Sequence[int]) -> Opening:
    """Read the tokens that the rows of following packs begin with."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    (pack,) = packs([tuple(ids)], len(ids))
    read_pack(model, pack, cache)
    return Opening(len(ids), [(layer.keys, layer.values) for layer in cache.layers])


def read_pack(
    model: PreTrainedModel,
    pack: Pack,
    cache: Cache | None = None,
    layer: int | None = None,
    opening: Opening | None = None,
) -> Tensor:
    """x_TD: hidden states of all nodes, after the final norm, or after an inner layer (0: the embeddings).

    cache: an empty one, to keep keys and values of the nodes. opening: what comes before the trie.
    """
    plain = base_model(model)
    body: Any = plain.base_model
    opened = 0 if opening is None else opening.length
    ids_1T, depth_1T = (torch.from_numpy(values)[None].to(plain.device) for values in (pack.ids_T, pack.depth_T))
    kept = cache if opening is None else opening.cache()
    more: dict[str, Any] = {"use_cache": False} if kept is None else {"use_cache": True, "past_key_values": kept}
    if layer is not None:
        more["output_hidden_states"] = True
    out = body(input_ids=ids_1T, position_ids=depth_1T + opened, attention_mask=_mask(plain, pack, opened), **more)
    return (out.last_hidden_state if layer is None else out.hidden_states[layer])[0]


def _mask(plain: PreTrainedModel, pack: Pack, opened: int) -> Mask:
    """The model's attention mask, or one for each kind of layer if the model has several."""
    config: Any = plain.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return _as_given(plain, pack.sees(window, opened, plain.device))
    windows = {kind: window if kind == "sliding_attention" else None for kind in sorted(set(kinds))}
    return {kind: _as_given(plain, pack.sees(own, opened, plain.device)) for kind, own in windows.items()}


def _as_given(plain: PreTrainedModel, sees_TS: Tensor) -> Tensor:
    """A mask in the form that attention takes: boolean for PyTorch's SDPA, otherwise added to the scores."""
    seen_11TS = sees_TS[None, None]
    if plain.config._attn_implementation == "sdpa":
        return seen_11TS
    least = torch.finfo(plain.dtype).min
    return torch.zeros(seen_11TS.shape, dtype=plain.dtype, device=plain.device).masked_fill(~seen_11TS, least)


@torch.no_grad()
def why_not(model: PreTrainedModel) -> str | None:
    """Why a model cannot read packs; None if it can. Tested by comparing hidden states of two short rows.

    They are read as a trie, and as a trie after an opening.
    """
    plain = base_model(model)
    config: Any = plain.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or any(getattr(config, name, None) for name in OTHER_WINDOWS):
        return f"it has {min(kinds, default='local_attention')} layers"
    embeddings: Any = plain.get_input_embeddings()
    vocabulary = len(embeddings.weight)
    # Tokens from all over the vocabulary: at its beginning are special ones, on which hidden states are huge and, in
    # bfloat16, mostly rounding.
    stem = [(number + 1) * vocabulary // (PROBE + 1) for number in range(PROBE)]
    rows = [[*stem[: PROBE // 2], *stem[:0:-step]] for step in (1, 2)]
    body: Any = plain.base_model
    try:
        (pack,) = packs(rows, sum(map(len, rows)))
        x_TD = read_pack(model, pack)
        opening, half = read_opening(model, rows[0][: PROBE // 4]), PROBE // 4
        (rest,) = packs([row[half:] for row in rows], sum(map(len, rows)))
        after_TD = read_pack(model, rest, opening=opening)
        alone_1L = [torch.tensor([rows[place]], device=plain.device) for place in pack.rows]
        alone = [body(input_ids=ids_1L, use_cache=False).last_hidden_state[0] for ids_1L in alone_1L]
    except FAILURES as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    near = NEAR if x_TD.dtype == torch.float32 and not torch.is_autocast_enabled(plain.device.type) else COARSE
    for path, after, single_LD in zip(pack.paths, rest.paths, alone, strict=True):
        read_LD = x_TD[torch.from_numpy(path)]
        opened_LD = torch.cat([read_LD[:half], after_TD[torch.from_numpy(after)]])
        most = near * single_LD.norm()
        if not all(bool((given_LD - single_LD).norm() <= most) for given_LD in (read_LD, opened_LD)):
            return "it reads a packed prompt differently from the prompt alone"
    return None
