"""Tokenization of all texts, whether from a world, a teacher, a player or a pool.

Input is plain text: "<eos>" or "<|im_end|>" in it is read as characters, not as the control token of that name. Control
tokens come from the library itself, and from the frames of a chat template, whose places in a prompt are given as
`controls`: (start, end) in characters, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from reflect_rl.errors import ModelError
from reflect_rl.lm.models import control_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Spans = Sequence[tuple[int, int]]


class Tokens(NamedTuple):
    """Token ids and the characters that each covers, from `starts` to `ends`; both are non-decreasing.

    If several tokens make up one multi-byte character, all of them start and end with it.
    """

    ids: list[int]
    starts: list[int]
    ends: list[int]


class Framed(NamedTuple):
    """A player's prompt in the chat format: a text, and where in it the frames of the template stand."""

    text: str
    controls: tuple[tuple[int, int], ...]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text."""
    return encode_all(tokenizer, [text])[0]


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text."""
    if not texts:
        return []
    found = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    spelled = _spelled(tokenizer)
    return [_spell(ids, spelled) for ids in found]  # type: ignore[arg-type]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str, controls: Spans = ()) -> list[int]:
    """Token ids of a prompt, whose `controls` may name control tokens. A plain one begins with `opening_ids`."""
    if not controls:
        return [*opening_ids(tokenizer), *encode(tokenizer, text)]
    return [token for piece, is_control in _pieces(text, controls) for token in _encode(tokenizer, piece, is_control)]


@lru_cache(maxsize=8)
def opening_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token that the tokenizer itself puts before a text, as Llama's and Gemma's do; empty for most others.

    Models that were trained with it read badly without it. Chat templates write it themselves, if at all.
    """
    first = tokenizer.encode("a")[:1]
    return tuple(first) if first == [tokenizer.bos_token_id] else ()


def encode_frame(tokenizer: PreTrainedTokenizerBase, frame: str) -> list[int]:
    """Token ids of a part of a chat template."""
    found = tokenizer(frame, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"]
    return list(found)  # type: ignore[arg-type]


def _encode(tokenizer: PreTrainedTokenizerBase, piece: str, is_control: bool) -> list[int]:
    return encode_frame(tokenizer, piece) if is_control else encode(tokenizer, piece)


def _pieces(text: str, controls: Spans) -> Iterator[tuple[str, bool]]:
    """The parts of a text in order, and whether each is a control."""
    done = 0
    for start, end in controls:
        if done < start:
            yield text[done:start], False
        yield text[start:end], True
        done = end
    if done < len(text):
        yield text[done:], False


def most_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], together: int = 256) -> int:
    """Number of tokens of the longest text; 0 without texts.

    together: texts tokenized at a time, since a tokenizer's output takes 150 bytes per token.
    """
    distinct = list(dict.fromkeys(texts))
    parts = (distinct[start : start + together] for start in range(0, len(distinct), together))
    return max((len(ids) for part in parts for ids in encode_all(tokenizer, part)), default=0)


def encode_with_places(tokenizer: PreTrainedTokenizerBase, text: str, controls: Spans = ()) -> Tokens:
    """Token ids of a prompt, as `encode_prompt` gives them, and their positions in it.

    Raises ModelError if the tokenizer provides no positions.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path} does not tell which characters its tokens stand for, and the "
            f"policy needs to know. Choose a model with a fast tokenizer (a tokenizer.json)."
        )
    opening = [] if controls else list(opening_ids(tokenizer))
    spelled, tokens, first = _spelled(tokenizer), Tokens(opening, [0] * len(opening), [0] * len(opening)), 0
    for part, is_control in _pieces(text, controls):
        out = tokenizer(
            part, add_special_tokens=False, split_special_tokens=not is_control, return_offsets_mapping=True
        )
        ids: list[int] = out["input_ids"]  # type: ignore[assignment]
        for token, (start, end) in zip(ids, out["offset_mapping"], strict=True):
            for piece in (token,) if is_control else spelled.get(token, (token,)):
                tokens.ids.append(piece)
                tokens.starts.append(first + start)
                tokens.ends.append(first + end)
        first += len(part)
    return tokens


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, without control tokens and without clean-up."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _spell(ids: list[int], spelled: Mapping[int, Sequence[int]]) -> list[int]:
    if spelled.keys().isdisjoint(ids):
        return ids
    return [piece for token in ids for piece in spelled.get(token, (token,))]


@lru_cache(maxsize=8)
def _spelled(tokenizer: PreTrainedTokenizerBase) -> Mapping[int, tuple[int, ...]]:
    """Control tokens with the tokens of their characters: some tokenizers recognise the names of control tokens in
    plain text, whatever options are set.
    """
    unknown: Any = tokenizer.unk_token_id
    if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        unknown = None  # a shared control token, which no text may become
    spelled = {}
    for token in control_ids(tokenizer) - {unknown}:
        pieces = [tokenizer.convert_tokens_to_ids(letter) for letter in str(tokenizer.convert_ids_to_tokens(token))]
        known = [unknown if piece in (None, token) else piece for piece in pieces]
        spelled[token] = tuple(piece for piece in known if piece is not None)
    return spelled
