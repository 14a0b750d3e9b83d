"""Model folders that transformers and peft can make: each is used rightly, or refused in one message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

import tiny_models
from end_to_end import reflect_rl, refused
from reflect_rl.errors import ModelError
from reflect_rl.lm.hidden import hidden_states
from reflect_rl.lm.pretrained import load_pretrained, load_tokenizer, save_model
from reflect_rl.players.context import Context
from reflect_rl.players.load import load_policy
from reflect_rl.players.policy import Policy
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ModelSettings, Settings

ROWS = len(tiny_models.tokenizer())
Change = Callable[[Path], Any]
SMALL = {"vocab_size": ROWS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def tokenizer(**attributes: Any) -> Any:
    """The tiny tokenizer, to be changed."""
    made = AutoTokenizer.from_pretrained(sound())
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@cache
def sound() -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp()) / "sound"
    save_model(tiny_models.gpt2(), tiny_models.tokenizer(), folder)
    return folder


def derived(folder: Path, change: Change) -> Path:
    """The sound folder, changed."""
    shutil.copytree(sound(), folder)
    change(folder)
    return folder


def weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Change:
    def changed(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return changed


def matrices(convert: Callable[[Tensor], Tensor]) -> Change:
    return weights(lambda found: {name: convert(w) if w.dim() == 2 else w for name, w in found.items()})


def edited(file: str, **values: Any) -> Change:
    return lambda folder: (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))


def replaced(make: Callable[[], PreTrainedModel]) -> Change:
    def changed(folder: Path) -> None:
        for name in ("config.json", "generation_config.json", "model.safetensors"):
            (folder / name).unlink()
        make().save_pretrained(folder)

    return changed


def with_tokenizer(change: Callable[[Any], Any], **attributes: Any) -> Change:
    def changed(folder: Path) -> None:
        made = tokenizer(**attributes)
        change(made)
        made.save_pretrained(folder)

    return changed


def one_number(value: float) -> Change:
    def changed(found: dict[str, Tensor]) -> dict[str, Tensor]:
        found["transformer.h.1.mlp.c_fc.weight"][0, 0] = value
        return found

    return weights(changed)


def without(*files: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in files]


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_shards(lost: bool) -> Change:
    def changed(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        tiny_models.gpt2().save_pretrained(folder, max_shard_size="8KB")
        shards = sorted(folder.glob("model-*.safetensors"))
        assert len(shards) > 2
        if lost:
            shards[1].unlink()

    return changed


def own_code(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    edited("config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})(
        folder
    )


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def gguf(folder: Path) -> None:
    without("config.json", "model.safetensors")(folder)
    (folder / "model.Q4_K_M.gguf").write_bytes(b"GGUF\x03" + b"\0" * 64)


def llama(kind: Any, **more: Any) -> Callable[[], PreTrainedModel]:
    return lambda: kind(LlamaConfig(**SMALL, intermediate_size=16, pad_token_id=0, **more))


def bert(kind: Any) -> Callable[[], PreTrainedModel]:
    return lambda: kind(BertConfig(**SMALL, intermediate_size=16))


def bart() -> PreTrainedModel:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=ROWS, pad_token_id=0, eos_token_id=1, bos_token_id=1, **sizes, **heads)
    )


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(vocab_size=ROWS, d_model=16, d_ff=8, num_layers=1, num_heads=2, d_kv=8))


REFUSED: dict[str, tuple[Change, list[str]]] = {
    "empty": (lambda folder: [file.unlink() for file in folder.iterdir()], ["no config.json"]),
    "only a tokenizer": (without("config.json", "model.safetensors"), ["no config.json"]),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), ["no tokenizer"]),
    "no weights": (without("model.safetensors"), ["no weights"]),
    "pickles": (pickled, ["pickles (pytorch_model.bin)"]),
    "gguf": (gguf, ["a folder with a GGUF file", "Give the file: ", "model.Q4_K_M.gguf"]),
    "truncated": (truncated, ["could not be loaded"]),
    "a shard is missing": (in_shards(lost=True), ["model-00002-of-"]),
    "own code": (own_code, ["code of its own", "never run"]),
    "a weight is missing": (
        weights(lambda found: {name: w for name, w in found.items() if name != "transformer.h.0.mlp.c_fc.weight"}),
        ["transformer.h.0.mlp.c_fc.weight is missing"],
    ),
    "another shape": (
        weights(lambda found: found | {"transformer.h.0.mlp.c_fc.weight": torch.zeros(16, 63)}),
        ["(16, 63)", "(16, 64)"],
    ),
    "eight-bit floats": (matrices(lambda w: w.to(torch.float8_e4m3fn)), ["F8_E4M3"]),
    "integers": (matrices(lambda w: (w * 100).to(torch.int8)), ["I8"]),
    "quantised already": (edited("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), ["gptq"]),
    "one NaN": (one_number(float("nan")), ["transformer.h.1.mlp.c_fc.weight", "not finite"]),
    "one infinity": (one_number(float("inf")), ["transformer.h.1.mlp.c_fc.weight", "not finite"]),
    "float64 beyond float32": (
        weights(lambda found: {n: w.double() * (1e200 if n.endswith("wpe.weight") else 1) for n, w in found.items()}),
        ["transformer.wpe.weight", "not finite"],
    ),
    "a token beyond the embedding": (with_tokenizer(lambda made: made.add_tokens(["hello there"])), ["'hello there'"]),
    "the end token beyond the embedding": (
        with_tokenizer(lambda made: made.add_special_tokens({"eos_token": "[END]"})),
        ["'[END]'", f"embeddings for {ROWS}"],
    ),
    "the first token beyond the embedding": (
        with_tokenizer(lambda made: made.add_special_tokens({"bos_token": "[START]"})),
        ["'[START]'"],
    ),
    "no end token": (with_tokenizer(lambda made: None, eos_token=None), ["no end-of-text token"]),
    "encoder-decoder": (replaced(t5), ["encoder-decoder"]),
    "encoder-decoder that passes for a decoder": (replaced(bart), ["encoder-decoder"]),
    "masked": (replaced(bert(BertForMaskedLM)), ["BertForMaskedLM"]),
    "reads both ways": (replaced(bert(BertLMHeadModel)), ["both sides"]),
    "reward model": (replaced(llama(LlamaForSequenceClassification)), ["LlamaForSequenceClassification"]),
    "reward model, tied": (
        replaced(llama(LlamaForSequenceClassification, tie_word_embeddings=True)),
        ["LlamaForSequenceClassification"],
    ),
    "a body without its head": (replaced(llama(LlamaModel)), ["lm_head.weight is missing"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_cannot_be_used_is_refused_in_one_message(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, parts = REFUSED[name]
    folder = derived(tmp_path / "model", change)
    capfd.readouterr()
    with pytest.raises(ModelError) as caught:
        load_pretrained(ModelSettings(source=str(folder)))
    for part in ("model", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "nothing but the message"
    assert not (folder / "ran").exists()


def body_alone(folder: Path) -> None:
    body: Any = tiny_models.gpt2().transformer
    assert isinstance(body, GPT2Model)
    body.save_pretrained(folder)


USED: dict[str, Change] = {
    "as it is": lambda folder: None,
    "a padding token beyond the embedding": with_tokenizer(
        lambda made: made.add_special_tokens({"pad_token": "[PAD]"})
    ),
    "no padding token": with_tokenizer(lambda made: None, pad_token=None),
    "padding and truncation on the left, short": with_tokenizer(
        lambda made: None, padding_side="left", truncation_side="left", model_max_length=16
    ),
    "a tokenizer that cuts": edited(
        "tokenizer.json", truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    ),
    "generation settings that contradict each other": edited(
        "generation_config.json", do_sample=False, temperature=0.6, top_p=0.9
    ),
    "damaged generation settings": lambda folder: (folder / "generation_config.json").write_text("{\x00"),
    "no generation settings": without("generation_config.json"),
    "float64": weights(lambda found: {name: w.double() for name, w in found.items()}),
    "shards": in_shards(lost=False),
    "code of its own that is not needed": edited("config.json", auto_map={"AutoModelForCausalLM": "evil.M"}),
    "no architecture named": edited("config.json", architectures=None),
    "the body of a tied model": body_alone,
}


@pytest.mark.parametrize("name", USED)
def test_an_odd_folder_gives_the_numbers_of_a_plain_one(name: str, tmp_path: Path) -> None:
    """In the policy and as embeddings, and after it has been saved and loaded again."""
    plain = tiny_models.policy()
    prompts = tiny_models.prompts(plain)
    folder = derived(tmp_path / "models with spaces, ünï" / "one", USED[name])
    model, tokens = load_pretrained(ModelSettings(source=str(folder)))
    odd = Policy(model, tokens, plain.labels).eval()
    assert torch.equal(odd.log_probs(prompts), plain.log_probs(prompts))
    texts = ["Walk left.", "Go right, and then left again: " * 4]
    states = hidden_states(model, tokens, texts)
    assert (states == hidden_states(plain.model, plain.tokenizer, texts)).all()
    assert all(weight.requires_grad for weight in model.parameters())
    odd.save(tmp_path / "saved")
    again = Policy.load(tmp_path / "saved", *load_pretrained(ModelSettings(source=str(tmp_path / "saved")))).eval()
    assert torch.equal(again.log_probs(prompts), plain.log_probs(prompts))


def test_half_precision_on_disk_is_float32_in_training(tmp_path: Path) -> None:
    folder = derived(tmp_path / "half", weights(lambda found: {name: w.half() for name, w in found.items()}))
    model, _ = load_pretrained(ModelSettings(source=str(folder)))
    stored = load_file(folder / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert all(torch.equal(model.state_dict()[name], weight.float()) for name, weight in stored.items())


def test_the_name_of_a_token_beyond_the_embedding_is_read_as_text(tmp_path: Path) -> None:
    folder = derived(tmp_path / "x", USED["a padding token beyond the embedding"])
    plain, odd = (load_pretrained(ModelSettings(source=str(each))) for each in (sound(), folder))
    texts = ["Walk.", "Walk [PAD] left."]
    assert (hidden_states(*odd, texts) == hidden_states(*plain, texts)).all()


def test_a_gated_model_says_where_to_accept_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(source: str, *args: Any, **kwargs: Any) -> None:
        raise OSError(
            f"You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/{source}."
        )

    monkeypatch.setattr("transformers.utils.hub.cached_file", gated)
    for load in (load_tokenizer, lambda source: load_pretrained(ModelSettings(source=source))):
        with pytest.raises(ModelError, match=r"https://huggingface\.co/some/llama.* terms .*hf auth login"):
            load("some/llama")


def test_a_tokenizer_of_a_folder_without_a_model_is_refused_like_the_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Give the file: .*model\.Q4_K_M\.gguf"):
        load_tokenizer(str(derived(tmp_path / "model", gguf)))


# Adapters


def adapter(folder: Path, rank: int = 2, **config: Any) -> Path:
    """LoRA adapters on the sound model that do something, as PEFT saves them, with a tokenizer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = {"r": rank, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config
    torch.manual_seed(0)
    made = get_peft_model(
        AutoModelForCausalLM.from_pretrained(sound()), LoraConfig(**config), autocast_adapter_dtype=False
    )
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2)
    made.save_pretrained(folder)
    return folder


def by_peft(folder: Path) -> PreTrainedModel:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sound()), folder).eval()  # type: ignore[return-value]


@pytest.mark.parametrize("own_tokenizer", [True, False])
@pytest.mark.parametrize("rank", [0, 2])
def test_an_adapter_folder_is_its_base_with_the_adapters(rank: int, own_tokenizer: bool, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = adapter(tmp_path / "adapter")
    if own_tokenizer:
        tiny_models.tokenizer().save_pretrained(folder)
    model, tokens = load_pretrained(ModelSettings(source=str(folder), lora_rank=rank))
    plain = tiny_models.policy()
    prompts = tiny_models.prompts(plain)
    made, theirs = (Policy(each, tokens, plain.labels).eval() for each in (model, by_peft(folder)))
    torch.testing.assert_close(made.log_probs(prompts), theirs.log_probs(prompts), rtol=1e-4, atol=1e-5)
    assert (made.log_probs(prompts).exp() - plain.log_probs(prompts).exp()).abs().max() > 1e-3
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all(("lora_" in name) == bool(rank) for name in trained)
    read, _ = load_pretrained(ModelSettings(source=str(folder)), read_only=True)
    assert not hasattr(read, "peft_config")


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"rank": 3}, ["rank 3", "lora_rank is 2", "lora_rank: 3"]),
        ({"target_modules": ["wte", "c_attn"]}, ["embeddings or the output layer", "Merge it"]),
        ({"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}, ["embeddings or the output layer"]),
        ({"task_type": "SEQ_CLS"}, ["SEQ_CLS"]),
    ],
)
def test_an_adapter_that_cannot_be_trained_on_is_refused(
    config: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    folder = adapter(tmp_path / "adapter", **{key: value for key, value in config.items() if key != "task_type"})
    if "task_type" in config:
        edited("adapter_config.json", **config)(folder)
    with pytest.raises(ModelError) as caught:
        load_pretrained(ModelSettings(source=str(folder), lora_rank=2))
    for part in parts:
        assert part in str(caught.value)


def adapter_weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Change:
    def changed(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return changed


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (edited("adapter_config.json", base_model_name_or_path="/nowhere/base"), ["(/nowhere/base) is not there"]),
        (edited("adapter_config.json", base_model_name_or_path="some/where"), ["(some/where) is not there"]),
        (edited("adapter_config.json", base_model_name_or_path=None), ["does not say of which model"]),
        (edited("adapter_config.json", peft_type="PREFIX_TUNING"), ["could not be loaded"]),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), ["could not be loaded"]),
        (adapter_weights(lambda found: dict(list(found.items())[1:])), ["is missing"]),
        (adapter_weights(lambda found: found | {"extra.weight": torch.ones(2)}), ["extra.weight is more"]),
        (adapter_weights(lambda found: {n: w * float("nan") for n, w in found.items()}), ["not finite"]),
        (
            adapter_weights(lambda found: {n: w[:1] for n, w in found.items()}),
            ["of its adapters, ", "has the shape (1, ", "base_model_name_or_path"],
        ),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"{\x00"), ["could not be loaded"]),
        (lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"), ["pickles"]),
    ],
)
def test_a_damaged_adapter_is_refused(change: Change, parts: list[str], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    change(folder := adapter(tmp_path / "adapter"))
    for rank in (0, 2):
        with pytest.raises(ModelError) as caught:
            load_pretrained(ModelSettings(source=str(folder), lora_rank=rank))
        for part in (str(folder), *parts):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)


# Saved folders of a run


def damaged_policy(folder: Path, damage: str) -> None:
    file = folder / ("heads.safetensors" if damage.startswith("heads") else "reflect_rl.json")
    about = json.loads((folder / "reflect_rl.json").read_text())
    if damage == "heads missing":
        file.unlink()
    elif damage == "heads nan":
        save_file({name: w * float("nan") for name, w in load_file(file).items()}, file)
    elif damage == "heads fewer":
        save_file(dict(list(load_file(file).items())[1:]), file)
    else:
        changes = {
            "no object": [1],
            "label beyond": about | {"labels": {" A": 10**6, " B": 3}},
            "labels of text": about | {"labels": {" A": "x"}},
            "labels a list": about | {"labels": [1, 2]},
            "no key": {},
        }
        file.write_text(json.dumps(changes[damage]))


@pytest.mark.parametrize(
    "damage",
    [
        "heads missing",
        "heads nan",
        "heads fewer",
        "no object",
        "label beyond",
        "labels of text",
        "labels a list",
        "no key",
    ],
)
def test_a_damaged_policy_of_a_run_is_refused(damage: str, tmp_path: Path) -> None:
    made = tiny_models.policy(value=True)
    made.save(tmp_path / "policy")
    damaged_policy(tmp_path / "policy", damage)
    with pytest.raises(ModelError, match="policy"):
        load_policy(tmp_path / "policy", Settings())


@pytest.mark.parametrize("which", ["policy", "reflector"])
def test_a_not_a_number_in_a_runs_own_models_is_refused(which: str, warmed: RunFolder, tiny: Any) -> None:
    from reflect_rl.players.load import load_reflector

    folder = warmed / ("policy-sft" if which == "policy" else "reflector")
    one_number(float("nan"))(folder)
    with pytest.raises(ModelError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight are not finite"):
        load_policy(folder, tiny()) if which == "policy" else load_reflector(warmed, Context(tiny()))


@pytest.fixture(scope="module")
def nan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return derived(tmp_path_factory.mktemp("nan") / "model", one_number(float("nan")))


@pytest.mark.parametrize(
    "command",
    [
        "sft {run} --policy.model.source={model}",
        "sft {run} --reflector.model.source={model}",
        "select {pool} --budget 1 --model {model} --strategy mean-entropy",
        "select {pool} --budget 1 --embed-model {model}",
    ],
)
def test_every_command_refuses_it_alike(command: str, nan: Path, run: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    refused(reflect_rl(*command.format(run=run, pool=pool, model=nan).split()), str(nan), "not finite")
