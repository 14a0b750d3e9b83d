"""Sources of models: GGUF files and packages become folders; what cannot be used is one message."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import tiny_models
from reflect_rl.errors import ModelError
from reflect_rl.lm import sources
from reflect_rl.lm.pretrained import load_pretrained, load_tokenizer, save_model
from reflect_rl.lm.sources import CONVERTED, lasting, located, set_special_tokens
from reflect_rl.lm.text import opening_ids
from reflect_rl.settings import ModelSettings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    return tmp_path / "cache" / "reflect-rl" / "models"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package that must not be imported."""
    folder = tmp_path / "packages" / "tiny_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    return folder


def test_a_package_holds_a_model_folder(package: Path) -> None:
    save_model(tiny_models.llama(), tiny_models.tokenizer(), package / "data" / "model")
    assert located("package:tiny_weights") == str(package / "data" / "model")
    model, tokenizer = load_pretrained(ModelSettings(source="package:tiny_weights", lora_rank=2))
    assert model.peft_config["default"].base_model_name_or_path == "package:tiny_weights"
    assert load_tokenizer("package:tiny_weights").get_vocab() == tokenizer.get_vocab()
    assert "tiny_weights" not in sys.modules


def test_adapters_on_a_package_find_it_again(package: Path, tmp_path: Path) -> None:
    save_model(tiny_models.llama(), tiny_models.tokenizer(), package)
    first, tokenizer = load_pretrained(ModelSettings(source="package:tiny_weights", lora_rank=2))
    with torch.no_grad():
        for name, weight in first.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    save_model(first, tokenizer, tmp_path / "adapter")
    again, _ = load_pretrained(ModelSettings(source=str(tmp_path / "adapter"), lora_rank=2))
    ids_BL = torch.arange(8)[None]
    assert torch.equal(first(ids_BL).logits, again(ids_BL).logits)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("package:no_such_package", "no package no_such_package is installed"),
        ("package:../evil", "no package ../evil is installed"),
        ("package:", "no package  is installed"),
        ("package:json.decoder", "no package json.decoder is installed"),
        ("package:tiny_weights", "the package holds no model"),
        ("./absent.gguf", "There is no model folder ./absent.gguf"),
        ("absent.gguf", "there is no such file"),
    ],
)
def test_what_is_not_there_is_one_message(source: str, said: str, package: Path) -> None:
    for load in (lambda: load_pretrained(ModelSettings(source=source)), lambda: load_tokenizer(source)):
        with pytest.raises(ModelError) as caught:
            load()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_package_with_several_models_is_refused(package: Path) -> None:
    for name in ("one", "two"):
        save_model(tiny_models.llama(), tiny_models.tokenizer(), package / name)
    with pytest.raises(ModelError, match=r"several models \(one, two\)"):
        located("package:tiny_weights")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + bytes(200), b"not a model" * 100])
def test_a_damaged_gguf_file_is_one_message_and_leaves_nothing(content: bytes, tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("gguf")
    file = tmp_path / "damaged.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.gguf' could not be loaded: its GGUF file cannot be read"):
        load_pretrained(ModelSettings(source=str(file)))
    assert not list(cache.iterdir())


def test_special_tokens_are_those_that_the_gguf_file_names(tmp_path: Path) -> None:
    """Those that transformers gives a tokenizer from a GGUF file depend on its version."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_bos_token_id(5)
    writer.add_eos_token_id(6)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = copy.deepcopy(tiny_models.tokenizer())
    kept = tokenizer.pad_token
    assert tokenizer.eos_token_id != 6
    set_special_tokens(tokenizer, tmp_path / "x.gguf")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (5, 6)
    assert tokenizer.pad_token == kept


@pytest.mark.parametrize(
    ("fields", "opens"),
    [
        ({"model": "gpt2", "pre": "smollm"}, False),
        ({"model": "gpt2", "pre": "llama-bpe"}, True),
        ({"model": "llama"}, True),
        ({"model": "llama", "add_bos_token": False}, False),
        ({"model": "gpt2", "pre": "llama-bpe", "add_bos_token": False}, False),
        ({"model": "gpt2", "pre": "smollm", "add_bos_token": True}, True),
    ],
)
def test_texts_begin_as_the_gguf_file_says(fields: dict[str, Any], opens: bool, tmp_path: Path) -> None:
    """Llama 3's files leave it unsaid, and its texts begin with the opening token."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    tokenizer = copy.deepcopy(tiny_models.tokenizer())
    writer.add_bos_token_id(opening := int(tokenizer.eos_token_id or 0))
    for name, value in fields.items():
        (writer.add_bool if isinstance(value, bool) else writer.add_string)(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    set_special_tokens(tokenizer, tmp_path / "x.gguf")
    tokenizer.save_pretrained(tmp_path / "saved")
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert opening_ids(each) == ((opening,) if opens else ())
        assert each.encode("a", add_special_tokens=False) == each.encode("a")[1 if opens else 0 :]


def test_without_gguf_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'reflect-rl\[gguf\]'"):
        located(str(tmp_path / "x.gguf"))


def test_a_gguf_file_is_converted_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def convert(file: Path, folder: Path, source: str) -> None:
        made.append(file)
        save_model(tiny_models.llama(), tiny_models.tokenizer(), folder)
        (folder / CONVERTED).write_text(file.name)

    monkeypatch.setattr(sources, "_convert", convert)
    file = tmp_path / "model.GGUF"
    file.write_bytes(b"one")
    first = located(str(file))
    assert located(str(file)) == first
    assert Path(first).parent == cache
    assert len(made) == 1
    (Path(first) / CONVERTED).unlink()  # an incomplete conversion is made again
    assert located(str(file)) == first
    file.write_bytes(b"two")
    assert located(str(file)) != first
    assert len(made) == 3


def test_a_model_that_another_process_converted_meanwhile_is_left_alone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are mapped into that process, which would read damaged ones, or be killed."""

    def save(folder: Path) -> None:
        save_model(tiny_models.llama(), tiny_models.tokenizer(), folder)
        (folder / CONVERTED).write_text("model.gguf")

    def convert(file: Path, folder: Path, source: str) -> None:
        save(folder)
        monkeypatch.setattr(sources, "_convert", lambda file, folder, source: save(folder))
        theirs.append(Path(located(source)) / "model.safetensors")
        weights.append((theirs[0].stat(), theirs[0].read_bytes()))

    theirs: list[Path] = []
    weights: list[tuple[os.stat_result, bytes]] = []
    monkeypatch.setattr(sources, "_convert", convert)
    (tmp_path / "model.gguf").write_bytes(b"one")
    assert located(str(tmp_path / "model.gguf")) == str(theirs[0].parent)
    before, content = weights[0]
    after = theirs[0].stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert theirs[0].read_bytes() == content
    assert [path.name for path in cache.iterdir()] == [theirs[0].parent.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(ModelError, match="set XDG_CACHE_HOME"):
        located(str(tmp_path / "x.gguf"))


def test_lasting_names_find_the_model_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    names: dict[str, Any] = {"model": str(tmp_path / "model"), "package:x": "package:x", "user/model": "user/model"}
    assert {name: lasting(name) for name in names} == names
