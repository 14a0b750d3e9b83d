"""Small tokenizers of the kinds that published models have, for tests of how text becomes tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from reflect_rl.lm.scratch import train_tokenizer

TEXTS = ["Walk to the flag.\nChoices:\nleft\nright\n向左\n向右\ngo 😀\nשלום\ncafé\nAction:\nReflection: Go left."] * 5
SPECIAL = ["<pad>", "<eos>", "<unk>"]
LETTERS = sorted({letter for text in TEXTS for letter in text})


def scratch() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, 400)


def _byte_level(normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerBase:
    core = Tokenizer(models.BPE())
    if normalizer is not None:
        core.normalizer = normalizer  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_end|>"]
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, bos_token=end, unk_token=end)


def gpt2_style() -> PreTrainedTokenizerBase:
    """The end token is the unknown one as well."""
    return _byte_level()


def composed() -> PreTrainedTokenizerBase:
    """Normalises to NFC, which moves offsets."""
    return _byte_level(normalizers.NFC())


def decomposed() -> PreTrainedTokenizerBase:
    return _byte_level(normalizers.NFD())


def byte_fallback() -> PreTrainedTokenizerBase:
    """SentencePiece as Llama 2 has it: a mark for spaces, also before the text, and bytes for what it does not know."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"acefghiklnoprtw", "le", "ft", "left", "▁g"]
    merges = [("l", "e"), ("f", "t"), ("le", "ft"), ("▁", "g")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(parts)  # type: ignore[assignment]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def opened() -> PreTrainedTokenizerBase:
    """As Llama 2 has it: "<s>" before every text."""
    tokenizer = byte_fallback()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    before = ("<s>", tokenizer.bos_token_id)
    core: Tokenizer = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    core.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[before])  # type: ignore[assignment]
    return tokenizer


def unigram() -> PreTrainedTokenizerBase:
    """SentencePiece as XGLM has it, where the names of control tokens are pieces like others."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace()]
    )
    core.decoder = decoders.Metaspace()  # type: ignore[assignment]
    letters = [*LETTERS, *"<>/sd"]
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", initial_alphabet=letters, show_progress=False
    )
    core.train_from_iterator([*TEXTS, "<eos> </s> <pad>"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerBase:
    """As BERT has it: no white space, no accents, no capitals."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer()  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    core.decoder = decoders.WordPiece()  # type: ignore[assignment]
    core.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def words() -> PreTrainedTokenizerBase:
    """Whole words only, the names of control tokens among them."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    core.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


MADE_BY: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    made.__name__: made
    for made in (scratch, gpt2_style, composed, decomposed, byte_fallback, unigram, word_piece, words)
}
LOSSLESS = ("scratch", "gpt2_style", "byte_fallback")
"""Those that tell any two texts apart."""


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    return MADE_BY[kind]()
